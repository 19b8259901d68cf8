"""What a worker does about each thing that can happen to it."""

from __future__ import annotations

import pathlib
import threading
import time
from typing import Any, Iterator

import numpy as np
import pytest
from calibd.channel import Connection
from calibd.config import Observer, Rule, SessionConfig, Synchronous
from calibd.errors import (
    AbortedError,
    CalibdError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from calibd.observe import observe
from calibd.observer import ReferenceHistogram
from calibd.rpc import calibration_service_pb2 as service
from calibd.worker import Worker
from scripted_server import LONG

ONES = np.ones(10, np.float32)


@pytest.fixture
def server(start_server: Any, tmp_path: pathlib.Path) -> Any:
    """One that keeps what it has through restarts."""
    return start_server("--store", f"rocksdb:{tmp_path}/store", "--checkpoint-interval", "20ms")


@pytest.fixture
def connection(server: Any) -> Iterator[Connection]:
    connection = Connection(server.address, timeout=LONG)
    yield connection
    connection.close()


def create(connection: Connection, session: str, *rules: Rule, synchronous: bool = False) -> None:
    config = SessionConfig(rules, synchronous=Synchronous(2) if synchronous else None).to_proto()
    connection.unary("CreateSession", service.CreateSessionRequest(session=session, config=config))


def open_worker(connection: Connection, session: str = "s", **options: Any) -> Worker:
    return Worker(connection, session, send_interval=0.001, min_backoff=0.001, max_backoff=0.05, **options)


def statistics(connection: Connection, session: str = "s") -> service.GetStatisticsResponse:
    return connection.unary("GetStatistics", service.GetStatisticsRequest(session=session))


def counts(connection: Connection, session: str = "s") -> dict:
    response = statistics(connection, session)
    rows = list(response.statistics.count)
    channels = response.statistics.channels or [1] * len(response.layer)
    return {layer: sum(rows.pop(0) for _ in range(n)) for layer, n in zip(response.layer, channels)}


def test_a_session_of_many_threads_and_workers_adds_up(connection: Connection) -> None:
    create(connection, "s")
    workers = [open_worker(connection) for _ in range(2)]

    def run(worker: Worker) -> None:
        for _ in range(25):
            worker.observe("a", ONES)
            worker.observe("b", ONES)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in workers for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for worker in workers:
        worker.close(LONG)
        stats = worker.stats()
        assert stats.values_observed == 1500 and stats.pending_bytes == 0 and stats.durable == stats.applied > 0
    assert counts(connection) == {"a": 1500, "b": 1500}


def test_a_worker_that_observes_nothing_opens_no_stream() -> None:
    with Worker(Connection("127.0.0.1:1"), "s") as worker:
        worker.flush()
    worker.close()


def test_everything_counts_once_through_restarts(server: Any, connection: Connection) -> None:
    create(connection, "s")
    worker = open_worker(connection)
    for round_of_steps in range(4):
        for _ in range(20):
            worker.observe("a", ONES)
        if round_of_steps % 2 == 0:
            worker.flush(LONG)
        server.kill()
        server.start()
    worker.close(LONG)
    assert counts(connection) == {"a": 800}
    assert worker.stats().reconnections > 0


def test_observing_goes_on_while_the_server_is_away(server: Any, connection: Connection) -> None:
    create(connection, "s")
    worker = open_worker(connection)
    worker.observe("a", ONES)
    worker.flush(LONG)
    server.stop()
    for _ in range(100):
        worker.observe("a", ONES)
    with pytest.raises(DeadlineExceededError, match="bytes are not durable yet"):
        worker.flush(0.1)
    server.start()
    worker.flush(LONG)
    assert counts(connection) == {"a": 1010}
    worker.close(LONG)


@pytest.fixture
def patient_connection(start_server: Any) -> Iterator[Connection]:
    """To a server that makes nothing durable unless it is asked to."""
    connection = Connection(start_server("--store", "memory", "--checkpoint-interval", "1h").address, timeout=LONG)
    yield connection
    connection.close()


def test_a_flush_is_not_held_up_by_rounds_that_wait_for_a_checkpoint(patient_connection: Connection) -> None:
    create(patient_connection, "s")
    worker = open_worker(patient_connection, updates_in_flight=2)
    request = service.GetSessionRequest(session="s")
    for sent in (1, 2):
        worker.observe("a", ONES)
        deadline = time.monotonic() + LONG
        while patient_connection.unary("GetSession", request).session.updates_applied < sent:
            assert time.monotonic() < deadline
    worker.observe("a", ONES)
    worker.flush(LONG)
    assert worker.stats().durable == 3
    worker.close(LONG)


def test_steps_past_the_window_ask_for_a_checkpoint(patient_connection: Connection) -> None:
    create(patient_connection, "s", Rule("*", Observer("reference_histogram")))
    worker = open_worker(patient_connection, raw_window_bytes=1 << 20)

    def observe_more_than_the_window() -> None:
        for _ in range(3):
            worker.observe("a", np.ones(200_000, np.float32))

    observing = threading.Thread(target=observe_more_than_the_window, daemon=True)
    observing.start()
    observing.join(LONG)
    assert worker.stats().values_observed == 600_000
    worker.close(LONG)
    assert counts(patient_connection) == {"a": 600_000}


def test_an_earlier_process_is_gone_on_from(connection: Connection) -> None:
    create(connection, "s")
    for _ in range(3):
        worker = open_worker(connection, worker_id="the-one")
        worker.observe("a", ONES)
        worker.close(LONG)
    assert worker.stats().durable == 3 and counts(connection) == {"a": 30}


def test_a_newer_worker_fences_the_older(connection: Connection) -> None:
    create(connection, "s")
    older, newer = (open_worker(connection, worker_id="the-one") for _ in range(2))
    older.observe("a", ONES)
    older.flush(LONG)
    newer.observe("a", ONES)
    newer.flush(LONG)
    with pytest.raises(AbortedError) as caught:
        while True:
            older.observe("a", ONES)
            older.flush(LONG)
    assert caught.value.reason == "WORKER_FENCED"
    with pytest.raises(AbortedError):
        older.close(LONG)
    newer.close(LONG)


def test_a_session_that_is_not_there_ends_the_worker(connection: Connection) -> None:
    worker = open_worker(connection, "nowhere")
    for call in (lambda: worker.observe("a", ONES), worker.flush, lambda: worker.config):
        with pytest.raises(NotFoundError, match="nowhere"):
            call()
    assert worker.error is not None and worker.error.reason == "SESSION_NOT_FOUND"
    with pytest.raises(NotFoundError):
        worker.close()


def test_a_server_that_cannot_be_reached_is_named() -> None:
    worker = open_worker(Connection("127.0.0.1:1"), open_timeout=0.2)
    with pytest.raises(UnavailableError, match="127.0.0.1:1"):
        worker.observe("a", ONES)
    worker.abandon()
    with pytest.raises(FailedPreconditionError, match="closed"):
        worker.observe("a", ONES)


def test_a_sealed_session_ends_a_worker_with_data(connection: Connection) -> None:
    create(connection, "s")
    worker = open_worker(connection)
    worker.observe("a", ONES)
    worker.flush(LONG)
    connection.unary("SealSession", service.SealSessionRequest(session="s"))
    with pytest.raises(CalibdError) as caught:
        while True:
            worker.observe("a", ONES)
            worker.flush(LONG)
    assert caught.value.reason == "SESSION_SEALED"
    assert counts(connection) == {"a": 10}


def test_a_refused_layer_leaves_the_others_alone(connection: Connection) -> None:
    create(connection, "s", Rule("bad", Observer("histogram", 0)), Rule("*", Observer()))
    first, second = open_worker(connection), open_worker(connection)
    first.observe("bad", np.ones((3, 2), np.float32))
    first.close(LONG)
    second.observe("bad", np.ones((4, 2), np.float32))
    second.observe("good", ONES)
    with pytest.raises(FailedPreconditionError) as caught:
        second.flush(LONG)
    assert caught.value.reason == "CHANNEL_COUNT_CHANGED"
    with pytest.raises(FailedPreconditionError):
        second.observe("bad", np.ones((4, 2), np.float32))
    second.observe("good", ONES)
    with pytest.raises(FailedPreconditionError):
        second.close(LONG)
    assert second.stats().values_refused == 8
    assert counts(connection)["good"] == 20


def test_what_is_collected_decides_what_is_sent(connection: Connection) -> None:
    create(
        connection,
        "s",
        Rule("skipped", None),
        Rule("passive", Observer("passive")),
        Rule("range", Observer("minmax")),
        Rule("*", Observer()),
    )
    with open_worker(connection) as worker:
        for layer in ("skipped", "passive", "range", "histogram"):
            worker.observe(layer, ONES)
            worker.observe_statistics(layer, observe(ONES, Observer()))
        assert worker.observer_of("skipped") is None and worker.observer_of("range") == Observer("minmax")
    assert counts(connection) == {"range": 20, "histogram": 20}
    assert len(statistics(connection).statistics.histogram) == 1


def test_bad_data_is_refused_and_changes_nothing(connection: Connection) -> None:
    create(connection, "s", Rule("reference", Observer("reference_histogram")), Rule("*", Observer()))
    with open_worker(connection) as worker:
        wrong = observe(ONES, Observer())
        wrong.count[:] = 11
        for layer, bad in (
            ("a", observe(np.ones((2, 2), np.float32), Observer("histogram", 0))),
            ("a", observe(ONES, Observer("minmax"))),
            ("a", observe(ONES, Observer(), 4)),
            ("a", wrong),
            ("reference", observe(ONES, Observer())),
        ):
            with pytest.raises(InvalidArgumentError):
                worker.observe_statistics(layer, bad)
        for layer, array in (("a", np.ones(3)), ("", ONES), ("x" * 600, ONES), ("a", np.ones(3, np.int32))):
            with pytest.raises(InvalidArgumentError):
                worker.observe(layer, array)
        with pytest.raises(InvalidArgumentError, match="synchronous"):
            worker.observe("reference", np.ones(300_000, np.float32))
        worker.observe("a", ONES)
    assert counts(connection) == {"a": 10}


def test_statistics_are_copied(connection: Connection) -> None:
    create(connection, "s")
    counted = observe(ONES, Observer())
    before = counted.copy()
    with open_worker(connection) as worker:
        worker.observe_statistics("a", counted)
        worker.observe("a", ONES)
        worker.observe_statistics("a", counted)
        assert counted == before
    assert counts(connection) == {"a": 30}


def test_order_dependent_layers_take_each_call_as_a_step(connection: Connection) -> None:
    reference = Observer("reference_histogram", reference_histogram=ReferenceHistogram("pytorch", 8))
    create(connection, "s", Rule("ema", Observer("ema")), Rule("*", reference))
    values = [np.array([low, low + 2], np.float32) for low in (1.0, 5.0, 3.0)]
    with open_worker(connection) as worker:
        for step in values[:2]:
            worker.observe("ema", step)
            worker.observe("reference", step)
        worker.observe_statistics("ema", observe(values[2], Observer()))
        worker.observe("reference", values[2].astype(np.float16))
    held = statistics(connection).statistics
    (ema,) = held.ema
    expected = np.float32(1.0)
    for step in values[1:]:
        expected = expected * np.float32(0.9) + (np.float32(1) - np.float32(0.9)) * step[0]
    assert ema.steps == 3 and ema.min == expected
    (histogram,) = held.reference_histogram
    assert histogram.steps == 3 and (histogram.low, histogram.high) == (1.0, 7.0) and sum(histogram.count) == 6


def test_layers_of_synchronous_steps_are_for_ranks(connection: Connection) -> None:
    create(connection, "s", Rule("ema", Observer("ema")), Rule("*", Observer()), synchronous=True)
    with open_worker(connection) as worker:
        with pytest.raises(FailedPreconditionError) as caught:
            worker.observe("ema", ONES)
        assert caught.value.reason == "STEP_REQUIRED"
        worker.observe("a", ONES)
    assert counts(connection) == {"a": 10}


def test_disabled_observers_are_reported(connection: Connection) -> None:
    create(connection, "s")
    request = service.SetObserversEnabledRequest(session="s", pattern="a", enabled=False)
    with open_worker(connection) as worker:
        worker.observe("a", ONES)
        worker.flush(LONG)
        connection.unary("SetObserversEnabled", request)
        worker.observe("a", ONES)
        worker.flush(LONG)
        assert worker.stats().values_ignored == 10
    assert counts(connection) == {"a": 10}
