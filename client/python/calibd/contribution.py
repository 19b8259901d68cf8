"""The worker or rank of this process in a session."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Set, Union

from calibd import at_exit, fork
from calibd.channel import Connection
from calibd.errors import CalibdError, FailedPreconditionError
from calibd.rank import Rank

if TYPE_CHECKING:
    from calibd.worker import Worker

Contributor = Union["Worker", Rank]


class Contribution(fork.Forkable):
    """Opens it on first use. Thread-safe.

    A forked child, which has none of the parent's threads, opens another worker; a rank that is open stays the
    parent's, as a second one of its number would end it.

    Args:
        connection: to the server.
        session: name of the session.
        rank: None for a Worker.
        exit_timeout: seconds to close it when the process exits.
        options: further arguments of Worker or Rank. A worker_id among them is the parent's alone.
        opened: has this while a worker or rank is open.
    """

    def __init__(
        self,
        connection: Connection,
        session: str,
        rank: Optional[int],
        exit_timeout: float,
        options: Dict[str, Any],
        opened: Set[Contribution],
    ) -> None:
        self.session = session
        self.rank = rank
        self._connection = connection
        self._exit_timeout = exit_timeout
        self._options = options
        self._opened = opened
        self._parents: List[Contributor] = []  # kept, as their threads and calls can't be ended here
        self._lock = threading.Lock()
        self._contributor: Optional[Contributor] = None
        self._rank_is_parents = False
        fork.register(self)

    @property
    def contributor(self) -> Optional[Contributor]:
        """What is open, or None."""
        return self._contributor

    def worker(self) -> Worker:
        """The worker. Raises FailedPreconditionError with a rank."""
        if self.rank is not None:
            raise FailedPreconditionError(
                f"this is rank {self.rank} of session {self.session}, which contributes by step; for observe open the "
                "session without a rank",
                reason="STEP_REQUIRED",
            )
        from calibd.worker import Worker

        with self._lock:
            if self._contributor is None:
                self._open(Worker(self._connection, self.session, **self._options))
            assert isinstance(self._contributor, Worker)
            return self._contributor

    def as_rank(self) -> Rank:
        """The rank. Raises FailedPreconditionError without one, and where it is a parent process's."""
        if self.rank is None:
            raise self.needs_rank()
        if self._rank_is_parents:
            raise FailedPreconditionError(
                f"rank {self.rank} of session {self.session} is open in the process that this one was forked from: "
                "contribute there, or open another rank with client.session"
            )
        with self._lock:
            if self._contributor is None:
                self._open(Rank(self._connection, self.session, self.rank, **self._options))
            assert isinstance(self._contributor, Rank)
            return self._contributor

    def open(self) -> None:
        """Opens the worker or rank, and waits until the server has answered it. Raises as these."""
        if self.rank is not None:
            self.as_rank()
        else:
            _ = self.worker().config

    def needs_rank(self) -> CalibdError:
        """The error of what can't be done without a rank."""
        return FailedPreconditionError(
            f"synchronous steps of session {self.session} need a rank: client.session(name, rank=...)",
            reason="RANK_INVALID",
        )

    def close(self, timeout: Optional[float]) -> None:
        """Closes what is open; after DeadlineExceededError, or Ctrl-C, it still is."""
        with self._lock:
            contributor = self._contributor
        if contributor is None:
            return
        try:
            contributor.close(timeout)
        finally:
            if contributor.closed:
                self._forget(contributor)

    def abandon(self) -> None:
        """Ends what is open; what is not durable may be lost."""
        with self._lock:
            contributor = self._contributor
        if contributor is not None:
            contributor.abandon()
            self._forget(contributor)

    def skip_at_exit(self) -> None:
        """The process's exit does not wait for what is open now, and warns of what is not durable then."""
        with self._lock:
            if self._contributor is not None:
                at_exit.add(self.session, self._contributor, 0.0)

    def after_fork_in_child(self) -> None:
        self._lock = threading.Lock()
        if self._contributor is not None:
            self._parents.append(self._contributor)
            self._rank_is_parents = self.rank is not None
            self._contributor = None
        self._opened.discard(self)
        self._options.pop("worker_id", None)

    def _open(self, contributor: Contributor) -> None:
        self._contributor = contributor
        self._opened.add(self)
        at_exit.add(self.session, contributor, self._exit_timeout)

    def _forget(self, contributor: Contributor) -> None:
        at_exit.remove(contributor)
        with self._lock:
            if self._contributor is contributor:
                self._contributor = None
                self._opened.discard(self)
