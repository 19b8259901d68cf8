"""Counting tensors by layer where they are, and handing the statistics to a session now and then."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import threading
import warnings
from multiprocessing.util import Finalize
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import torch

from calibd.config import SessionConfig
from calibd.errors import CalibdError, make_error
from calibd.observer import Observer
from calibd.session import Session
from calibd.torch import kernels
from calibd.torch.device_counter import DeviceCounter
from calibd.torch.host_counter import HostCounter

_EXIT_TIMEOUT = 5.0  # seconds

# Layer, dtype, device, stream (of CUDA), channels: what one counter counts, or one step of it.
_Key = Tuple[str, torch.dtype, torch.device, Any, int]


class Collector:
    """What modules and observers of a process count for one session.

    observe neither waits for a device nor for the network: counts stay on the tensor's device until a thread of the
    collector brings them to the host, every `interval` seconds, and gives them to the session. Exceptions to that: the
    first layer waits for the session's config and worker; for reference histograms, and histograms of more than
    kernels.MOST_DEVICE_CHANNELS channels, tensors are copied to the host at once; and `device_bytes` may be full.

    After a fork the child begins anew, without what the parent has not handed over yet. Thread-safe.
    """

    def __init__(
        self,
        session: Session,
        *,
        interval: float = 2.0,
        on_device: Optional[bool] = None,
        device_bytes: int = 512 << 20,
    ) -> None:
        """interval: seconds between hand-overs.

        on_device: as kernels.make_counter has it.
        device_bytes: most that histograms take on all devices together, each half a megabyte a channel. When there is
            no room for one more, observe hands over first and waits for it; a tensor that fits not even then is
            counted on the host.
        """
        self._session = session
        self._interval = interval
        self._on_device = on_device
        self._device_bytes = device_bytes
        self._observers: Dict[str, Optional[Observer]] = {}
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._handing_over = threading.Lock()
        self._counters: Dict[_Key, kernels.Counter] = {}
        self._steps: List[Tuple[_Key, kernels.Counter]] = []
        self._held_bytes = 0  # of device_bytes, what is being handed over included
        self._streams: Dict[torch.device, Any] = {}
        self._thread: Optional[threading.Thread] = None
        self._stop = threading.Event()
        self._kept: List[Tuple[_Key, kernels.Counter]] = []  # of hand-overs that failed
        self._error: Optional[CalibdError] = None
        self._failure: Optional[CalibdError] = None  # of the last hand-over

    @property
    def error(self) -> Optional[CalibdError]:
        """The first error that the session answered with, or why the last hand-over failed, if any.

        A hand-over fails when counts can't be brought to the host, such as when a device has no memory for it. They are
        kept then, and the next hand-over gives them.
        """
        return self._error or self._failure

    def config(self) -> SessionConfig:
        """The session's, which never changes. The first call asks the server."""
        config: SessionConfig = self._session.config
        return config

    def observer_of(self, layer: str) -> Optional[Observer]:
        """How the session observes a layer; None: it takes no values of it."""
        if layer not in self._observers:
            found = self.config().observer_of(layer)
            self._observers[layer] = None if found is None or found.kind == "passive" else found
        return self._observers[layer]

    def observe(self, layer: str, tensor: torch.Tensor, *, once: bool = False) -> bool:
        """Counts a tensor; False when the session takes no values of this layer.

        once: no more tensors of the layer follow, as of a weight: it is counted on the host, at once.

        InvalidArgumentError: as kernels.check. Errors of the session come from hand_over and close.
        """
        observer = self.observer_of(layer)
        if observer is None:
            return False
        try:
            kernels.check(tensor, observer)
        except CalibdError as error:
            raise type(error)(f"layer {layer!r}: {error}") from None
        if self._pid != os.getpid():
            self._begin()
        if observer.kind == "reference_histogram":
            self._give(self._session.observe, layer, *kernels.host_array(tensor))
        elif once or not self._count(layer, tensor, observer):
            statistics = kernels.observe_on_host(tensor, observer, self._mantissa_bits())
            self._give(self._session.observe_statistics, layer, statistics)
        return True

    def _count(self, layer: str, tensor: torch.Tensor, observer: Observer) -> bool:
        """False: this tensor is not for a counter."""
        device = tensor.device
        stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        key = (layer, tensor.dtype, device, stream, kernels.channels_of(tensor, observer))
        needed = kernels.device_bytes(tensor, observer, on_device=self._on_device)
        self._open()
        if self._add(key, tensor, observer, needed):
            return True
        if not 0 < needed <= self._device_bytes:
            return False
        self._hand_over()  # makes room
        return self._add(key, tensor, observer, needed)

    def _add(self, key: _Key, tensor: torch.Tensor, observer: Observer, needed: int) -> bool:
        """To a counter, which may be a new one. False: the tensor is not for one, or there is no room."""
        with self._lock:
            counter = None if observer.depends_on_order else self._counters.get(key)
            if counter is None:
                if needed > 0 and self._held_bytes + needed > self._device_bytes:
                    return False
                counter = kernels.make_counter(tensor, observer, on_device=self._on_device)
                if counter is None:
                    return False
                if observer.depends_on_order:
                    self._steps.append((key, counter))
                else:
                    self._counters[key] = counter
                self._held_bytes += needed
                self._start()
            kernels.add(counter, tensor, observer)
        return True

    def _open(self) -> None:
        # Before _start: the session's own function for the end of the process has to run after the collector's, and
        # the worker's threads can't be started that late. Other sessions, in this process, have neither.
        if self._thread is None and isinstance(self._session, Session):
            self._give(self._session.open)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._stop,), name="calibd-collector", daemon=True)
            self._thread.start()
            self._at_exit = _at_exit(self._finish)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._interval):
            self._hand_over()

    def hand_over(self) -> None:
        """Gives all that was counted so far to the session, on this thread. Raises `error`, if there is one."""
        if self._pid == os.getpid():
            self._hand_over()
        error = self.error
        if error is not None:
            raise error

    def close(self) -> None:
        """hand_over, and ends the thread. Observing goes on to be possible. After a failure it can be repeated."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            self._stop.set()
            thread.join()
            self._stop = threading.Event()
            self._at_exit()
        self.hand_over()

    def _hand_over(self) -> None:
        with self._handing_over:
            with self._lock:
                taken = [*self._kept, *self._counters.items(), *self._steps]
                self._kept, self._counters, self._steps = [], {}, []
            given = 0
            try:
                for part in _by_transfer(taken):
                    with self._beside(part):
                        found = kernels.collect([counter for _, counter in part], self._mantissa_bits())
                    for (key, _), statistics in zip(part, found):
                        self._give(self._session.observe_statistics, key[0], statistics)
                        given += 1
                self._failure = None
            except Exception as error:
                self._failure = make_error("INTERNAL", f"what was counted cannot be handed over: {error!r}")
                self._failure.__cause__ = error
            finally:
                with self._lock:
                    self._held_bytes -= sum(_device_bytes(counter) for _, counter in taken[:given])
                    self._put_back(taken[given:])

    def _put_back(self, taken: Sequence[Tuple[_Key, kernels.Counter]]) -> None:
        for key, counter in taken:
            observer = self.observer_of(key[0])
            if observer is not None and observer.depends_on_order:
                self._kept.append((key, counter))  # before the steps that came since
            elif self._counters.setdefault(key, counter) is not counter:
                self._kept.append((key, counter))

    def _finish(self) -> None:
        """For the end of the process. The session may have ended before: what it is given now, it has to flush."""
        try:
            self.hand_over()
            self._session.flush(_EXIT_TIMEOUT)
        except CalibdError as error:
            warnings.warn(
                f"calibd: the process ends and what was observed last may be lost; close the watcher before: {error}",
                RuntimeWarning,
                stacklevel=1,
            )

    def _give(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except CalibdError as error:
            self._error = self._error or error

    def _mantissa_bits(self) -> int:
        return self.config().mantissa_bits or 7

    @contextlib.contextmanager
    def _beside(self, part: Sequence[Tuple[_Key, kernels.Counter]]) -> Iterator[None]:
        """Work goes to a stream of its own, behind what was enqueued on the streams of these counters."""
        (_, _, device, _, _), _ = part[0]
        if device.type != "cuda":
            yield
            return
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        own = self._streams[device]
        for stream in {key[3] for key, _ in part}:
            own.wait_event(stream.record_event())
        with torch.cuda.stream(own):
            yield


def _device_bytes(counter: kernels.Counter) -> int:
    return 8 * counter.elements_held if isinstance(counter, DeviceCounter) else 0


def _at_exit(finish: Callable[[], None]) -> Callable[[], None]:
    """Calls it when this process ends; returns what undoes that."""
    if multiprocessing.parent_process() is not None:
        # Children of multiprocessing leave without atexit's functions, but not without these.
        return Finalize(None, finish, exitpriority=200).cancel
    pid = os.getpid()

    def at_exit() -> None:
        if os.getpid() == pid:  # and not in a forked child
            finish()

    atexit.register(at_exit)
    return lambda: atexit.unregister(at_exit)


def _by_transfer(
    taken: Sequence[Tuple[_Key, kernels.Counter]], most: int = 1 << 23
) -> Iterator[List[Tuple[_Key, kernels.Counter]]]:
    """Runs of counters of one device that have at most `most` numbers, but for a single one."""
    part: List[Tuple[_Key, kernels.Counter]] = []
    held = 0
    for key, counter in taken:
        size = 0 if isinstance(counter, HostCounter) else counter.elements_held
        if part and (part[0][0][2] != key[2] or held + size > most):
            yield part
            part, held = [], 0
        part.append((key, counter))
        held += size
    if part:
        yield part
