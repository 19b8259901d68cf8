"""What the streams of workers and ranks have in common: one Observe call, from Open on."""

from __future__ import annotations

import math
import time
from typing import Any, Optional

from calibd.config import SessionConfig
from calibd.errors import CalibdError, UnavailableError, make_error
from calibd.rpc import observe_pb2

# A server that takes a connection and then says nothing is given up after this many seconds.
WELCOME_TIMEOUT = 20.0
# A stream that lived this long shows that the server is well: the next wait begins from the least again.
STEADY_STREAM = 10.0


class ObserveCall:
    """Guarded by the lock of the stream that it is of."""

    def __init__(self) -> None:
        self.call: Any = None  # gRPC's
        self.progressed = False  # something was acknowledged or answered
        self.over = False
        self.problem: Optional[CalibdError] = None  # why this side gave it up
        self._welcome_time = math.inf  # a wait for a server that is away is no part of the stream

    @property
    def welcomed(self) -> bool:
        return self._welcome_time < math.inf

    @property
    def shows_that_the_server_is_well(self) -> bool:
        return self.progressed or time.monotonic() - self._welcome_time >= STEADY_STREAM

    def take_welcome(self) -> None:
        self._welcome_time = time.monotonic()

    def give_up(self, problem: Optional[CalibdError] = None) -> None:
        self.problem = self.problem or problem
        if self.call is not None:
            self.call.cancel()


def no_welcome(target: str) -> CalibdError:
    """The problem of a call whose Open was not answered."""
    return UnavailableError(f"calibd at {target} did not answer Open in {WELCOME_TIMEOUT:g} seconds")


def config_of(
    welcome: observe_pb2.Welcome, session: str, earlier: Optional[SessionConfig], client: str
) -> SessionConfig:
    """The session's config. Raises SESSION_CONFIG_MISMATCH when it is not the earlier one: the `client`, a worker or
    rank, has to end."""
    config = SessionConfig.from_proto(welcome.config)
    if earlier is not None and config != earlier:
        raise make_error(
            "ALREADY_EXISTS",
            f"session {session} was deleted and made again with another config; open a new {client}",
            "SESSION_CONFIG_MISMATCH",
        )
    return config
