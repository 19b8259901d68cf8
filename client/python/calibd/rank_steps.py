"""What a Rank's callers do with its step log: contribute, wait, ask for durability."""

from __future__ import annotations

import os
import threading
import time
from typing import Callable, List, Mapping, Optional, Tuple

from calibd import arguments, errors, step_encoder, step_result
from calibd.channel import Connection
from calibd.deadline import remaining
from calibd.durability import await_durability
from calibd.errors import CalibdError, again
from calibd.rank_stream import RankStream, WaitedTicket
from calibd.step import StepResult, World
from calibd.step_contribution import EncodedStep
from calibd.step_encoder import StepData
from calibd.step_layers import StepLayerInfo

_LAST_STEP = (1 << 63) - 1


class RankSteps:
    """The contracts are those of rank.py; deadlines are of time.monotonic(). Methods that say so want the lock held."""

    def __init__(
        self,
        connection: Connection,
        session: str,
        rank: int,
        stream: RankStream,
        *,
        kept_bytes: int,
        max_message_bytes: int,
    ) -> None:
        self._connection = connection
        self._session = session
        self._rank = rank
        self._kept_bytes = kept_bytes
        self._max_message_bytes = max_message_bytes
        self._pid = os.getpid()
        self.stream = stream
        self.log = stream.log
        self.contributed = 0
        self.values_observed = 0

    def locked(self) -> threading.Lock:
        """The lock, to be held. FailedPreconditionError in a process that was forked from the rank's."""
        if self._pid != os.getpid():
            raise errors.FailedPreconditionError(
                f"rank {self._rank} belongs to process {self._pid}, which this one was forked from: open another one"
            )
        return self.stream.lock

    def check_usable(self) -> None:
        """Locked."""
        if self.stream.fatal is not None:
            raise again(self.stream.fatal)
        if self.stream.closing:
            raise closed_error()

    def _raise_news(self, step: Optional[int]) -> None:
        """Locked. Why nothing may be contributed now; what it says counts as told."""
        news = self.log.news(any_error=step is None)
        if news is not None:
            self.log.take_news()
            raise again(news)

    def _find_ticket(self, step: int, infos: List[StepLayerInfo]) -> Optional[WaitedTicket]:
        """Locked. The ticket of a step that was contributed to."""
        ticket = self.log.find(step)
        if ticket is not None and ticket.layers != infos:
            raise errors.make_error(
                "INVALID_ARGUMENT",
                f"step {step} was contributed to with other layers; pass the same ones to wait for it",
                "INVALID_FIELD",
                {"step": str(step)},
            )
        assert ticket is None or isinstance(ticket, WaitedTicket)
        return ticket

    def start(self, layers: Mapping[str, StepData], step: Optional[int], deadline: float) -> WaitedTicket:
        if not isinstance(layers, Mapping):
            raise arguments.refusal("layers", layers, "it must be a mapping of what is given by the layers' names")
        if step is not None:
            step = arguments.whole_number("step", step, 1, _LAST_STEP, "INVALID_FIELD")
        with self.locked():
            self.check_usable()
            infos = [self.log.layers.find(name) for name in layers]
            if step is not None:
                ticket = self._find_ticket(step, infos)
                if ticket is not None:
                    return ticket
            self._raise_news(step)
            beginning = (self.log.world, self.log.layers_refused)
            assert self.stream.config is not None  # it is open
            mantissa_bits = self.stream.config.mantissa_bits
        encoded, values = step_encoder.encode(layers, infos, mantissa_bits)
        size = encoded.request.ByteSize()
        if size > self._max_message_bytes:
            raise errors.make_error(
                "RESOURCE_EXHAUSTED",
                f"the step is a message of {size} bytes, and the server takes {self._max_message_bytes}: give fewer "
                "layers, or raise --max-message-bytes of the server and max_message_bytes here",
                "LIMIT_EXCEEDED",
                {"option": "--max-message-bytes", "limit": str(self._max_message_bytes)},
            )
        with self.locked():
            number = self._wait_for_room(beginning, encoded, step, deadline)
            # Another thread may have come first with the same number.
            ticket = self._find_ticket(number, infos)
            if ticket is not None:
                return ticket
            ticket = WaitedTicket(self.stream.lock)
            ticket.layers = infos
            ticket.layout = encoded.layout
            self.log.add(number, encoded, ticket)
            self.contributed += 1
            self.values_observed += values
            self.stream.send()
            return ticket

    def _wait_for_room(
        self, beginning: Tuple[World, int], encoded: EncodedStep, step: Optional[int], deadline: float
    ) -> int:
        """Locked. Waits until the log has room for a step, and returns its number."""
        world, layers_refused = beginning
        next_request = 0.0
        while True:
            self.check_usable()
            self._raise_news(step)
            if self.log.world != world:
                raise errors.make_error(
                    "ABORTED",
                    "the world changed while the step was made: make it anew",
                    "WORLD_EPOCH_STALE",
                    {"world_epoch": str(self.log.world.epoch)},
                )
            if self.log.layers_refused != layers_refused:
                assert self.log.layers_refusal is not None
                raise again(self.log.layers_refusal)
            number = self.log.next_step if step is None else step
            in_window = self.log.is_in_window(number)
            if in_window and (self.log.empty or self.log.kept_bytes + encoded.nbytes <= self._kept_bytes):
                return number
            if time.monotonic() >= deadline:
                why = (
                    "too much is kept that is not durable"
                    if in_window
                    else f"step {self.log.folded} is the last folded"
                )
                raise errors.DeadlineExceededError(f"no room for step {number} in time: {why}{self._last_stream()}")
            if in_window and self.log.durable < self.log.folded:
                next_request = self._await_durability(deadline, next_request)
            else:
                self.stream.progress.wait(remaining(deadline))

    def wait(self, ticket: WaitedTicket, deadline: float) -> StepResult:
        with self.locked():
            ticket.waiters += 1
            try:
                while not ticket.answered:
                    if self.stream.count():
                        continue
                    if time.monotonic() >= deadline:
                        raise errors.DeadlineExceededError(
                            f"step {ticket.step} is not folded yet by calibd at {self._connection.target}"
                            f"{self._last_stream()}"
                        )
                    ticket.answered_or_asked.wait(remaining(deadline))
            finally:
                ticket.waiters -= 1
                if not ticket.answered and self.log.has_count_job():
                    self.stream.send()
            if ticket.error is not None:
                self.log.take_news()
                raise again(ticket.error)
        # What is answered does not change any more.
        assert ticket.result is not None
        return step_result.decode(ticket.result, ticket.layout, [info.name for info in ticket.layers])

    def wait_until_open(self, deadline: float) -> None:
        stream = self.stream
        with self.locked():
            while stream.config is None and stream.fatal is None:
                if time.monotonic() >= deadline:
                    raise stream.last_stream_end or errors.UnavailableError(
                        f"cannot reach calibd at {self._connection.target}: no answer in time"
                    )
                stream.progress.wait(remaining(deadline))
            self.check_usable()
            # Else a restarted server could ask for steps of an earlier process, which nobody has.
            self.wait_until_durable(lambda: 0 if self.log.settled else self.log.folded, deadline)

    def wait_until_durable(self, mark: Callable[[], int], deadline: float) -> None:
        """Locked. Waits until the steps up to mark() are durable, and asks the server for it."""
        next_request = 0.0
        while self.log.durable < mark():
            self.check_usable()
            if time.monotonic() >= deadline:
                raise errors.DeadlineExceededError(
                    f"steps {self.log.durable + 1} to {mark()} are not durable yet at calibd at "
                    f"{self._connection.target}{self._last_stream()}"
                )
            if self.log.folded >= mark():
                next_request = self._await_durability(deadline, next_request)
            else:
                self.stream.progress.wait(remaining(deadline))
        self.check_usable()

    def _await_durability(self, deadline: float, next_request: float) -> float:
        """Locked. When to ask again."""
        progress = self.stream.progress
        return await_durability(self._connection, self._session, progress, deadline, next_request)

    def _last_stream(self) -> str:
        end = self.stream.last_stream_end
        return "" if end is None else f"; last broken stream: {end}"


def closed_error() -> CalibdError:
    return errors.FailedPreconditionError("the rank is closed; open another one")
