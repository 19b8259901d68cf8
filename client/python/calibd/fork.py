"""What a fork asks of gRPC: its own handlers switched on, and nothing under way at that moment.

The package imports this before grpc. gRPC reads GRPC_ENABLE_FORK_SUPPORT when it is imported; without it a child of a
process that has used gRPC can make no call. With it a child can, if no call was running and no channel was open during
the fork (found by trials with grpcio 1.80 and 1.85): so connections pause around a fork.

In grpcio 1.51 that support makes forks hang now and then, the parent's too. So older ones than 1.80 get none: the
parent goes on as if nothing had happened, and a child's calls are refused, if the parent had made one before.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import threading
import weakref
from typing import Any, List, Tuple

_VARIABLE = "GRPC_ENABLE_FORK_SUPPORT"
_OLDEST = (1, 80)  # grpcio whose support for forks is used


def _grpcio_version() -> Tuple[int, ...]:
    try:
        return tuple(int(part) for part in importlib.metadata.version("grpcio").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):  # made by hand: a new one, most likely
        return _OLDEST


#: Whether children of a process that has made calls can make calls.
SUPPORTED = _grpcio_version() >= _OLDEST
_imported_too_late = "grpc" in sys.modules and os.environ.get(_VARIABLE, "0") in ("", "0")
if SUPPORTED:
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
_parent_has_called = False
_forking = _Forking()
# An idle channel, which never connects: gRPC shuts down with its last one, and a fork meanwhile breaks grpcio 1.51.
_idle: Any = None
_kept: List[Any] = []


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
        if SUPPORTED and _idle is None:
            _idle = grpc.insecure_channel("127.0.0.1:1")
        if _installed or not hasattr(os, "register_at_fork"):  # Windows has no fork
            return
        _installed = True
        if SUPPORTED:
            os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
        else:
            os.register_at_fork(after_in_child=_after_in_child)


def keep(inherited: Any) -> None:
    """Keeps what a child inherited of gRPC and can't end, as its threads are not there, for as long as it lives."""
    _kept.append(inherited)


def refusal() -> str:
    """Why this process, a forked child, can make no call; "" if it can."""
    if SUPPORTED or not _parent_has_called:
        return ""
    version = ".".join(str(part) for part in _grpcio_version())
    return (
        f"with grpcio {version} a forked process can make no call when its parent had made one: use "
        f"{'.'.join(str(part) for part in _OLDEST)} or newer, start processes by spawn or forkserver, or fork before "
        "the first call"
    )


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
    global _idle, _lock, _parent_has_called
    _idle, _lock, _parent_has_called = None, threading.Lock(), True
    _forking.told.clear()
    for forkable in list(_forkables):
        forkable.after_fork_in_child()
