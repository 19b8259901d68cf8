"""What a fork asks of gRPC: its own handlers switched on, and nothing under way at that moment.

The package imports this before grpc. gRPC reads GRPC_ENABLE_FORK_SUPPORT when it is imported; without it a child of a
process that has used gRPC can make no call. With it a child can, if no call was running and no channel was open during
the fork (found by trials with grpcio 1.51, 1.80 and 1.85): so connections pause around a fork.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any, List

_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
_imported_too_late = "grpc" in sys.modules and os.environ.get(_VARIABLE, "0") in ("", "0")
os.environ.setdefault(_VARIABLE, "1")


class Forkable:
    """What is told of forks. The methods must not raise, and must end in any case.

    One that is registered while a fork is on its way is told of nothing in the parent, and in the child alone.
    """

    def before_fork(self) -> None:
        """Stops, and waits until it has."""

    def after_fork_in_parent(self) -> None:
        """Goes on."""

    def after_fork_in_child(self) -> None:
        """Begins anew, as nothing of the parent's threads is there."""


class _Forking(threading.local):
    """The forks that a thread is about to do."""

    def __init__(self) -> None:
        self.told: List[List[Forkable]] = []  # what was told of each


# os.register_at_fork takes functions for the life of the process, so that what they work on is kept here.
_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
_lock = threading.Lock()
_installed = False
_forking = _Forking()
# An idle channel, which never connects: gRPC shuts down with its last one, and a fork meanwhile breaks grpcio 1.51.
_idle: Any = None


def register(forkable: Forkable) -> None:
    """Tells `forkable` of forks for as long as it lives, once `install` was called."""
    with _lock:
        _forkables.add(forkable)


def install() -> None:
    """Call it when this process has a gRPC channel.

    gRPC registers handlers of its own with its first channel. Those that are registered later run earlier before a
    fork, and must: gRPC holds its threads from then on, and closing a channel would wait for them for ever.
    """
    global _installed, _idle
    import grpc

    with _lock:
        if _idle is None:
            _idle = grpc.insecure_channel("127.0.0.1:1")
        if not _installed and hasattr(os, "register_at_fork"):  # Windows has no fork
            os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
            _installed = True


def warning() -> str:
    """Why calls of a forked child may fail in this process; "" if they will not."""
    if _imported_too_late:
        return (
            f"gRPC was imported before calibd and without {_VARIABLE}=1, so calls of forked processes may fail: "
            "import calibd first, or set that variable"
        )
    if os.environ.get(_VARIABLE) == "0":
        return f"{_VARIABLE}=0 is set, so calls of forked processes may fail: set it to 1"
    return ""


def _before() -> None:
    with _lock:
        forkables = list(_forkables)
    _forking.told.append(forkables)
    for forkable in forkables:
        forkable.before_fork()


def _after_in_parent() -> None:
    # There is none if _before was registered after this fork had begun.
    for forkable in _forking.told.pop() if _forking.told else ():
        forkable.after_fork_in_parent()


def _after_in_child() -> None:
    global _idle, _lock
    _idle, _lock = None, threading.Lock()
    _forking.told.clear()
    for forkable in list(_forkables):
        forkable.after_fork_in_child()
