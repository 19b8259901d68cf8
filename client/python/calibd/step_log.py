"""Exactly-once synchronous steps as a state machine: the client's half of calib/v1/observe.proto's synchronous steps.

No transport, no threads, no clocks: rank.py puts those around it. The same machine as client/cpp/step_log.h.
"""

from __future__ import annotations

import enum
from typing import Callable, Optional, Tuple

from calibd import errors
from calibd.errors import CalibdError
from calibd.rpc import observe_pb2, session_pb2
from calibd.step import World
from calibd.step_book import StepBook
from calibd.step_contribution import CountJob, StepEntry, StepTicket
from calibd.step_layers import StepLayers

_MOST_NAMES_BYTES = 1 << 20
_NAME_FIELD_BYTES = 3


class AfterRefusal(enum.Enum):
    GO_ON = 1
    REOPEN = 2  # give the stream up and open another
    END = 3  # the rank ends


class StepLog(StepBook):
    """What one rank contributed to synchronous steps and has yet to make durable, and the rules by which it does.

    A contribution goes through these states:
      open       the step is not folded, as far as is known
      answered   by a result, or by the refusal of one that is not kept any more; it may have to be sent again
      forgotten  answered, and an Ack or a Welcome called the step durable
    or it is dropped: refused, or the world changed. Invariants:
    - A step has one contribution at a time, and every contribution is for the world of the last Welcome or World; older
      ones are kept only when their step is folded.
    - Each is sent once a stream, in step order and within the window: after a Welcome those above its folded_step,
      because they are lost (there may be more of them than a window), and those that are open, because their answers
      are.
    - What is answered is dropped in one case alone: it was lost with a server before it was durable, and the world
      changed then. The caller has to hear of it, and of every drop, before he contributes again: news() tells.
    - next_step is the lowest step that has no contribution and needs one.
    Counts of reference histograms are made by the caller: a job for each StepGrids that none fits that were made
    before.

    `on_change` is called for a ticket when it is answered, or when there are values of it to count. Not thread-safe."""

    def __init__(self, rank: int, layers: StepLayers, on_change: Callable[[StepTicket], None]) -> None:
        super().__init__(rank, on_change)
        self.layers = layers
        # Grows when layers are forgotten because the server refused their names, as `layers_refusal` says. What was
        # encoded before is void then.
        self.layers_refused = 0
        self.layers_refusal: Optional[CalibdError] = None
        self._registered = 0  # layers with a handle on this stream
        self._layers_accepted = 0  # layers whose handles the server was seen to know
        self._open = False
        self._server_epoch = 0

    # --- The stream.

    def on_welcome(self, welcome: observe_pb2.Welcome) -> None:
        """Raises DATA_LOSS: the server forgot what it had called durable; INTERNAL: it contradicts itself;
        SESSION_NOT_SYNCHRONOUS. The rank has to end then."""
        if not welcome.HasField("world"):
            raise errors.make_error(
                "FAILED_PRECONDITION",
                "the server knows no synchronous steps of this session: create one with synchronous steps",
                "SESSION_NOT_SYNCHRONOUS",
            )
        world = World(welcome.world.epoch, welcome.world.size)
        window = welcome.config.synchronous.window
        if welcome.durable_step > welcome.folded_step or world.epoch == 0 or window == 0:
            raise _server_error(
                f"Welcome says folded step {welcome.folded_step}, durable step {welcome.durable_step}, "
                f"world epoch {world.epoch}, window {window}"
            )
        # A restarted server may have forgotten a world that nobody was promised, but no step that it had called
        # durable.
        same_server = welcome.server_epoch <= self._server_epoch
        if welcome.durable_step < self.durable or (world.epoch < self.world.epoch and same_server):
            raise errors.DataLossError(
                f"the server says durable step {welcome.durable_step} and world epoch {world.epoch}, after step "
                f"{self.durable} and epoch {self.world.epoch}; the session's results lack what it lost: collect again "
                "in a new session"
            )
        self._server_epoch = welcome.server_epoch
        if not self._settled:
            self.next_step = welcome.folded_step + 1
        self._window = window
        self.folded = welcome.folded_step
        self.durable = welcome.durable_step
        self.on_stream_end()
        self._take_world(world)
        self._forget_durable()
        for step, entry in self._entries.items():
            if step > self.folded or not entry.ticket.answered:
                self._due.add(step)
        self._open = True

    def on_ack(self, ack: observe_pb2.Ack) -> None:
        """Raises as on_welcome."""
        if ack.durable_step > ack.folded_step or ack.durable_step < self.durable:
            raise _server_error(
                f"Ack says folded step {ack.folded_step} and durable step {ack.durable_step}, after durable step "
                f"{self.durable}"
            )
        self.folded = max(self.folded, ack.folded_step)
        self.durable = ack.durable_step
        self._forget_durable()

    def on_world(self, world: session_pb2.World) -> None:
        if world.epoch > self.world.epoch:
            self._take_world(World(world.epoch, world.size))

    def on_result(self, result: observe_pb2.StepResult) -> None:
        step = result.step
        self.folded = max(self.folded, step)
        entry = self._entries.get(step)
        if entry is None:
            return
        self._layers_accepted = max(self._layers_accepted, entry.encoded.layers_used)
        self._due.discard(step)
        self._to_count.discard(step)
        if not entry.ticket.answered:
            entry.ticket.result = result
            self._answer(entry, None)
        if step <= self.durable:
            self._forget_durable()

    def on_grids(self, grids: observe_pb2.StepGrids) -> None:
        """Raises as on_welcome."""
        entry = self._entries.get(grids.step)
        if entry is None or entry.encoded.request.step_contribution.world_epoch != grids.world_epoch:
            return
        if len(grids.grid) != len(entry.encoded.values):
            raise _server_error(
                f"it sent {len(grids.grid)} grids for {len(entry.encoded.values)} reference histograms of step "
                f"{grids.step}"
            )
        self._layers_accepted = max(self._layers_accepted, entry.encoded.layers_used)
        entry.grids = grids
        if entry.counts is not None and _are_on(entry.counts.step_counts, grids):
            entry.counts_due = True
            self._due.add(grids.step)
            return
        self._to_count.add(grids.step)
        self._on_change(entry.ticket)

    def on_refusal(self, refusal: observe_pb2.Refusal) -> Tuple[AfterRefusal, CalibdError]:
        """What to do, and what was refused: with END, why the rank ends."""
        error = errors.from_refusal(refusal)
        meaning = errors.meaning(error)
        if meaning is errors.Meaning.TRY_AGAIN:
            return AfterRefusal.REOPEN, error
        if meaning is errors.Meaning.WORKER_ENDS:
            return AfterRefusal.END, error
        if refusal.step == 0:
            return self._refuse_layers(error), error
        entry = self._entries.get(refusal.step)
        if entry is None or self._is_overtaken(refusal.step, entry, error):
            return AfterRefusal.GO_ON, error
        if not entry.ticket.answered:
            self._drop(refusal.step, error)
            return AfterRefusal.GO_ON, error
        return AfterRefusal.END, errors.DataLossError(
            f"step {refusal.step} was folded, was lost with the server before it was durable, and is refused now: "
            f"{error}; the session's results lack it: collect again in a new session"
        )

    def on_stream_end(self) -> None:
        """There is nothing to send from now on, until a Welcome."""
        self._open = False
        self._registered = 0
        self._due.clear()
        self._to_count.clear()
        for entry in self._entries.values():
            entry.sent = False
            entry.grids = None
            entry.counts_due = False

    def end_all(self, error: CalibdError) -> None:
        """Ends the stream, and answers everything that is open with this error."""
        self.on_stream_end()
        super().end_all(error)

    def has_message(self) -> bool:
        if not self._open:
            return False
        return self._registered < len(self.layers) or (bool(self._due) and self.is_in_window(min(self._due)))

    def next_message(self) -> Optional[observe_pb2.ObserveRequest]:
        """The next message to send, which counts as sent from now on; None when there is none. It never changes."""
        if not self.has_message():
            return None
        if self._registered < len(self.layers):
            return self._next_registration()
        step = min(self._due)
        entry = self._entries[step]
        if entry.sent:
            self._due.remove(step)
            entry.counts_due = False
            return entry.counts
        entry.sent = True
        if not entry.counts_due:
            self._due.remove(step)
        if entry.encoded.request.step_contribution.world_epoch != self.world.epoch:
            # Of a folded step the result alone is asked for, which has nothing to do with the world that it was made
            # in.
            request = observe_pb2.ObserveRequest()
            request.CopyFrom(entry.encoded.request)
            request.step_contribution.world_epoch = self.world.epoch
            entry.encoded.request = request
        return entry.encoded.request

    # --- Counting.

    def take_count_job(self) -> Optional[CountJob]:
        """Of the lowest step that has one; nobody else gets it."""
        if not self._to_count:
            return None
        step = min(self._to_count)
        self._to_count.remove(step)
        entry = self._entries[step]
        assert entry.grids is not None
        return CountJob(entry.grids, entry.encoded.values)

    def return_count_job(self, job: CountJob) -> None:
        """It was taken and not counted: somebody else gets it."""
        entry = self._entries.get(job.grids.step)
        # It may have been dropped meanwhile, or its grids with a stream.
        if entry is not None and entry.encoded.values is job.values and entry.grids is job.grids:
            self._to_count.add(job.grids.step)
            self._on_change(entry.ticket)

    def has_count_job(self) -> bool:
        return bool(self._to_count)

    def add_counts(self, job: CountJob, counts: observe_pb2.ObserveRequest) -> None:
        """`counts` holds StepCounts for the job's grids."""
        step = job.grids.step
        entry = self._entries.get(step)
        # It may have been dropped meanwhile, and contributed anew.
        if entry is None or entry.encoded.values is not job.values:
            return
        added = counts.ByteSize() - (0 if entry.counts is None else entry.counts.ByteSize())
        entry.encoded.nbytes += added
        self.kept_bytes += added
        entry.counts = counts
        if entry.grids is None or not _are_on(counts.step_counts, entry.grids):
            return
        entry.counts_due = True
        self._to_count.discard(step)
        self._due.add(step)

    def _is_overtaken(self, step: int, entry: StepEntry, error: CalibdError) -> bool:
        """Whether a refused contribution stays: what was refused is not what is here now, or it is tried again."""
        answered = entry.ticket.answered
        if error.reason == "WORLD_EPOCH_STALE":
            # World dropped what it is about; what is here now was made since, unless it asks for the result of a folded
            # step.
            if not answered and entry.encoded.request.step_contribution.world_epoch < self.world.epoch:
                self._resend(step, entry)
            return True
        if error.reason == "REFERENCE_GRID_MISMATCH":
            # Of counts that were on their way while the server asked for others: another rank had contributed anew.
            return True
        if error.reason == "STEP_TIMED_OUT" and answered:
            self._resend(step, entry)
            return True
        if error.reason == "STEP_OUT_OF_WINDOW":
            expected = _expected_step(error)
            if expected > step:
                self.folded = max(self.folded, expected - 1)
                self.next_step = max(self.next_step, expected)
                if not answered:
                    self._answer(entry, error)
                self._forget_durable()
                return True
        return False

    def _refuse_layers(self, error: CalibdError) -> AfterRefusal:
        if self._layers_accepted >= len(self.layers):
            return AfterRefusal.END
        for step in sorted(self._entries):
            if self._entries[step].encoded.layers_used > self._layers_accepted:
                self._drop(step, error)
        self.layers.truncate(self._layers_accepted)
        self.layers_refused += 1
        self.layers_refusal = error
        return AfterRefusal.REOPEN

    def _resend(self, step: int, entry: StepEntry) -> None:
        entry.sent = False
        entry.grids = None
        entry.counts_due = False
        self._to_count.discard(step)
        self._due.add(step)

    def _next_registration(self) -> observe_pb2.ObserveRequest:
        request = observe_pb2.ObserveRequest()
        request.register_layers.first_handle = self._registered
        size = 0
        while self._registered < len(self.layers) and size < _MOST_NAMES_BYTES:
            name = self.layers.name(self._registered)
            request.register_layers.name.append(name)
            size += len(name.encode("utf-8")) + _NAME_FIELD_BYTES
            self._registered += 1
        return request


def _are_on(counts: observe_pb2.StepCounts, grids: observe_pb2.StepGrids) -> bool:
    """Whether counts were made on these grids."""
    return (
        counts.world_epoch == grids.world_epoch
        and len(counts.count) == len(grids.grid)
        and all(count.grid == grid for count, grid in zip(counts.count, grids.grid))
    )


def _server_error(what: str) -> CalibdError:
    return errors.make_error("INTERNAL", f"the server contradicts itself, which is a bug in it: {what}")


def _expected_step(refusal: CalibdError) -> int:
    """The number that the refusal expected; 0 when it names none."""
    expected = refusal.metadata.get("expected", "")
    return int(expected) if expected.isascii() and expected.isdigit() else 0
