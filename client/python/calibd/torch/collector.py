"""Counting tensors by layer where they are, and handing the statistics to a session now and then."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import threading
import warnings
from multiprocessing.util import Finalize
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch

from calibd import fork
from calibd.config import SessionConfig
from calibd.errors import CalibdError, make_error
from calibd.observer import Observer
from calibd.session import Session
from calibd.torch import kernels
from calibd.torch.counter_table import Counted, CounterTable
from calibd.torch.delivery import Delivery
from calibd.torch.host_counter import HostCounter

_EXIT_TIMEOUT = 5.0  # seconds


class Collector(fork.Forkable):
    """What modules and observers of a process count for one session.

    observe neither waits for a device nor for the network: counts stay on the tensor's device until a thread of the
    collector brings them to the host, every `interval` seconds, and gives them to the session. Exceptions to that: the
    first layer waits for the session's config and worker; for reference histograms, and histograms of more than
    kernels.MOST_DEVICE_CHANNELS channels, tensors are copied to the host at once; steps of observers that depend on
    order, and that are counted on the host, wait for the session as Session.observe does; and `device_bytes` may be
    full.

    What the session can't take for now is kept, and given by the next hand-over.

    After a fork the child begins anew, without what the parent has not handed over yet. Thread-safe, but no signal
    handler may call it: what it interrupts may hold a lock.
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
        fork.register(self)

    def after_fork_in_child(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._starting = threading.Lock()
        self._handing_over = threading.Lock()
        self._table = CounterTable(self._on_device, self._device_bytes)
        self._delivery = Delivery(self._session)
        self._streams: Dict[torch.device, Any] = {}
        self._thread: Optional[threading.Thread] = None
        self._stop = threading.Event()  # of that thread
        self._exiting = False
        self._failure: Optional[CalibdError] = None  # of the last hand-over, to bring counts to the host

    @property
    def error(self) -> Optional[CalibdError]:
        """The first error with which the session refused something, if any: what was refused is dropped."""
        return self._delivery.error

    @property
    def failure(self) -> Optional[CalibdError]:
        """Why the last hand-over could not give everything, if so. It is kept then, and the next one gives it.

        Such as that the server can't be reached before the session is open, or that a device has no memory to bring
        counts to the host.
        """
        return self._failure or self._delivery.failure

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
        if observer.kind == "reference_histogram":
            self._delivery.keep_array(layer, *kernels.host_array(tensor))
            self._delivery.give()
        elif once or not self._count(layer, tensor, observer):
            self._delivery.keep(layer, kernels.observe_on_host(tensor, observer, self._mantissa_bits()), observer)
            # Steps wait for the server, as in Worker.observe: there is no end to what they take.
            (self._delivery.give if observer.depends_on_order else self._delivery.offer)()
        if self._delivery.failure is not None:
            self._start()  # which tries again
        return True

    def _count(self, layer: str, tensor: torch.Tensor, observer: Observer) -> bool:
        """False: this tensor is not for a counter."""
        self._open()
        self._start()
        if self._table.add(layer, tensor, observer):
            return True
        if not self._table.would_fit(tensor, observer):
            return False
        self._hand_over()  # makes room
        return self._table.add(layer, tensor, observer)

    def _open(self) -> None:
        # Before _start: the session's own function for the end of the process has to run after the collector's, and
        # the worker's threads can't be started that late. Other sessions, in this process, have neither.
        if self._thread is None and isinstance(self._session, Session):
            with contextlib.suppress(CalibdError):  # a hand-over meets it too
                self._session.open()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._stop = threading.Event()
                self._thread = threading.Thread(
                    target=self._run, args=(self._stop,), name="calibd-collector", daemon=True
                )
                self._thread.start()
                self._at_exit = _at_exit(self._finish)

    def _run(self, stop: threading.Event) -> None:
        while not stop.wait(self._interval):
            self._hand_over()
        if self._exiting:
            self._hand_over()

    def hand_over(self) -> None:
        """Gives all that was counted so far to the session, on this thread. Raises `error`, or else `failure`."""
        self._hand_over()
        if self.error is not None:
            raise self.error
        failure = self.failure
        if failure is not None:
            message = f"{failure}; what was observed is kept, and given when this is called again"
            raise make_error(failure.code, message, failure.reason, failure.metadata) from failure

    def close(self) -> None:
        """hand_over, and ends the thread. Observing goes on to be possible. After a failure it can be repeated."""
        with self._starting:  # others may observe meanwhile, and start another one
            thread, self._thread = self._thread, None
            if thread is not None:
                self._stop.set()
                self._at_exit()
        if thread is not None:
            thread.join()
        self.hand_over()

    def _hand_over(self) -> None:
        with self._handing_over:
            taken = self._table.take()
            collected = 0
            try:
                self._delivery.give()
                for part in _by_transfer(taken):
                    with self._beside(part):
                        found = kernels.collect([counted.counter for counted in part], self._mantissa_bits())
                    for counted, statistics in zip(part, found):
                        self._delivery.keep(counted.key.layer, statistics, counted.observer)
                        collected += 1
                    self._delivery.offer()
                self._failure = None
            except Exception as error:
                self._failure = make_error("INTERNAL", f"what was counted cannot be handed over: {error!r}")
                self._failure.__cause__ = error
            finally:
                self._table.release(taken[:collected])
                self._table.put_back(taken[collected:])

    def _finish(self) -> None:
        """For the end of the process. The session may have ended before: what it is given now, it has to flush."""
        thread = self._thread
        if thread is not None:  # which can be left behind, if the session has no room and its server is away
            self._exiting = True
            self._stop.set()
            thread.join(_EXIT_TIMEOUT)
        problem = self.failure
        if thread is not None and thread.is_alive():
            problem = make_error("DEADLINE_EXCEEDED", f"the session has not taken it within {_EXIT_TIMEOUT:g} seconds")
        try:
            if problem is None:  # else there is no server
                self._session.flush(_EXIT_TIMEOUT)
        except CalibdError as error:
            problem = error
        problem = self.error or problem
        if problem is not None:
            warnings.warn(
                f"calibd: the process ends and what was observed last may be lost; close the watcher before: {problem}",
                RuntimeWarning,
                stacklevel=1,
            )

    def _mantissa_bits(self) -> int:
        return self.config().mantissa_bits or 7

    @contextlib.contextmanager
    def _beside(self, part: Sequence[Counted]) -> Iterator[None]:
        """Work goes to a stream of its own, behind what was enqueued on the streams of these counters."""
        device = part[0].key.device
        if device.type != "cuda":
            yield
            return
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        own = self._streams[device]
        for stream in {counted.key.stream for counted in part}:
            own.wait_event(stream.record_event())
        with torch.cuda.stream(own):
            yield


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


def _by_transfer(taken: Sequence[Counted], most: int = 1 << 23) -> Iterator[List[Counted]]:
    """Runs of counters of one device that have at most `most` numbers, but for a single one."""
    part: List[Counted] = []
    held = 0
    for counted in taken:
        size = 0 if isinstance(counted.counter, HostCounter) else counted.counter.elements_held
        if part and (part[0].key.device != counted.key.device or held + size > most):
            yield part
            part, held = [], 0
        part.append(counted)
        held += size
    if part:
        yield part
