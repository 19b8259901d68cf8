"""A server, and the sessions that it has."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Type, Union

import grpc
from google.protobuf import wrappers_pb2

from calibd import arguments
from calibd.channel import Connection, Metadata
from calibd.config import Rule, SessionConfig, Synchronous
from calibd.contribution import Contribution
from calibd.contributor_options import check_options, check_rank
from calibd.deadline import Default, Timeout, deadline_in, option, remaining
from calibd.errors import CalibdError, DeadlineExceededError, InvalidArgumentError, UnavailableError
from calibd.info import SessionInfo
from calibd.observer import Observer
from calibd.rpc import Calls
from calibd.rpc import calibration_service_pb2 as pb
from calibd.session import Session

_DEFAULT_TARGET = "127.0.0.1:7070"
_SERVING = 1
_FOR = {True: "with a rank", False: "without a rank"}


def connect(
    target: Optional[str] = None,
    *,
    credentials: Optional[grpc.ChannelCredentials] = None,
    metadata: Union[Metadata, Callable[[], Metadata]] = (),
    options: Sequence[Any] = (),
    timeout: Optional[float] = 30.0,
    exit_timeout: Optional[float] = 5.0,
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

    A timeout of None or infinity, here and in all calls, is no limit. Raises InvalidArgumentError.
    """
    if target is not None:
        arguments.text("target", target, 'it must be a str HOST:PORT, such as "127.0.0.1:7070"')
    target = target or os.environ.get("CALIBD_SERVER") or _DEFAULT_TARGET
    connection = Connection(target, credentials=credentials, metadata=metadata, options=options, timeout=timeout)
    return Client(connection, exit_timeout=exit_timeout)


class Client:
    """Sessions of one server. Thread-safe. As a context manager it closes its sessions at the end."""

    def __init__(self, connection: Connection, *, exit_timeout: Optional[float] = 5.0) -> None:
        self._connection = connection
        self._exit_timeout = option("exit_timeout", exit_timeout)
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
        session = self.session(name, rank)
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
        return session

    def session(
        self,
        name: str,
        rank: Optional[int] = None,
        *,
        worker_id: Optional[str] = None,
        display_name: str = "",
        min_backoff: float = 0.05,
        max_backoff: float = 10.0,
        open_timeout: Optional[float] = 30.0,
        send_interval: Optional[float] = None,
        updates_in_flight: Optional[int] = None,
        raw_window_bytes: Optional[int] = None,
        kept_bytes: Optional[int] = None,
        max_message_bytes: Optional[int] = None,
    ) -> Session:
        """A session that exists; nothing is asked of the server yet.

        Args:
            name: its name.
            rank: to take part in synchronous steps as this rank, 0 to world size - 1; None: `observe` whenever.
            worker_id: of this process; None: a random UUID. Give the same id again to go on where an earlier process
                stopped, never to two processes at a time: the newer one ends the older.
            display_name: for people, such as host and rank.
            min_backoff, max_backoff: seconds between two attempts to reconnect, which go on for ever.
            open_timeout: seconds that the first observation or step waits for the server; None: no limit.

        Without a rank:
            send_interval: seconds between two rounds of statistics; observations within them merge. None: 0.1.
            updates_in_flight: most rounds that are sent and not durable; past it observations merge into the next one.
                None: 4.
            raw_window_bytes: most bytes of steps of order-dependent observers that are not durable; past it observe
                waits. At least 1 MiB; None: 64 MiB.

        With a rank:
            kept_bytes: most bytes of contributions that are not durable; past it a step waits. None: 64 MiB.
            max_message_bytes: the server's --max-message-bytes; a larger step is refused here. None: 4 MiB.

        Raises InvalidArgumentError for an option that can't be.
        """
        arguments.text("name", name, "it must be a session's name, a str")
        if rank is not None:
            check_rank(rank)
        options: Dict[str, Any] = {
            "worker_id": worker_id,
            "display_name": display_name,
            "min_backoff": min_backoff,
            "max_backoff": max_backoff,
            "open_timeout": open_timeout,
        }
        of_workers = {
            "send_interval": send_interval,
            "updates_in_flight": updates_in_flight,
            "raw_window_bytes": raw_window_bytes,
        }
        of_ranks = {"kept_bytes": kept_bytes, "max_message_bytes": max_message_bytes}
        fitting, others = (of_workers, of_ranks) if rank is None else (of_ranks, of_workers)
        for option_name, value in others.items():
            if value is not None:
                raise arguments.refusal(option_name, value, f"that is for sessions {_FOR[rank is None]}")
        options.update((option_name, value) for option_name, value in fitting.items() if value is not None)
        check_options(**options)
        contribution = Contribution(self._connection, name, rank, self._exit_timeout, options, self._contributions)
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

    def health(self, timeout: Timeout = Default.CONNECTION) -> None:
        """Returns when the server takes work; raises UnavailableError after `timeout` seconds when it is not there, or
        at once when it is there and says that it does not. None: no limit; the default is the one given to connect."""

        def check(calls: Calls, seconds: Optional[float]) -> int:
            metadata = self._connection.metadata()
            return calls.Health(wrappers_pb2.StringValue(), timeout=seconds, metadata=metadata).value

        if self._connection.repeat(check, timeout) != _SERVING:
            raise UnavailableError(
                f"calibd at {self._connection.target} is not serving: it is shutting down, or its store failed"
            )

    def close(self, timeout: Optional[float] = 300.0) -> None:
        """Closes all sessions that observed something, then the connection; raises the first error of a session.

        After DeadlineExceededError of a session, as all together have `timeout` seconds (None: no limit), that session
        and the connection are still open, and nothing is lost: call again.
        """
        deadline = deadline_in(timeout)
        first: Optional[CalibdError] = None
        late: Optional[DeadlineExceededError] = None
        for contribution in list(self._contributions):
            try:
                contribution.close(remaining(deadline))
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
        """close(); after an exception for exit_timeout, and the exception goes on; the process's exit does not wait
        once more for what was late."""
        try:
            self.close() if kind is None else self.close(self._exit_timeout)
        except CalibdError:
            if kind is None:
                raise
            for contribution in list(self._contributions):
                contribution.skip_at_exit()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a calibd.Client cannot be pickled or copied: connect in each process, "
            f"calibd.connect({self._connection.target!r})"
        )
