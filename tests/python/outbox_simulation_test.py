"""Random histories of losses, restarts and refusals: every value counts exactly once."""

from __future__ import annotations

import collections
import random
from typing import Deque, Dict

import numpy as np
import pytest
from calibd import batch
from calibd.errors import CalibdError, Meaning
from calibd.observe import observe
from calibd.outbox import Outbox
from calibd.rpc import observe_pb2 as pb
from calibd.rpc import statistics_pb2
from calibd.statistics import TensorStatistics
from model_server import ModelServer, observer_of

LAYERS = ["a", "b", "range.a", "range.b", "channels", "refused"]


class Simulation:
    """One worker's outbox, a server, and a network that delivers in order, and at any moment loses all on its way."""

    def __init__(self, seed: int, name_refused_layers: bool) -> None:
        self.random = random.Random(seed)
        self.values = np.random.default_rng(seed)
        self.server = ModelServer(name_refused_layers)
        # Small messages, so that rounds take several, and even layers do.
        small = self.chance(50)
        self.outbox = Outbox(1 + self.random.randrange(3), 300 if small else batch.MAX_BATCH_BYTES)
        self.connected = False
        self.to_server: Deque[pb.ObserveRequest] = collections.deque()
        self.to_client: Deque[pb.ObserveResponse] = collections.deque()
        self.expected: Dict[str, TensorStatistics] = {}
        self.values_added = 0

    def chance(self, percent: int) -> bool:
        return self.random.randrange(100) < percent

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()
            self.check_step()
        self.drain()
        self.check_end()

    def step(self) -> None:
        action = self.random.randrange(100)
        if action < 25:
            self.observe()
        elif action < 55:
            if self.connected:
                self.send()
            elif self.chance(50):
                self.connect()
        elif action < 75:
            self.server_takes()
        elif action < 90:
            self.deliver()
        elif action < 94:
            self.cut()
        elif action < 98:
            self.server.checkpoint()
            if self.connected:
                self.to_client.append(self.server.ack())
        else:
            self.cut()
            self.server.crash()

    def observe(self) -> None:
        """One tensor of a layer, as statistics or raw."""
        layer = LAYERS[self.random.randrange(6 if self.chance(3) else 5)]
        observer = observer_of(layer)
        bits = self.values.integers(0, 2**32, (3, self.random.randrange(1, 5)), dtype=np.uint32)
        array = bits.view(np.float32)
        statistics = observe(array, observer)
        try:
            if self.chance(30):
                chunk = statistics_pb2.TensorChunk(shape=array.shape, data=array.tobytes())
                chunk.data_type = statistics_pb2.DATA_TYPE_FLOAT32
                self.outbox.add_raw(layer, observer, statistics.channels, chunk)
            else:
                self.outbox.add(layer, observer, statistics.copy())
        except CalibdError:
            assert layer == "refused"
            return
        self.values_added += array.size
        if layer in self.expected:
            self.expected[layer].merge(statistics)
        else:
            self.expected[layer] = statistics

    def connect(self) -> None:
        welcome = self.server.open()
        if self.chance(20):
            return  # lost on its way
        self.outbox.take_welcome(welcome)
        self.connected = True

    def send(self) -> bool:
        message = self.outbox.next_message(statistics_due=self.chance(60))
        if message is None:
            return False
        self.to_server.append(message)
        return True

    def server_takes(self) -> None:
        if not self.to_server:
            return
        request = self.to_server.popleft()
        response = self.server.take(request)
        # A repeated message changes nothing, whatever comes before or after it.
        if request.HasField("update") and response.HasField("ack") and self.chance(10):
            self.server.take(request)
        # Acks conflate.
        if response.HasField("refusal") or self.chance(70):
            self.to_client.append(response)

    def deliver(self) -> None:
        if not self.to_client:
            return
        response = self.to_client.popleft()
        if response.HasField("ack"):
            self.outbox.take_ack(response.ack)
            return
        assert self.outbox.take_refusal(response.refusal) is not Meaning.WORKER_ENDS, response
        self.cut()

    def cut(self) -> None:
        """Some of what is on its way still arrives at the server, and nothing comes back."""
        for _ in range(self.random.randrange(4)):
            self.server_takes()
        self.to_server.clear()
        self.to_client.clear()
        self.connected = False
        self.outbox.end_stream()

    def check_step(self) -> None:
        assert self.outbox.durable <= self.outbox.applied <= self.outbox.sent
        assert self.outbox.durable <= self.server.durable
        if self.connected:
            assert self.outbox.applied <= self.server.applied <= self.outbox.sent

    def drain(self) -> None:
        """Sends everything without further losses."""
        mark = self.outbox.mark()
        for _ in range(100):
            if self.outbox.is_durable(mark):
                break
            if not self.connected:
                self.connect()
            while self.connected and (self.send() or self.to_server):
                self.server_takes()
            self.server.checkpoint()
            if self.connected:
                self.to_client.append(self.server.ack())
            while self.connected and self.to_client:
                self.deliver()
        assert self.outbox.is_durable(mark) and self.outbox.is_applied(mark)

    def check_end(self) -> None:
        assert self.outbox.durable == self.server.durable
        assert self.outbox.total_bytes() == 0
        counted = sum(statistics.values() for statistics in self.server.layers.values())
        assert counted + self.outbox.values_refused == self.values_added
        assert (self.outbox.refusal is None) == (self.outbox.values_refused == 0)
        if self.server.name_refused_layers:  # no other layer lost anything to the refused one
            self.expected.pop("refused", None)
            assert self.server.layers == self.expected


@pytest.mark.parametrize("hundred", range(3))
def test_everything_is_counted_exactly_once(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        Simulation(seed, name_refused_layers=True).run(200)


@pytest.mark.parametrize("hundred", range(1))
def test_everything_is_counted_once_or_reported_as_refused(hundred: int) -> None:
    for seed in range(100 * hundred, 100 * hundred + 100):
        Simulation(seed, name_refused_layers=False).run(200)
