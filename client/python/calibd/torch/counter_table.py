"""Counters by what they count, in bounded memory of devices."""

from __future__ import annotations

import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch

from calibd.observer import Observer
from calibd.torch import kernels
from calibd.torch.device_counter import DeviceCounter


class Key(NamedTuple):
    """What one counter counts."""

    layer: str
    dtype: torch.dtype
    device: torch.device
    stream: Any  # of CUDA
    channels: int


class Counted(NamedTuple):
    """A counter that was taken."""

    key: Key
    counter: kernels.Counter
    observer: Observer


class CounterTable:
    """One counter a key; of observers that depend on order, one a tensor. Thread-safe."""

    def __init__(self, on_device: Optional[bool], device_bytes: int) -> None:
        """on_device: as kernels.make_counter has it. device_bytes: most that histograms take on all devices together,
        those included that were taken and not released.
        """
        self._on_device = on_device
        self._device_bytes = device_bytes
        self._lock = threading.Lock()
        self._counters: Dict[Key, Counted] = {}
        self._steps: List[Counted] = []
        self._returned: List[Counted] = []
        self._held_bytes = 0

    def add(self, layer: str, tensor: torch.Tensor, observer: Observer) -> bool:
        """Counts a tensor, by a new counter if need be. False: it is not for a counter, or there is no room."""
        device = tensor.device
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        key = Key(layer, tensor.dtype, device, stream, kernels.channels_of(tensor, observer))
        with self._lock:
            counted = None if observer.depends_on_order else self._counters.get(key)
            if counted is None:
                needed = self._needed(tensor, observer)
                if needed > 0 and self._held_bytes + needed > self._device_bytes:
                    return False
                counter = kernels.make_counter(tensor, observer, on_device=self._on_device)
                if counter is None:
                    return False
                counted = Counted(key, counter, observer)
                if observer.depends_on_order:
                    self._steps.append(counted)
                else:
                    self._counters[key] = counted
                self._held_bytes += needed
            kernels.add(counted.counter, tensor, observer)
        return True

    def would_fit(self, tensor: torch.Tensor, observer: Observer) -> bool:
        """Whether there is room for a counter of this tensor once all others are released; False: it takes none."""
        return 0 < self._needed(tensor, observer) <= self._device_bytes

    def take(self) -> List[Counted]:
        """Removes all counters. Steps of a layer are in the order in which they came."""
        with self._lock:
            taken = [*self._returned, *self._counters.values(), *self._steps]
            self._returned, self._counters, self._steps = [], {}, []
        return taken

    def release(self, counted: Sequence[Counted]) -> None:
        """Their memory is free for others."""
        with self._lock:
            self._held_bytes -= sum(_device_bytes(counter) for _, counter, _ in counted)

    def put_back(self, counted: Sequence[Counted]) -> None:
        """The next take has them again, before what came since."""
        with self._lock:
            for one in counted:
                if one.observer.depends_on_order or self._counters.setdefault(one.key, one) is not one:
                    self._returned.append(one)

    def _needed(self, tensor: torch.Tensor, observer: Observer) -> int:
        return kernels.device_bytes(tensor, observer, on_device=self._on_device)


def _device_bytes(counter: kernels.Counter) -> int:
    return 8 * counter.elements_held if isinstance(counter, DeviceCounter) else 0
