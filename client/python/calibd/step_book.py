"""What a rank contributed to synchronous steps: kept by step, dropped and forgotten by rule. step_log.py fills it."""

from __future__ import annotations

from typing import Callable, Dict, Optional, Set

from calibd import errors
from calibd.errors import CalibdError
from calibd.step import World
from calibd.step_contribution import EncodedStep, StepEntry, StepTicket


class StepBook:
    """Contributions by step, and what their caller has to hear.

    `on_change` is called for a ticket when it is answered. Not thread-safe."""

    def __init__(self, rank: int, on_change: Callable[[StepTicket], None]) -> None:
        self._rank = rank
        self._on_change = on_change
        self._entries: Dict[int, StepEntry] = {}
        self._due: Set[int] = set()  # steps with something to send
        self._to_count: Set[int] = set()  # steps with values to count that nobody counts yet
        self._news: Optional[CalibdError] = None
        self._settled = False
        self._window = 1
        self.next_step = 1  # the lowest step that has no contribution and needs one
        self.kept_bytes = 0
        self.world = World(0, 0)
        self.folded = 0  # last step that is folded, as last heard of
        self.durable = 0  # last step that is durable

    def is_in_window(self, step: int) -> bool:
        """Whether `step` may be contributed to already, by the session's window."""
        return step <= self.folded + self._window

    def find(self, step: int) -> Optional[StepTicket]:
        """The ticket of a step that has a contribution; None without."""
        entry = self._entries.get(step)
        return None if entry is None else entry.ticket

    def add(self, step: int, encoded: EncodedStep, ticket: StepTicket) -> None:
        """Takes a contribution.

        Requires step > 0, find(step) is None, encoded since the last change of layers_refused."""
        contribution = encoded.request.step_contribution
        contribution.world_epoch = self.world.epoch
        contribution.step = step
        self.kept_bytes += encoded.nbytes
        ticket.step = step
        self._entries[step] = StepEntry(encoded, ticket, self.world.epoch)
        self._due.add(step)
        self._advance_next_step()

    def news(self, any_error: bool) -> Optional[CalibdError]:
        """What has to be said before the next contribution: WORLD_EPOCH_STALE after a change; with `any_error`, the
        error of a dropped contribution; RANK_INVALID while the world lacks the rank. Else None."""
        if self._news is not None and (any_error or is_world_change(self._news)):
            return self._news
        if self._rank < self.world.size:
            return None
        return errors.make_error(
            "INVALID_ARGUMENT",
            f"rank {self._rank} is not in the world of {self.world.size} ranks (epoch {self.world.epoch}): "
            f"ranks are 0 to {self.world.size - 1}",
            "RANK_INVALID",
            {"rank": str(self._rank), "world_epoch": str(self.world.epoch)},
        )

    def take_news(self) -> None:
        """The caller heard of it."""
        self._news = None

    def take_world_news(self) -> None:
        """The caller heard of the world."""
        if is_world_change(self._news):
            self._news = None

    def has_open(self) -> bool:
        """Whether a contribution is open."""
        return any(not entry.ticket.answered for entry in self._entries.values())

    @property
    def empty(self) -> bool:
        return not self._entries

    @property
    def settled(self) -> bool:
        """Whether every step that this rank leaves to earlier processes is durable, so that none can come back."""
        return self._settled

    def end_all(self, error: CalibdError) -> None:
        """Answers everything that is open with this error, and forgets all."""
        for entry in list(self._entries.values()):
            if not entry.ticket.answered:
                self._answer(entry, error)
        self._entries.clear()
        self._due.clear()
        self._to_count.clear()
        self.kept_bytes = 0

    def _take_world(self, world: World) -> None:
        """Drops what is open and of another world, or was answered and is lost."""
        changed = self.world.epoch != 0 and world != self.world
        # The server forgot the world that this rank knew: nothing was given for this one.
        forgotten = changed and world.epoch <= self.world.epoch
        # What was folded without this rank in the world was no matter of its own.
        if changed and self.world.size <= self._rank < world.size:
            self.next_step = max(self.next_step, self.folded + 1)
        self.world = world
        dropped = sorted(
            step
            for step, entry in self._entries.items()
            if step > self.folded and (entry.epoch != world.epoch or forgotten)
        )
        if not changed and not dropped:
            return
        lowest = min([self.next_step] + dropped)
        stale = errors.make_error(
            "ABORTED",
            f"the world has {world.size} ranks now (epoch {world.epoch}) and what was given for open steps was "
            f"dropped: contribute anew from step {lowest} on",
            "WORLD_EPOCH_STALE",
            {"world_epoch": str(world.epoch), "expected": str(lowest)},
        )
        self._news = stale
        for step in dropped:
            self._drop(step, stale)

    def _answer(self, entry: StepEntry, error: Optional[CalibdError]) -> None:
        if error is not None and not is_world_change(self._news):
            self._news = error
        entry.ticket.answered = True
        entry.ticket.error = error
        self._on_change(entry.ticket)

    def _drop(self, step: int, error: CalibdError) -> None:
        """Takes the contribution away; whoever waits gets `error`."""
        entry = self._entries[step]
        if not entry.ticket.answered:
            self._answer(entry, error)
        self.next_step = min(self.next_step, step)
        self._erase(step)

    def _erase(self, step: int) -> None:
        self.kept_bytes -= self._entries.pop(step).encoded.nbytes
        self._due.discard(step)
        self._to_count.discard(step)

    def _forget_durable(self) -> None:
        self._settled = self._settled or self.durable + 1 >= self.next_step
        for step in [s for s, entry in self._entries.items() if s <= self.durable and entry.ticket.answered]:
            self.next_step = max(self.next_step, step + 1)
            self._erase(step)
        self._advance_next_step()

    def _advance_next_step(self) -> None:
        while self.next_step in self._entries:
            self.next_step += 1


def is_world_change(error: Optional[CalibdError]) -> bool:
    """Whether the error says that the world has other ranks now."""
    return error is not None and error.reason == "WORLD_EPOCH_STALE"
