"""The server's side of synchronous steps as calib/v1/observe.proto has it, as plainly as can be."""

from __future__ import annotations

import collections
import dataclasses
from typing import Deque, Dict, List, Optional

from calibd.rpc import errors_pb2, observe_pb2


def refusal(step: int, reason: str, expected: int = 0) -> observe_pb2.Refusal:
    """The refusal of a step's message."""
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name[f"ERROR_REASON_{reason}"]
    code = value.GetOptions().Extensions[errors_pb2.status_code]
    message = observe_pb2.Refusal(step=step, code=code, message=f"refused: {reason}")
    message.info.reason = reason
    message.info.domain = "calibd"
    if expected:
        message.info.metadata["expected"] = str(expected)
    return message


@dataclasses.dataclass
class Folded:
    epoch: int
    world_size: int
    tokens: Dict[int, int]  # by rank


@dataclasses.dataclass
class State:
    folded: List[Folded]  # step 1 first
    epoch: int
    world_size: int

    def copy(self) -> State:
        return State(list(self.folded), self.epoch, self.world_size)


@dataclasses.dataclass
class Contribution:
    token: int = 0
    counts_wanted: bool = False
    counted: bool = False
    left_out: bool = False  # its counts came too late


@dataclasses.dataclass
class OpenStep:
    ranks: Dict[int, Contribution] = dataclasses.field(default_factory=dict)
    grid_end: Optional[float] = None  # once counts were asked for
    closed: bool = False


class Stream:
    def __init__(self) -> None:
        self.names: List[str] = []
        self.answers: Deque[observe_pb2.ObserveResponse] = collections.deque()


