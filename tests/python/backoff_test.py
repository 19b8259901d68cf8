"""Waits between streams: what they are, and after which streams they begin anew."""

from __future__ import annotations

import threading
from typing import Any, List

import pytest
from calibd import backoff, observe_call
from calibd.backoff import Backoff
from calibd.channel import Connection
from calibd.config import SessionConfig, Synchronous
from calibd.rank import Rank
from calibd.worker import Worker
from scripted_server import LONG, ScriptedServer, Stream


def test_waits_double_up_to_the_greatest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.random, "uniform", lambda low, high: high)
    waits = Backoff(1.0, 5.0)
    assert [waits.next() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    waits.reset()
    assert [waits.next() for _ in range(2)] == [1.0, 2.0]


def test_waits_are_shortened_by_up_to_a_half() -> None:
    waits = [Backoff(1.0, 5.0).next() for _ in range(1000)]
    assert 0.5 <= min(waits) < 0.6 and 0.9 < max(waits) <= 1.0


@pytest.mark.parametrize("opens", ["worker", "rank"])
def test_only_a_stream_with_a_welcome_is_a_steady_one(monkeypatch: pytest.MonkeyPatch, opens: str) -> None:
    resets: List[Backoff] = []
    monkeypatch.setattr(Backoff, "reset", lambda waits: resets.append(waits))
    monkeypatch.setattr(observe_call, "WELCOME_TIMEOUT", 0.05)
    monkeypatch.setattr(observe_call, "STEADY_STREAM", 0.0)
    config = SessionConfig(synchronous=Synchronous(window=16) if opens == "rank" else None)
    last_opened = threading.Event()

    def welcomes(stream: Stream) -> None:
        stream.welcome(config=config)

    def stays(stream: Stream) -> None:
        last_opened.set()
        stream.welcome(config=config)
        stream.await_end()

    # The silent ones live longer than a steady stream has to.
    scripted = ScriptedServer(Stream.await_end, Stream.await_end, welcomes, stays)
    connection = Connection(scripted.address)
    options: Any = {"min_backoff": 0.001, "max_backoff": 0.05}
    client = Rank(connection, "s", 0, **options) if opens == "rank" else Worker(connection, "s", **options)
    assert client.config == config
    assert last_opened.wait(LONG)
    client.close(LONG)
    scripted.stop()
    assert len(resets) == 1
