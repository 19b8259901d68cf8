"""One rank of a session with synchronous steps: an all-reduce as a service, exactly once through any number of
reconnections and restarts of the server."""

from __future__ import annotations

import dataclasses
import time
import uuid
from types import TracebackType
from typing import Mapping, Optional, Type

from calibd import errors
from calibd.channel import Connection
from calibd.config import SessionConfig
from calibd.contributor_options import check_options, check_rank
from calibd.deadline import deadline_in, remaining
from calibd.errors import CalibdError
from calibd.rank_steps import RankSteps, closed_error
from calibd.rank_stream import RankStream, WaitedTicket
from calibd.rpc import observe_pb2
from calibd.step import Gradients, StepLayer, StepResult, World
from calibd.step_encoder import StepData

__all__ = ["Gradients", "PendingStep", "Rank", "RankStats", "StepData", "StepLayer", "StepResult", "World"]


@dataclasses.dataclass(frozen=True)
class RankStats:
    """What a rank did so far."""

    steps_contributed: int
    steps_answered: int  # by a result
    values_observed: int
    messages_sent: int  # contributions and counts, repetitions included
    bytes_sent: int
    reconnections: int
    folded_step: int  # last one that is folded, as last heard of
    durable_step: int  # last one that is durable
    kept_bytes: int  # because it is not durable, or not answered


class PendingStep:
    """A step that was contributed to and may not be answered yet. Dropping it changes nothing for the step. It outlives
    its rank, whose end is then its answer. Thread-safe."""

    def __init__(self, steps: RankSteps, ticket: WaitedTicket) -> None:
        self._steps = steps
        self._ticket = ticket

    @property
    def step(self) -> int:
        return self._ticket.step

    @property
    def ready(self) -> bool:
        """Whether wait would return at once."""
        return self._ticket.answered

    def wait(self, timeout: Optional[float] = None) -> StepResult:
        """The step's result, once it is folded, or the error with which it ended (Rank lists them); the same each time
        from then on. DeadlineExceededError gives up waiting alone: the contribution stays, wait again."""
        return self._steps.wait(self._ticket, deadline_in(timeout))


