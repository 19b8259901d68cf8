"""Timeouts in seconds and deadlines of time.monotonic(). A timeout of None or infinity is no limit."""

from __future__ import annotations

import enum
import math
import threading
import time
from typing import Any, Optional, Union

from calibd import arguments


class Default(enum.Enum):
    """Stands for a timeout that is said elsewhere."""

    CONNECTION = "the timeout given to connect"


# Of calls that take the connection's where nothing is said.
Timeout = Union[float, None, Default]


def seconds(timeout: Optional[float], name: str = "timeout") -> float:
    """A timeout as a number: infinity where there is no limit. Raises InvalidArgumentError for what is no timeout."""
    if timeout is None:
        return math.inf
    number = arguments.number(name, timeout, "it must be a number of seconds, or None for no limit")
    return number if number < threading.TIMEOUT_MAX else math.inf


def option(name: str, timeout: Any) -> float:
    """As `seconds`, of a timeout that is given long before it is used, and can't be below 0."""
    number = seconds(timeout, name)
    if number < 0:
        raise arguments.refusal(name, timeout, "it must be 0 seconds or more, or None for no limit")
    return number


def deadline_in(timeout: Optional[float]) -> float:
    """When a wait that begins now ends; infinity: never. Raises as `seconds`."""
    return time.monotonic() + seconds(timeout)


def remaining(deadline: float) -> Optional[float]:
    """Seconds until then, at least 0, as waits of `threading` and calls of gRPC take them; None: no limit."""
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())
