"""The layers of a session as one rank of synchronous steps numbers them."""

from __future__ import annotations

import dataclasses
from typing import Callable, Dict, List, Optional

from calibd import config
from calibd.layer_name import check_layer_name


@dataclasses.dataclass(frozen=True, eq=False)
class StepLayerInfo:
    """A layer that takes part in synchronous steps, or is left out of them (skipped, passive). Compares by identity."""

    name: str
    number: Optional[int]  # of those that take part; None for one that is left out
    observer: Optional[config.Observer]  # None for one that is left out

    @property
    def left_out(self) -> bool:
        return self.number is None


class StepLayers:
    """Numbers layers in the order of their first use; a number is the layer's handle on every stream. Not thread-safe.

    `observer_of` tells a layer's observer, None for one that is skipped."""

    def __init__(self, observer_of: Callable[[str], Optional[config.Observer]]) -> None:
        self._observer_of = observer_of
        self._by_name: Dict[str, StepLayerInfo] = {}
        self._names: List[str] = []

    def find(self, name: str) -> StepLayerInfo:
        """The layer of this name, new if need be. Raises LAYER_NAME_INVALID."""
        info = self._by_name.get(name)
        if info is None:
            check_layer_name(name)
            observer = self._observer_of(name)
            if observer is None or observer.kind == "passive":
                info = StepLayerInfo(name, None, None)
            else:
                info = StepLayerInfo(name, len(self._names), observer)
                self._names.append(name)
            self._by_name[name] = info
        return info

    def __len__(self) -> int:
        """How many have a number."""
        return len(self._names)

    def name(self, number: int) -> str:
        return self._names[number]

    def truncate(self, size: int) -> None:
        """Forgets those from number `size` on, whose numbers others may get. Requires size <= len(self)."""
        for name in self._names[size:]:
            del self._by_name[name]
        del self._names[size:]
