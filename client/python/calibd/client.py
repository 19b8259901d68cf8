"""A server, and the sessions that it has."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Callable, List, Optional, Sequence, Set, Type, Union

import grpc
from google.protobuf import wrappers_pb2

from calibd.channel import Connection, Metadata
from calibd.config import Rule, SessionConfig, Synchronous
from calibd.contribution import Contribution
from calibd.errors import CalibdError, DeadlineExceededError, InvalidArgumentError, UnavailableError
from calibd.info import SessionInfo
from calibd.observer import Observer
from calibd.rpc import Calls
from calibd.rpc import calibration_service_pb2 as pb
from calibd.session import Session

_DEFAULT_TARGET = "127.0.0.1:7070"
_SERVING = 1


def connect(
    target: Optional[str] = None,
    *,
    credentials: Optional[grpc.ChannelCredentials] = None,
    metadata: Union[Metadata, Callable[[], Metadata]] = (),
    options: Sequence[Any] = (),
    timeout: float = 30.0,
    exit_timeout: float = 5.0,
) -> Client:
    """A client of the server at `target`. Connects on first use, in each process anew.

    Args:
        target: HOST:PORT; None: the environment's CALIBD_SERVER, or 127.0.0.1:7070.
        credentials: None for plain text.
        metadata: (lower-case key, value) pairs sent with every call, or a function that yields them for each call.
            When it raises, a call fails with UnavailableError, and what observes tries again later.
        options: gRPC channel options that replace or join calibd's own.
        timeout: seconds of each call, retries included, that does not say otherwise.
        exit_timeout: seconds to make durable what was observed when the process exits without close.
    """
    target = target or os.environ.get("CALIBD_SERVER") or _DEFAULT_TARGET
    connection = Connection(target, credentials=credentials, metadata=metadata, options=options, timeout=timeout)
    return Client(connection, exit_timeout=exit_timeout)


class Client:
    """Sessions of one server. Thread-safe. As a context manager it closes its sessions at the end."""

    def __init__(self, connection: Connection, *, exit_timeout: float = 5.0) -> None:
        self._connection = connection
        self._exit_timeout = exit_timeout
        self._contributions: Set[Contribution] = set()  # that are open

    @property
    def connection(self) -> Connection:
        """For calls that have no method here."""
        return self._connection

    def create_session(
        self,
        name: str,
        *,
        observer: Union[str, Observer, None] = None,
        rules: Optional[Sequence[Rule]] = None,
        mantissa_bits: int = 0,
        world_size: Optional[int] = None,
        straggler_policy: str = "wait",
        straggler_deadline: Optional[float] = None,
        window: int = 0,
        rank: Optional[int] = None,
    ) -> Session:
        """Makes a session, or confirms that it exists with an equal config.

        Args:
            name: 1 to 128 characters of a-z, A-Z, 0-9, '.', '_' and '-', the first a letter or digit.
            observer: of every layer, such as "minmax"; None: a histogram.
            rules: in place of `observer`: which layers are observed how. The first that matches decides.
            mantissa_bits: resolution of histograms, 4 to 7; 0: 7.
            world_size: ranks of synchronous steps; None: the session has none. The next three need it.
            straggler_policy: what becomes of a step that lacks a rank: wait, fail or close_partial.
            straggler_deadline: of fail and close_partial: seconds from a step's first contribution.
            window: steps that may be open at a time, 1 to 256; 0: 16.
            rank: as in `session`.

        Raises AlreadyExistsError (SESSION_CONFIG_MISMATCH), InvalidArgumentError, ResourceExhaustedError.
        """
        if observer is not None and rules is not None:
            raise InvalidArgumentError("give either observer, which is every layer's, or rules")
        if observer is not None:
            rules = [Rule("*", Observer(observer) if isinstance(observer, str) else observer)]
        synchronous = None
        if world_size is not None:
            synchronous = Synchronous(world_size, straggler_policy, straggler_deadline, window)
        elif (straggler_policy, straggler_deadline, window) != ("wait", None, 0):
            raise InvalidArgumentError("straggler_policy, straggler_deadline and window need a world_size")
        config = SessionConfig(tuple(rules or ()), mantissa_bits, synchronous)
        self._connection.unary("CreateSession", pb.CreateSessionRequest(session=name, config=config.to_proto()))
        return self.session(name, rank)

    def session(self, name: str, rank: Optional[int] = None, **contributor: Any) -> Session:
        """A session that exists; nothing is asked of the server yet.

        Args:
            name: its name.
            rank: to take part in synchronous steps as this rank, 0 to world size - 1; None: `observe` whenever.
            contributor: further options of Worker, or with a rank of Rank, such as worker_id or display_name.
        """
        contribution = Contribution(self._connection, name, rank, self._exit_timeout, contributor, self._contributions)
        return Session(self._connection, contribution)

    def sessions(self) -> List[SessionInfo]:
        """All sessions, in name order, without their layers and workers."""
        found: List[SessionInfo] = []
        request = pb.ListSessionsRequest(page_size=1000)
        while True:
            answer = self._connection.unary("ListSessions", request)
            found.extend(SessionInfo.from_proto(session) for session in answer.session)
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def health(self, timeout: Optional[float] = None) -> None:
        """Returns when the server takes work; raises UnavailableError after `timeout` seconds when it is not there, or
        at once when it is there and says that it does not."""

        def check(calls: Calls, seconds: float) -> int:
            metadata = self._connection.metadata()
            return calls.Health(wrappers_pb2.StringValue(), timeout=seconds, metadata=metadata).value

        if self._connection.repeat(check, timeout) != _SERVING:
            raise UnavailableError(
                f"calibd at {self._connection.target} is not serving: it is shutting down, or its store failed"
            )

    def close(self, timeout: float = 300.0) -> None:
        """Closes all sessions that observed something, then the connection; raises the first error of a session.

        After DeadlineExceededError of a session, which has `timeout` seconds, that session and the connection are still
        open, and nothing is lost: call again.
        """
        first: Optional[CalibdError] = None
        late: Optional[DeadlineExceededError] = None
        for contribution in list(self._contributions):
            try:
                contribution.close(timeout)
            except DeadlineExceededError as error:
                late = late or error
            except CalibdError as error:
                first = first or error
        if late is not None:
            raise late from first
        self._connection.close()
        if first is not None:
            raise first

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """close(); after an exception for exit_timeout, and the exception goes on."""
        try:
            self.close() if kind is None else self.close(self._exit_timeout)
        except CalibdError:
            if kind is None:
                raise