class Rank:
    """One rank of a session with synchronous steps (calib/v1/observe.proto).

    Each step takes all layers in one call. Blocking:
        result = rank.step(layers)                 lock-step with the other ranks
    or with the answer of step t used at t + 1:
        pending = rank.start_step(layers); ...; pending.wait()
    At most `window` (of the session's config) steps may be open; start_step blocks until one is folded.

    What is contributed is kept until it is durable and sent again after a reconnection. A process that is started again
    begins at next_step. Values of layers with a reference histogram are copied and counted when the ranges of all ranks
    are known: on the thread that waits for the step, or, while none does, on a thread of the rank.

    Reasons of the errors of a step, which was not counted then; the same number is the next one to contribute to:
      STEP_TIMED_OUT       some ranks did not contribute in time (policy fail). Contribute again.
      WORLD_EPOCH_STALE    the world changed, and what was given for open steps was dropped. Take up `world` and
                           contribute anew from next_step on, which may be a step that was answered before, if the
                           server restarted meanwhile without having made it durable.
      OBSERVER_MISMATCH, CHANNEL_COUNT_CHANGED, REFERENCE_TOO_LARGE, LEARNED_NOT_INITIALIZED, LIMIT_EXCEEDED, ...
                           what this rank, or all together, gave can't be folded. Correct it.
    and of a step that is over, so that next_step is a later one:
      STEP_OUT_OF_WINDOW   it was folded, but its result is not kept any more.
    An error that no wait has raised yet is raised by the next call that contributes without a number, so that no step
    takes another's number unnoticed; a change of the world by any call that contributes, unless `world` was read since.

    RANK_INVALID: the world does not have this rank (any more). Errors that end the rank are raised by every call:
    WORKER_FENCED (a newer worker of the rank), SESSION_NOT_FOUND, SESSION_DELETED, SESSION_SEALED,
    SESSION_NOT_SYNCHRONOUS, SESSION_CONFIG_MISMATCH (deleted and made again), credentials that are not accepted,
    DATA_LOSS (the server forgot what it had called durable, or can't repeat what it had folded). A lost connection or a
    restarting server is no error.

    Thread-safe. Of the process that made it alone: after a fork, open another."""

    def __init__(
        self,
        connection: Connection,
        session: str,
        rank: int,
        *,
        worker_id: Optional[str] = None,
        display_name: str = "",
        min_backoff: float = 0.05,
        max_backoff: float = 10.0,
        kept_bytes: int = 64 << 20,
        max_message_bytes: int = 4 << 20,
        open_timeout: Optional[float] = 30.0,
    ) -> None:
        """Connects as a rank, and makes the steps durable that are folded.

        rank: below the world's size. A newer Rank of the same number ends this one.
        worker_id: of this process; None: a random UUID. A rank may change its id, and its process, at any time.
        display_name: for people, such as host and rank.
        min_backoff, max_backoff: seconds between attempts to reconnect, which go on for ever; callers have timeouts of
            their own.
        kept_bytes: most bytes of contributions that are kept because they are not durable; past it a step waits until
            the server, asked to, has made older ones durable. A single step may be larger.
        max_message_bytes: the server's --max-message-bytes. A step is one message, so a larger one is refused here.

        Raises the errors of the Observe call: SESSION_NOT_FOUND, SESSION_NOT_SYNCHRONOUS, RANK_INVALID, INVALID_FIELD,
        ...; UnavailableError after `open_timeout` seconds (None: no limit). InvalidArgumentError for an option that
        can't be."""
        check_options(
            worker_id=worker_id,
            display_name=display_name,
            min_backoff=min_backoff,
            max_backoff=max_backoff,
            kept_bytes=kept_bytes,
            max_message_bytes=max_message_bytes,
            open_timeout=open_timeout,
        )
        self._rank = rank = check_rank(rank)
        self._worker_id = worker_id or str(uuid.uuid4())
        stream = RankStream(
            connection,
            observe_pb2.Open(session=session, worker_id=self._worker_id, display_name=display_name, rank=rank),
            min_backoff=min_backoff,
            max_backoff=max_backoff,
            max_message_bytes=max_message_bytes,
        )
        self._stream = stream
        self._log = stream.log
        self._steps = RankSteps(
            connection, session, rank, stream, kept_bytes=kept_bytes, max_message_bytes=max_message_bytes
        )
        try:
            self._steps.wait_until_open(deadline_in(open_timeout))
        except BaseException:
            self.abandon()
            raise

    # --- Steps.

    def step(
        self, layers: Mapping[str, StepData], *, step: Optional[int] = None, timeout: Optional[float] = None
    ) -> StepResult:
        """Contributes to a step and waits for its result: start_step and PendingStep.wait.

        To go on waiting after DeadlineExceededError, call it again with the same step number: nothing is contributed
        twice."""
        deadline = deadline_in(timeout)
        return self._steps.wait(self._steps.start(layers, step, deadline), deadline)

    def start_step(
        self, layers: Mapping[str, StepData], *, step: Optional[int] = None, timeout: Optional[float] = None
    ) -> PendingStep:
        """Contributes to a step without waiting for its result; waits for room.

        layers: by name, what this rank gives: an array, which is observed on this thread (of a LEARNED layer for its
            initial values); TensorStatistics of it, but for layers with a reference histogram; or Gradients of a
            LEARNED layer. Borrowed until the call returns and no longer. A rank may leave layers out.
        step: None: next_step. A step that this rank has contributed to already is not contributed to again but waited
            for, as if by the first call; it must have the same layers.
        timeout: seconds; None: no limit.

        DeadlineExceededError: nothing was contributed. Errors before anything is sent, beside those of the class: as
        `observe`, LAYER_NAME_INVALID, INVALID_FIELD, OBSERVER_MISMATCH."""
        return PendingStep(self._steps, self._steps.start(layers, step, deadline_in(timeout)))

    @property
    def next_step(self) -> int:
        """The step that this rank should contribute to next: the lowest that it has no part in, or, in a process that
        was started again, the first that was not folded then."""
        with self._steps.locked():
            return self._log.next_step

    @property
    def world(self) -> World:
        """The ranks, as last heard of."""
        with self._steps.locked():
            self._log.take_world_news()
            return self._log.world

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def config(self) -> SessionConfig:
        """The session's config, which never changes."""
        with self._steps.locked():
            assert self._stream.config is not None  # it is open
            return self._stream.config

    @property
    def worker_id(self) -> str:
        return self._worker_id

    @property
    def error(self) -> Optional[CalibdError]:
        """The error that ended the rank, or None."""
        with self._steps.locked():
            return self._stream.fatal

    def stats(self) -> RankStats:
        with self._steps.locked():
            return RankStats(
                steps_contributed=self._steps.contributed,
                steps_answered=self._stream.steps_answered,
                values_observed=self._steps.values_observed,
                messages_sent=self._stream.messages_sent,
                bytes_sent=self._stream.bytes_sent,
                reconnections=self._stream.reconnections,
                folded_step=self._log.folded,
                durable_step=self._log.durable,
                kept_bytes=self._log.kept_bytes,
            )

    # --- The end.

    def flush(self, timeout: Optional[float] = 300.0) -> None:
        """Returns once every step that this rank has seen folded is durable. DeadlineExceededError after `timeout`
        seconds; None: no limit."""
        with self._steps.locked():
            self._steps.check_usable()
            mark = self._log.folded
            self._steps.wait_until_durable(lambda: mark, deadline_in(timeout))

    def close(self, timeout: Optional[float] = 300.0) -> None:
        """Flush, then ends the stream; later calls fail, and steps that are not folded end with
        FailedPreconditionError, though what the server has of them stays there. After DeadlineExceededError the rank is
        still open: call again. A rank that is closed can be closed again."""
        deadline = deadline_in(timeout)
        with self._steps.locked():
            if self._stream.closing:
                return
        failure: Optional[CalibdError] = None
        try:
            self.flush(remaining(deadline))
        except errors.DeadlineExceededError:
            raise
        except CalibdError as error:
            failure = error
        with self._steps.locked():
            # What is open has no answer to wait for: it is the next worker of this rank that gets it.
            self._stream.close(closed_error(), abandon=self._log.has_open() or failure is not None)
            while not self._stream.finished and time.monotonic() < deadline:
                self._stream.progress.wait(remaining(deadline))
        if failure is not None:
            raise failure

    def __enter__(self) -> Rank:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """close(); after an exception what is folded is left to the server's next checkpoint."""
        if kind is None:
            self.close()
        else:
            self.abandon()

    @property
    def closed(self) -> bool:
        """Whether close or abandon has ended it."""
        return self._stream.closing

    def abandon(self) -> None:
        """Ends the stream as it is; what is not folded or durable is left to the server. Can be repeated."""
        with self._steps.locked():
            self._stream.close(closed_error(), abandon=True)
        self._stream.join()
