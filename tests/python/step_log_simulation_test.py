"""Ranks' step logs against a server that plays by the rules, and a network and processes that do not."""

from __future__ import annotations

import collections
import random

import pytest
from calibd import config
from calibd.rpc import observe_pb2
from calibd.step_contribution import EncodedStep, StepTicket
from calibd.step_layers import StepLayers
from calibd.step_log import AfterRefusal, StepLog
from step_model_server import StepModelServer

MOST_RANKS = 4
SEEDS = 250


def token_of(rank, step, epoch):
    """What a rank gives for a step in a world: no other contribution is the same."""
    return step * 1000000 + epoch * 100 + rank + 1


class Rank:
    """A process of a rank: its log, and what the caller around it would do."""

    def __init__(self, rank, counts):
        self.rank = rank
        self.counts = counts
        layers = StepLayers(lambda name: config.Observer("reference_histogram" if name == "reference" else "histogram"))
        self.log = StepLog(rank, layers, lambda ticket: None)
        self.connected = False
        self.to_server = collections.deque()
        self.tickets = {}  # the newest of each step
        self.unfinished = collections.deque()

    def contribute(self):
        """Contributes to the next step, or hears why not."""
        if self.log.news(any_error=True) is not None:
            self.log.take_news()
            return
        step = self.log.next_step
        if not self.log.is_in_window(step):
            return
        assert self.log.find(step) is None
        token = token_of(self.rank, step, self.log.world.epoch)
        encoded = EncodedStep(observe_pb2.ObserveRequest(), nbytes=8)
        for name in ("a", "reference") if self.counts else ("a",):
            number = self.log.layers.find(name).number
            encoded.request.step_contribution.statistics.layer.append(number)
            encoded.request.step_contribution.statistics.count.append(token)
            encoded.layers_used = number + 1
        encoded.values = [token] if self.counts else []
        self.tickets[step] = StepTicket()
        self.log.add(step, encoded, self.tickets[step])

    def count(self):
        job = self.log.take_count_job()
        if job is None:
            return
        request = observe_pb2.ObserveRequest()
        request.step_counts.step = job.grids.step
        request.step_counts.world_epoch = job.grids.world_epoch
        request.step_counts.count.add(grid=job.grids.grid[0], count=list(job.values))
        self.unfinished.append((job, request))

    def finish_counting(self):
        if self.unfinished:
            self.log.add_counts(*self.unfinished.popleft())

    def send(self):
        message = self.log.next_message()
        if message is None:
            return False
        copy = observe_pb2.ObserveRequest()
        copy.CopyFrom(message)
        self.to_server.append(copy)
        return True

    def take(self, response):
        kind = response.WhichOneof("kind")
        if kind == "refusal":
            after, error = self.log.on_refusal(response.refusal)
            assert after is AfterRefusal.GO_ON, error
            return
        handlers = {
            "ack": self.log.on_ack,
            "step_grids": self.log.on_grids,
            "step_result": self.log.on_result,
            "world": self.log.on_world,
        }
        handlers[kind](getattr(response, kind))


