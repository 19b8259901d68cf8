"""Asking a server to make what it took durable."""

from __future__ import annotations

import threading
import time

from calibd.channel import Connection
from calibd.errors import CalibdError
from calibd.rpc import calibration_service_pb2

# Seconds between two requests, and what one may take.
_INTERVAL = 1.0
_TIMEOUT = 10.0


def await_durability(
    connection: Connection, session: str, progress: threading.Condition, deadline: float, next_request: float
) -> float:
    """Asks the server to make what it took of the session durable, without the lock of `progress`, which is held
    otherwise; or, before the time `next_request`, waits for progress. Only a hint: an Ack says what is durable.

    Returns the time for the next request. Times are of time.monotonic(); a `next_request` of 0 asks at once."""
    now = time.monotonic()
    if now < next_request:
        progress.wait(max(0.0, min(deadline, next_request) - now))
        return next_request
    request = calibration_service_pb2.FlushRequest(session=session)
    progress.release()
    try:
        connection.unary("Flush", request, max(0.0, min(deadline - now, _TIMEOUT)))
    except CalibdError:
        pass
    finally:
        progress.acquire()
    return now + _INTERVAL
