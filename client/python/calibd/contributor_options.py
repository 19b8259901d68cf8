"""What the options of workers and ranks may be, checked before anything is opened."""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, Optional

from calibd import arguments, deadline

_MAX_BYTES = (1 << 63) - 1


def check_options(**options: Any) -> None:
    """Raises InvalidArgumentError for an option that a Worker or Rank can't have, by its name there."""
    for name, value in options.items():
        _CHECKS[name](name, value)


def check_rank(rank: Any) -> int:
    """A rank's number. Raises InvalidArgumentError (RANK_INVALID)."""
    return arguments.whole_number("rank", rank, 0, (1 << 32) - 1, "RANK_INVALID")


def _check_worker_id(name: str, value: Optional[str]) -> None:
    if value is not None:
        arguments.text(name, value, "it must be a str, or None for a random one")


def _check_interval(name: str, value: float) -> None:
    what = "it must be a number of seconds, 0 or more"
    if not 0 <= arguments.number(name, value, what) <= threading.TIMEOUT_MAX:
        raise arguments.refusal(name, value, what)


def _check_bytes(name: str, value: int) -> None:
    arguments.whole_number(name, value, 0, _MAX_BYTES)


_CHECKS: Dict[str, Callable[[str, Any], Any]] = {
    "worker_id": _check_worker_id,
    "display_name": arguments.text,
    "send_interval": _check_interval,
    "updates_in_flight": lambda name, value: arguments.whole_number(name, value, 1, 1 << 30),
    "raw_window_bytes": _check_bytes,
    "min_backoff": _check_interval,
    "max_backoff": _check_interval,
    "kept_bytes": _check_bytes,
    "max_message_bytes": _check_bytes,
    "open_timeout": deadline.option,
}
