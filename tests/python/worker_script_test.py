"""What a worker does about servers that do what real ones should not."""

from __future__ import annotations

import threading
import time
from typing import Any

import grpc
import numpy as np
import pytest
from calibd import observe_call
from calibd.channel import Connection
from calibd.config import Observer, Rule, SessionConfig
from calibd.errors import (
    CalibdError,
    DataLossError,
    FailedPreconditionError,
)
from calibd.worker import Worker
from scripted_server import LONG, ScriptedServer, Stream

ONES = np.ones(10, np.float32)


def open_worker(connection: Connection, **options: Any) -> Worker:
    return Worker(connection, "s", send_interval=0.001, min_backoff=0.001, max_backoff=0.05, **options)


def run(script: Any, *more: Any) -> "tuple[ScriptedServer, Worker]":
    scripted = ScriptedServer(script, *more)
    return scripted, open_worker(Connection(scripted.address))


def takes_all(stream: Stream) -> None:
    stream.welcome()
    while True:
        unit = stream.next_update().last
        stream.ack(unit, unit)


def test_lost_durable_units_end_the_worker() -> None:
    def keeps_two(stream: Stream) -> None:
        stream.welcome()
        for unit in (1, 2):
            assert stream.next_update().first == unit
            stream.ack(unit, unit)

    def forgot(stream: Stream) -> None:
        assert stream.open.durable == 2
        stream.welcome(1, 1)
        stream.await_end()

    scripted, worker = run(keeps_two, forgot)
    with pytest.raises(DataLossError, match="units 2 to 2"):
        while True:
            worker.observe("a", ONES)
            worker.flush(LONG)
    with pytest.raises(DataLossError):
        worker.close()
    scripted.stop()


def test_a_session_made_again_with_another_config_ends_the_worker() -> None:
    def first(stream: Stream) -> None:
        stream.welcome()

    def second(stream: Stream) -> None:
        stream.welcome(config=SessionConfig((Rule("*", Observer("minmax")),)))
        stream.await_end()

    scripted, worker = run(first, second)
    with pytest.raises(CalibdError) as caught:
        worker.observe("a", ONES)
        worker.flush(LONG)
    assert caught.value.reason == "SESSION_CONFIG_MISMATCH"
    scripted.stop()


def test_a_server_that_is_full_is_tried_again() -> None:
    def full(stream: Stream) -> None:
        stream.context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)

    def refuses(stream: Stream) -> None:
        stream.welcome()
        stream.refuse(
            stream.next_update().first,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "LIMIT_EXCEEDED",
            option="--max-state-bytes",
        )
        stream.await_end()

    scripted, worker = run(full, refuses, full, takes_all)
    worker.observe("a", ONES)
    worker.close(LONG)
    assert worker.error is None and len(scripted.streams) == 4
    scripted.stop()


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe_call, "WELCOME_TIMEOUT", 0.05)
    scripted, worker = run(Stream.await_end, takes_all)
    worker.observe("a", ONES)
    worker.close(LONG)
    assert len(scripted.streams) == 2
    scripted.stop()


def test_a_server_that_contradicts_itself_ends_the_worker() -> None:
    def acks_too_much(stream: Stream) -> None:
        stream.welcome()
        stream.ack(7, 7)
        stream.await_end()

    scripted, worker = run(acks_too_much)
    with pytest.raises(CalibdError, match="contradicts itself"):
        worker.observe("a", ONES)
        worker.flush(LONG)
    scripted.stop()


def test_ctrl_c_leaves_a_worker_open_that_is_about_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    scripted, worker = run(takes_all)
    worker.observe("a", ONES)
    with monkeypatch.context() as patch:
        patch.setattr(worker._sender, "_wait_until_durable", interrupt)
        with pytest.raises(KeyboardInterrupt):
            worker.close(LONG)
    worker.observe("a", ONES)
    worker.flush(LONG)
    assert not worker.closed
    worker.close(LONG)
    assert worker.closed
    scripted.stop()


def test_ctrl_c_while_a_stream_ends_leaves_a_worker_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted, worker = run(takes_all)
    worker.observe("a", ONES)
    worker.flush(LONG)

    def interrupt() -> None:
        close()
        raise KeyboardInterrupt

    close = worker._sender._stream.close
    monkeypatch.setattr(worker._sender._stream, "close", interrupt)
    with pytest.raises(KeyboardInterrupt):
        worker.close(LONG)
    assert worker.closed
    with pytest.raises(FailedPreconditionError, match="closed"):
        worker.observe("a", ONES)
    worker.close(LONG)
    scripted.stop()


def test_observing_does_not_wait_for_a_server_that_stands_still() -> None:
    def takes_nothing(stream: Stream) -> None:
        stream.welcome()
        stream.await_end()

    scripted, worker = run(takes_nothing)
    for _ in range(100):
        worker.observe("a", ONES)
    assert worker.stats().pending_bytes < 100_000
    worker.abandon()
    with pytest.raises(FailedPreconditionError, match="closed"):
        worker.flush(LONG)
    scripted.stop()


def test_steps_wait_while_the_window_is_full() -> None:
    released = threading.Event()

    def waits(stream: Stream) -> None:
        stream.welcome(config=SessionConfig((Rule("*", Observer("reference_histogram")),)))
        released.wait(LONG)
        while True:
            unit = stream.next_update().last
            stream.ack(unit, unit)

    scripted = ScriptedServer(waits)
    worker = open_worker(Connection(scripted.address), raw_window_bytes=1 << 20)
    array = np.ones(200_000, np.float32)
    worker.observe("a", array)
    blocked = threading.Thread(target=worker.observe, args=("a", array))
    blocked.start()
    blocked.join(0.05)
    assert blocked.is_alive() and worker.stats().values_observed == array.size
    released.set()
    blocked.join(LONG)
    assert not blocked.is_alive()
    worker.close(LONG)
    assert worker.stats().values_observed == 2 * array.size
    scripted.stop()


def test_a_worker_that_an_exception_ends_keeps_its_data() -> None:
    scripted, worker = run(takes_all)
    with pytest.raises(KeyError):
        with worker:
            worker.observe("a", ONES)
            raise KeyError
    assert worker.stats().durable == 1
    scripted.stop()


def test_closing_gives_up_a_server_that_is_away() -> None:
    scripted, worker = run(takes_all)
    worker.observe("a", ONES)
    worker.flush(LONG)
    scripted.stop()
    begin = time.monotonic()
    worker.close(LONG)
    assert time.monotonic() - begin < LONG
