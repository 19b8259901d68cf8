"""Giving a session what was counted, again if it can't take it for now."""

from __future__ import annotations

import threading
from typing import Any, Callable, Deque, Dict, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calibd.errors import CalibdError, Meaning, can_reopen_after, meaning
from calibd.observer import Observer
from calibd.session import Session
from calibd.statistics import TensorStatistics


class _Item(NamedTuple):
    call: Callable[..., None]
    layer: str
    arguments: Tuple[Any, ...]
    is_step: bool


class Delivery:
    """Keeps statistics until a session took or refused them. Thread-safe.

    What is kept of a layer merges, so that it stays small however long a server is away; but for steps of layers whose
    observer depends on order, which are given in the order in which they came.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._giving = threading.Lock()  # held while the session is called, which may wait for a server
        self._lock = threading.Lock()
        self._merged: Dict[Tuple[str, int], TensorStatistics] = {}  # by layer and channels
        self._steps: Deque[_Item] = Deque()
        self._error: Optional[CalibdError] = None
        self._failure: Optional[CalibdError] = None

    @property
    def error(self) -> Optional[CalibdError]:
        """The first error with which the session refused something, which was dropped then."""
        return self._error

    @property
    def failure(self) -> Optional[CalibdError]:
        """Why the last `give` could not give everything yet: the server can't be reached, say. None: it did."""
        return self._failure

    def keep(self, layer: str, statistics: TensorStatistics, observer: Observer) -> None:
        """To be given by the next `give`. Takes the statistics over. observer: the layer's."""
        with self._lock:
            if observer.depends_on_order:
                self._steps.append(_Item(self._session.observe_statistics, layer, (statistics,), True))
            else:
                self._merge(layer, statistics)

    def keep_array(self, layer: str, array: npt.NDArray[Any], dtype: Optional[str]) -> None:
        """As keep, of a step's values, for Session.observe. Copies them."""
        with self._lock:
            self._steps.append(_Item(self._session.observe, layer, (np.array(array), dtype), True))

    def offer(self) -> None:
        """give, unless the last one failed: another try may take as long as a server is waited for."""
        if self._failure is None:
            self.give()

    def give(self) -> None:
        """Gives the session all that is kept, up to the first thing that it can't take for now. See `failure`."""
        while self._give_one():
            pass

    def _give_one(self) -> bool:
        """False: nothing is left, or it can't be given for now."""
        with self._giving:
            with self._lock:
                item = self._take()
                if item is None:
                    self._failure = None
                    return False
            try:
                item.call(item.layer, *item.arguments)
            except CalibdError as error:
                if _may_pass(error):
                    self._put_back(item)
                    self._failure = error
                    return False
                self._error = self._error or error
            except BaseException:
                self._put_back(item)
                raise
            return True

    def _take(self) -> Optional[_Item]:
        if self._merged:
            (layer, _), statistics = self._merged.popitem()
            return _Item(self._session.observe_statistics, layer, (statistics,), False)
        return self._steps.popleft() if self._steps else None

    def _put_back(self, item: _Item) -> None:
        with self._lock:
            if item.is_step:
                self._steps.appendleft(item)
            else:
                self._merge(item.layer, *item.arguments)

    def _merge(self, layer: str, statistics: TensorStatistics) -> None:
        kept = self._merged.setdefault((layer, statistics.channels), statistics)
        if kept is not statistics:
            kept.merge(statistics)


def _may_pass(error: CalibdError) -> bool:
    """Whether the same may be taken later: it is no word about the data, nor the end of the session or worker."""
    return meaning(error) is Meaning.TRY_AGAIN or (can_reopen_after(error) and "layer" not in error.metadata)
