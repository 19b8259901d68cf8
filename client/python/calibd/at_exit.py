"""What has to be sent before the process ends."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import threading
import time
import warnings
from typing import Dict, Optional, Protocol, Tuple

from calibd import fork
from calibd.deadline import remaining
from calibd.errors import CalibdError


class Closable(Protocol):
    """A worker or rank."""

    def close(self, timeout: Optional[float] = ...) -> None:
        """Makes everything durable and ends."""


class _Exit(fork.Forkable):
    """The workers of this process that are open."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._open: Dict[int, Tuple[str, Closable, float]] = {}
        self._registered = False

    def add(self, session: str, closable: Closable, timeout: float) -> None:
        with self._lock:
            if not self._registered:
                self._register()
                self._registered = True
            self._open[id(closable)] = (session, closable, timeout)

    def remove(self, closable: Closable) -> None:
        with self._lock:
            self._open.pop(id(closable), None)

    def close(self) -> None:
        with self._lock:
            entries = list(self._open.values())
            self._open.clear()
        begin = time.monotonic()
        for session, closable, timeout in entries:
            try:
                closable.close(timeout=remaining(begin + timeout))
            except CalibdError as error:
                warnings.warn(
                    f"calibd: the process ends and what it observed last for session {session} may be lost; call "
                    f"flush or close before: {error}",
                    RuntimeWarning,
                    stacklevel=1,
                )

    def after_fork_in_child(self) -> None:
        self._begin()

    def _register(self) -> None:
        fork.register(self)
        if multiprocessing.parent_process() is None:
            pid = os.getpid()
            atexit.register(lambda: self.close() if os.getpid() == pid else None)
        else:
            # Children of multiprocessing leave without atexit's functions, but not without these.
            from multiprocessing.util import Finalize

            Finalize(self, self.close, exitpriority=100)


# As atexit has one list for the process.
_exit = _Exit()


def add(session: str, closable: Closable, timeout: float) -> None:
    """Closes `closable` when the process exits in order, within `timeout` seconds, which may be infinity; warns of what
    is lost then. Once more: another timeout."""
    _exit.add(session, closable, timeout)


def remove(closable: Closable) -> None:
    """It is closed."""
    _exit.remove(closable)