class Simulation:
    def __init__(self, seed, policy, kill):
        self.random = random.Random(seed)
        self.policy = policy
        self.kill = kill
        self.counts = self.chance(50)
        self.window = 1 + self.pick(4)
        self.server = StepModelServer(1 + self.pick(3), self.window, policy)
        self.ranks = [Rank(rank, self.counts) for rank in range(MOST_RANKS)]

    def run(self, actions):
        for _ in range(actions):
            self.act()
        self.drain()
        self.check_end()

    def pick(self, choices):
        return int(self.random.random() * choices)

    def chance(self, percent):
        return self.pick(100) < percent

    def act(self):
        number = self.pick(self.server.state.world_size)
        rank = self.ranks[number]
        action = self.pick(200)
        if action < 40:
            if rank.log.settled:
                rank.contribute()
        elif action < 80:
            if rank.connected:
                rank.send()
            else:
                self.connect(number)
        elif action < 125:
            self.server_takes(number)
        elif action < 170:
            self.deliver(number)
        elif action < 180:
            if self.chance(50):
                rank.count()
            else:
                rank.finish_counting()
        elif action < 185:
            self.cut(number)
        elif action < 191:
            self.server.checkpoint()
        elif action < 194:
            self.server.expire()
        elif action < 196:
            self.crash()
        elif action < 197:
            self.server.set_world(1 + self.pick(MOST_RANKS))
        elif self.kill and action < 199:
            self.cut(number)
            self.ranks[number] = Rank(number, self.counts)

    def connect(self, number):
        welcome = self.server.open(number)
        if welcome is None or self.chance(20):
            return  # lost on its way
        rank = self.ranks[number]
        rank.log.on_welcome(welcome)
        rank.connected = True
        # As a worker does before it lets its caller contribute.
        if not rank.log.settled:
            self.server.checkpoint()

    def server_takes(self, number):
        rank = self.ranks[number]
        if not rank.to_server:
            return
        message = rank.to_server.popleft()
        self.server.take(number, message)
        # A contribution that was taken and comes again changes nothing.
        answers = self.server.answers(number)
        refused = bool(answers) and answers[-1].HasField("refusal")
        if message.HasField("step_contribution") and not refused and self.chance(5):
            self.server.take(number, message)

    def deliver(self, number):
        if not self.ranks[number].connected or not self.server.answers(number):
            return False
        self.ranks[number].take(self.server.answers(number).popleft())
        return True

    def cut(self, number):
        rank = self.ranks[number]
        for _ in range(self.pick(4) if rank.connected else 0):
            self.server_takes(number)
        rank.to_server.clear()
        rank.connected = False
        rank.log.on_stream_end()
        self.server.close(number)

    def crash(self):
        for number in range(MOST_RANKS):
            self.cut(number)
        self.server.crash()

    def drain(self):
        """Everything arrives, all ranks of the world go on, until they came two steps further and all is durable."""
        world = range(self.server.state.world_size)
        for number in range(self.server.state.world_size, MOST_RANKS):
            self.cut(number)
        steps = [self.server.folded_step + self.window + 2] + [self.ranks[number].log.next_step for number in world]
        goal = max(steps)
        for round_number in range(500):
            if self.server.folded_step >= goal:
                break
            # A rank that was too late for a step waits for nobody to close it again after a crash.
            if round_number % 20 == 19 and self.policy == "close_partial":
                self.server.expire()
            for number in world:
                rank = self.ranks[number]
                while not rank.connected:
                    self.connect(number)
                self.settle(number)
                if rank.log.next_step <= goal:
                    rank.contribute()
                self.settle(number)
        self.server.checkpoint()
        for _ in range(10):
            for number in world:
                self.settle(number)
        self.server.checkpoint()
        for number in world:
            self.settle(number)
        assert self.server.folded_step >= goal, "the ranks got stuck"

    def settle(self, number):
        rank = self.ranks[number]
        busy = True
        while busy:
            busy = self.deliver(number)
            rank.count()
            rank.finish_counting()
            busy = rank.send() or busy
            while rank.to_server:
                self.server_takes(number)
                busy = True

    def check_end(self):
        state = self.server.state
        for step, folded in enumerate(state.folded, 1):
            if self.policy != "close_partial":
                assert len(folded.tokens) == folded.world_size, step
            for rank, token in folded.tokens.items():
                assert token == token_of(rank, step, folded.epoch)
        for number in range(state.world_size):
            log = self.ranks[number].log
            assert log.empty and log.kept_bytes == 0
            for step, ticket in self.ranks[number].tickets.items():
                assert ticket.answered, (number, step)
                self.check_answer(number, step, ticket)

    def check_answer(self, number, step, ticket):
        state = self.server.state
        if ticket.error is not None:
            assert ticket.error.reason
            return
        assert ticket.result.step == step
        if step > self.server.folded_step:
            # A crash and a change of the world took it back, and the ranks have not come as far again.
            assert ticket.result.world_epoch < state.epoch
            return
        # A step that is closed without a rank after a crash may have been whole before it; and the world may have been
        # without this rank when the step was folded.
        if self.policy == "close_partial" or number >= state.folded[step - 1].world_size:
            return
        assert ticket.result.counted
        assert number in state.folded[step - 1].tokens, (number, step)


@pytest.mark.parametrize("policy", ["wait", "fail", "close_partial"])
@pytest.mark.parametrize("kill", [False, True], ids=["ranks_live", "ranks_start_again"])
def test_every_step_has_every_rank_once(policy, kill):
    for seed in range(SEEDS):
        try:
            Simulation(seed, policy, kill).run(600)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