class StepModelServer:
    """One session, no transport, no arithmetic, and a store that is a copy. What a rank gives for a step is a number,
    its token: the count of layer "a". A rank that names the layer "reference" too is asked to count: its counts must be
    its token again, on a grid that ends at the sum of all ranks' tokens. It can crash, and deadlines pass when it is
    told so. Messages that break the rules are assertion errors."""

    def __init__(self, world_size: int, window: int, policy: str) -> None:
        self.window = window
        self.policy = policy
        self.state = State([], 1, world_size)
        self._durable = self.state.copy()
        self._open: Dict[int, OpenStep] = {}
        self._streams: Dict[int, Stream] = {}  # by rank

    @property
    def folded_step(self) -> int:
        return len(self.state.folded)

    @property
    def durable_step(self) -> int:
        return len(self._durable.folded)

    def open(self, rank: int) -> Optional[observe_pb2.Welcome]:
        """A new stream of the rank. None: the world has no such rank."""
        if rank >= self.state.world_size:
            return None
        self._streams[rank] = Stream()
        welcome = observe_pb2.Welcome(folded_step=self.folded_step, durable_step=self.durable_step)
        welcome.world.epoch = self.state.epoch
        welcome.world.size = self.state.world_size
        welcome.config.synchronous.window = self.window
        return welcome

    def close(self, rank: int) -> None:
        self._streams.pop(rank, None)

    def answers(self, rank: int) -> Deque[observe_pb2.ObserveResponse]:
        """The answers to the rank's stream, oldest first; taken by the caller."""
        return self._streams[rank].answers

    def take(self, rank: int, request: observe_pb2.ObserveRequest) -> None:
        """Takes the next message of the rank's stream."""
        names = self._streams[rank].names
        kind = request.WhichOneof("kind")
        if kind == "register_layers":
            assert request.register_layers.first_handle == len(names), "handles out of order"
            names.extend(request.register_layers.name)
        elif kind == "step_contribution":
            self._take_contribution(rank, request.step_contribution, names)
        else:
            assert kind == "step_counts", "a message that is none of a step"
            self._take_counts(rank, request.step_counts)

    def checkpoint(self) -> None:
        """What is folded becomes durable, and open streams hear of it."""
        self._durable = self.state.copy()
        for rank in self._streams:
            ack = observe_pb2.Ack(folded_step=self.folded_step, durable_step=self.durable_step)
            self._answer(rank, observe_pb2.ObserveResponse(ack=ack))

    def crash(self) -> None:
        self.state = self._durable.copy()
        self._open.clear()
        self._streams.clear()

    def expire(self) -> None:
        """The deadline of the lowest open step passes, if it has a contribution."""
        if not self._open or self.policy == "wait":
            return
        if self.policy == "fail":
            self._drop_open("STEP_TIMED_OUT")
            return
        lowest = self._open.setdefault(self.folded_step + 1, OpenStep())
        for contribution in lowest.ranks.values():
            waits = contribution.counts_wanted and not contribution.counted
            contribution.left_out = lowest.grid_end is not None and waits
        lowest.closed = True
        self._advance()

    def set_world(self, size: int) -> None:
        self.state.epoch += 1
        self.state.world_size = size
        self._durable = self.state.copy()
        for rank in self._streams:
            world = observe_pb2.ObserveResponse()
            world.world.epoch = self.state.epoch
            world.world.size = size
            self._answer(rank, world)
        self._drop_open("WORLD_EPOCH_STALE")

    def _take_contribution(self, rank: int, contribution: observe_pb2.StepContribution, names: List[str]) -> None:
        step = contribution.step
        if rank >= self.state.world_size:
            self._refuse(rank, step, "RANK_INVALID")
            return
        if self.folded_step - self.window < step <= self.folded_step:
            self._send_result(rank, step)
            return
        if contribution.world_epoch != self.state.epoch:
            self._refuse(rank, step, "WORLD_EPOCH_STALE")
            return
        if not self.folded_step < step <= self.folded_step + self.window:
            self._refuse(rank, step, "STEP_OUT_OF_WINDOW", self.folded_step + 1)
            return
        given = Contribution()
        for i, handle in enumerate(contribution.statistics.layer):
            assert handle < len(names), "an unknown handle"
            if names[handle] == "a":
                given.token = contribution.statistics.count[i]
            given.counts_wanted = given.counts_wanted or names[handle] == "reference"
        open_step = self._open.setdefault(step, OpenStep())
        earlier = open_step.ranks.get(rank)
        if earlier is not None and earlier.token == given.token:
            given.counted = earlier.counted
        elif open_step.grid_end is not None:
            # Its grids were made of other tokens.
            open_step.grid_end = None
            for other in open_step.ranks.values():
                other.counted = False
        open_step.ranks[rank] = given
        if open_step.grid_end is not None and given.counts_wanted and not given.counted:
            self._send_grids(rank, step, open_step.grid_end)
        self._advance()

    def _take_counts(self, rank: int, counts: observe_pb2.StepCounts) -> None:
        open_step = self._open.get(counts.step)
        if counts.world_epoch != self.state.epoch or open_step is None or open_step.grid_end is None:
            return
        contribution = open_step.ranks.get(rank)
        if contribution is None or contribution.counted:
            return
        assert len(counts.count) == 1, "counts of other layers"
        if counts.count[0].grid.high != open_step.grid_end:
            self._refuse(rank, counts.step, "REFERENCE_GRID_MISMATCH")
            return
        assert list(counts.count[0].count) == [contribution.token], "counts of another contribution"
        contribution.counted = True
        self._advance()

    def _advance(self) -> None:
        while self.folded_step + 1 in self._open:
            step = self.folded_step + 1
            ranks = self._open[step].ranks
            if self._open[step].grid_end is None:
                if len(ranks) < self.state.world_size and not self._open[step].closed:
                    return
                grid_end = float(sum(contribution.token for contribution in ranks.values()))
                self._open[step].grid_end = grid_end
                for rank, contribution in ranks.items():
                    if contribution.counts_wanted:
                        self._send_grids(rank, step, grid_end)
            if not all(given.counted or not given.counts_wanted or given.left_out for given in ranks.values()):
                return
            tokens = {rank: given.token for rank, given in ranks.items() if not given.left_out}
            self.state.folded.append(Folded(self.state.epoch, self.state.world_size, tokens))
            for rank in ranks:
                self._send_result(rank, step)
            del self._open[step]

    def _send_result(self, rank: int, step: int) -> None:
        folded = self.state.folded[step - 1]
        response = observe_pb2.ObserveResponse()
        response.step_result.step = step
        response.step_result.world_epoch = folded.epoch
        response.step_result.world_size = folded.world_size
        response.step_result.ranks = len(folded.tokens)
        response.step_result.counted = rank in folded.tokens
        self._answer(rank, response)

    def _send_grids(self, rank: int, step: int, grid_end: float) -> None:
        response = observe_pb2.ObserveResponse()
        response.step_grids.step = step
        response.step_grids.world_epoch = self.state.epoch
        response.step_grids.grid.add(high=grid_end, bins=1)
        self._answer(rank, response)

    def _refuse(self, rank: int, step: int, reason: str, expected: int = 0) -> None:
        self._answer(rank, observe_pb2.ObserveResponse(refusal=refusal(step, reason, expected)))

    def _answer(self, rank: int, response: observe_pb2.ObserveResponse) -> None:
        if rank in self._streams:
            self._streams[rank].answers.append(response)

    def _drop_open(self, reason: str) -> None:
        dropped, self._open = self._open, {}
        for step in sorted(dropped):
            for rank in dropped[step].ranks:
                self._refuse(rank, step, reason)
