"""What ends synchronous steps and their ranks, and what goes on."""

from __future__ import annotations

import os
import shutil
import threading
import time

import numpy as np
import pytest
from calibd import fork, step_encoder
from calibd.channel import Connection
from calibd.config import Observer, SessionConfig, Synchronous
from calibd.errors import (
    CalibdError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from calibd.observe import observe
from calibd.rank import Gradients, Rank, World
from calibd.rpc import calibration_service_pb2 as service
from rank_support import (
    LONG,
    create,
    create_steps,
    expected_bytes,
    open_rank,
    run_rank,
    set_world,
    statistics,
    statistics_bytes,
    step_config,
    synchronous_status,
    together,
)

TENSOR = np.array([1, 2], np.float32)
LAYERS = {"a": TENSOR}


@pytest.fixture
def connection(server):
    connection = Connection(server.address)
    yield connection
    connection.close()


def reason_of(call):
    """The reason of the error that a call raises."""
    with pytest.raises(CalibdError) as error:
        call()
    return error.value.reason


def await_world(worker, epoch):
    """Returns once the rank knows of the world."""
    deadline = time.monotonic() + LONG
    while worker.world.epoch < epoch:
        assert time.monotonic() < deadline


def await_ready(pending):
    deadline = time.monotonic() + LONG
    while not pending.ready:
        assert time.monotonic() < deadline


def test_opening_says_what_is_wrong(connection):
    assert reason_of(lambda: open_rank(connection, "nowhere", 0)) == "SESSION_NOT_FOUND"
    create(connection, "plain", SessionConfig())
    assert reason_of(lambda: open_rank(connection, "plain", 0)) == "SESSION_NOT_SYNCHRONOUS"
    create_steps(connection, "s", 2)
    assert reason_of(lambda: open_rank(connection, "s", 2)) == "RANK_INVALID"
    assert reason_of(lambda: open_rank(connection, "s", -1)) == "RANK_INVALID"
    with pytest.raises(UnavailableError, match="cannot reach calibd"):
        Rank(Connection("127.0.0.1:1"), "s", 0, open_timeout=0.2)


def test_what_is_wrong_with_a_step_is_said_before_it_is_sent(connection):
    create_steps(connection, "s", 1)
    worker = open_rank(connection, "s", 0)

    def step(layers):
        return lambda: worker.step(layers, step=1, timeout=LONG)

    assert reason_of(step({"": TENSOR})) == "LAYER_NAME_INVALID"
    assert reason_of(step({"a": Gradients(1.0)})) == "OBSERVER_MISMATCH"
    assert reason_of(step({"learned": Gradients(np.ones(2), np.ones(1))})) == "INVALID_FIELD"
    assert reason_of(step({"learned": Gradients(np.ones(0))})) == "INVALID_FIELD"
    assert reason_of(step({"learned": Gradients(1.0, weight=0)})) == "INVALID_FIELD"
    assert reason_of(step({"learned": Gradients(1.0), "learned2": Gradients(1.0, weight=2)})) == "INVALID_FIELD"
    assert reason_of(step({"learned": Gradients(1.0, elements=-1)})) == "INVALID_FIELD"
    ranges, histogram = observe(TENSOR, Observer("minmax")), observe(TENSOR, Observer(), mantissa_bits=6)
    assert reason_of(step({"mxnet": ranges})) == "OBSERVER_MISMATCH"
    assert reason_of(step({"a": ranges})) == "OBSERVER_MISMATCH"
    assert reason_of(step({"a": histogram})) == "OBSERVER_MISMATCH"
    two_channels = observe(TENSOR.reshape(1, 2), Observer("minmax", channel_axis=1))
    assert reason_of(step({"ema": two_channels})) == "OBSERVER_MISMATCH"
    with pytest.raises(InvalidArgumentError, match='layer "channels".*axis 1'):
        step({"channels": TENSOR})()
    with pytest.raises(InvalidArgumentError, match='layer "a".*float64'):
        step({"a": np.ones(2)})()
    with pytest.raises(InvalidArgumentError, match="step is 0; it must be an integer, 1 or more"):
        worker.step(LAYERS, step=0)
    small = open_rank(connection, "s", 0, max_message_bytes=100)
    wide = {"a": np.arange(1000, dtype=np.float32)}
    assert reason_of(lambda: small.step(wide, step=1)) == "LIMIT_EXCEEDED"
    assert small.next_step == 1
    assert small.step({}, step=1, timeout=LONG).layers == {}, "a step needs no layer"


def test_a_refused_step_is_the_next_one_again(connection):
    create_steps(connection, "s", 1)
    worker = open_rank(connection, "s", 0)
    first, other = {"channels": np.ones((1, 3), np.float32)}, {"channels": np.ones((1, 2), np.float32)}
    worker.step(first, timeout=LONG)
    assert reason_of(lambda: worker.step(other, timeout=LONG)) == "CHANNEL_COUNT_CHANGED"
    assert worker.next_step == 2
    pending = worker.start_step(other, timeout=LONG)
    await_ready(pending)
    # Else the next one would silently become step 2.
    assert reason_of(lambda: worker.start_step(first, timeout=LONG)) == "CHANNEL_COUNT_CHANGED"
    assert worker.step(first, timeout=LONG).step == 2
    assert reason_of(lambda: pending.wait(LONG)) == "CHANNEL_COUNT_CHANGED", "the same each time"
    worker.close(LONG)


def test_a_change_of_the_world_drops_what_is_open(connection):
    create_steps(connection, "s", 2)
    workers = [open_rank(connection, "s", rank) for rank in range(2)]
    together(2, lambda rank: run_rank(workers[rank], 2, rank, 1, 1))
    pending = workers[0].start_step(LAYERS, timeout=LONG)
    set_world(connection, "s", 1, 3)
    assert reason_of(lambda: pending.wait(LONG)) == "WORLD_EPOCH_STALE"
    assert workers[0].world == World(2, 3)
    assert workers[0].next_step == 2
    await_world(workers[1], 2)
    workers.append(open_rank(connection, "s", 2))

    def run(rank):
        run_rank(workers[rank], 3, rank, 2, 4)
        workers[rank].close(LONG)

    together(3, run)
    assert statistics_bytes(connection, "s") == expected_bytes(connection, 4)


@pytest.mark.parametrize("step", [None, 1])
def test_a_change_of_the_world_is_told_before_a_step_takes_anothers_number(connection, step):
    create_steps(connection, "s", 2)
    first, second = open_rank(connection, "s", 0), open_rank(connection, "s", 1)
    dropped = first.start_step(LAYERS, timeout=LONG)
    set_world(connection, "s", 1, 2)
    await_ready(dropped)
    assert reason_of(lambda: first.start_step(LAYERS, step=step, timeout=LONG)) == "WORLD_EPOCH_STALE"
    await_world(second, 2)
    pending = first.start_step(LAYERS, step=step, timeout=LONG)  # it was told
    assert pending.step == 1
    second.step(LAYERS, step=1, timeout=LONG)
    assert pending.wait(LONG).world_epoch == 2
    assert reason_of(lambda: dropped.wait(LONG)) == "WORLD_EPOCH_STALE"
    assert statistics(connection, "s").statistics.count == [4]


def test_a_rank_that_the_world_loses_is_refused(connection):
    create_steps(connection, "s", 2)
    first, second = open_rank(connection, "s", 0), open_rank(connection, "s", 1)
    set_world(connection, "s", 1, 1)
    await_world(first, 2)
    await_world(second, 2)
    assert reason_of(lambda: second.step(LAYERS, step=1, timeout=LONG)) == "RANK_INVALID"
    first.step(LAYERS, step=1, timeout=LONG)
    assert reason_of(lambda: second.step(LAYERS, step=2, timeout=LONG)) == "RANK_INVALID"
    set_world(connection, "s", 2, 2)
    await_world(first, 3)
    await_world(second, 3)
    together(2, lambda rank: (first, second)[rank].step(LAYERS, step=2, timeout=LONG))


def test_a_step_that_somebody_misses_fails_at_its_deadline_and_is_tried_again(connection):
    create(connection, "s", step_config(Synchronous(2, straggler_policy="fail", deadline=0.05)))
    first = open_rank(connection, "s", 0)
    assert reason_of(lambda: first.step(LAYERS, step=1, timeout=LONG)) == "STEP_TIMED_OUT"
    assert first.next_step == 1

    def run(rank):
        worker = first if rank == 0 else open_rank(connection, "s", 1)
        while True:
            try:
                worker.step(LAYERS, step=1, timeout=LONG)
                return
            except DeadlineExceededError as error:
                assert error.reason == "STEP_TIMED_OUT"

    together(2, run)
    assert statistics(connection, "s").statistics.count == [4]


def test_late_contributions_are_answered_and_not_counted(connection):
    create(connection, "s", step_config(Synchronous(2, straggler_policy="close_partial", deadline=0.001, window=2)))
    first, second = open_rank(connection, "s", 0), open_rank(connection, "s", 1)
    alone = first.step(LAYERS, step=1, timeout=LONG)
    assert (alone.ranks, alone.world_size) == (1, 2)
    late = second.step(LAYERS, timeout=LONG)
    assert (late.step, late.counted) == (1, False)
    for step in range(2, 6):
        first.step(LAYERS, step=step, timeout=LONG)
    assert reason_of(lambda: second.step(LAYERS, timeout=LONG)) == "STEP_OUT_OF_WINDOW"
    assert second.next_step == 6
    assert statistics(connection, "s").statistics.count == [10]


def test_a_newer_rank_of_the_same_number_ends_the_older(connection):
    create_steps(connection, "s", 2)
    older = open_rank(connection, "s", 0)
    pending = older.start_step(LAYERS, timeout=LONG)
    newer = open_rank(connection, "s", 0)
    assert reason_of(lambda: pending.wait(LONG)) == "WORKER_FENCED"
    assert reason_of(lambda: older.step(LAYERS, timeout=LONG)) == "WORKER_FENCED"
    assert older.error.reason == "WORKER_FENCED"
    assert newer.error is None
    assert reason_of(older.close) == "WORKER_FENCED"


def test_the_end_of_a_session_ends_its_ranks(connection):
    create_steps(connection, "deleted", 2)
    create_steps(connection, "sealed", 2)
    of_deleted, of_sealed = open_rank(connection, "deleted", 0), open_rank(connection, "sealed", 0)
    pending = of_deleted.start_step(LAYERS, timeout=LONG)
    connection.unary("DeleteSession", service.DeleteSessionRequest(session="deleted"))
    with pytest.raises(NotFoundError):
        pending.wait(LONG)
    connection.unary("SealSession", service.SealSessionRequest(session="sealed"))
    assert reason_of(lambda: of_sealed.step(LAYERS, step=1, timeout=LONG)) == "SESSION_SEALED"


def test_a_server_that_forgot_durable_steps_is_reported(start_server, tmp_path):
    server = start_server("--store", f"rocksdb:{tmp_path}/store")
    connection = Connection(server.address)
    create_steps(connection, "s", 1)
    server.stop()
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    server.start()
    worker = open_rank(connection, "s", 0)
    worker.step(LAYERS, step=1, timeout=LONG)
    worker.flush(LONG)
    server.kill()
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "backup").rename(tmp_path / "store")
    server.start()
    with pytest.raises(DataLossError, match="durable step 0 .* after step 1"):
        worker.step(LAYERS, step=2, timeout=LONG)
    with pytest.raises(DataLossError):
        worker.close(LONG)


def test_closed_ranks_take_nothing_and_answer_what_is_pending(connection):
    create_steps(connection, "s", 2)
    worker = open_rank(connection, "s", 0)
    pending = worker.start_step(LAYERS, timeout=LONG)
    deadline = time.monotonic() + LONG
    while synchronous_status(connection, "s").open_steps == 0:
        assert time.monotonic() < deadline
    worker.close(LONG)
    worker.close(LONG)
    for call in (lambda: worker.step(LAYERS), worker.flush, lambda: pending.wait(LONG)):
        with pytest.raises(FailedPreconditionError, match="is closed"):
            call()
    assert synchronous_status(connection, "s").open_steps == 1, "the contribution stays with the server"


def test_a_server_that_is_away_is_waited_for(server, connection):
    create_steps(connection, "s", 1)
    worker = open_rank(connection, "s", 0)
    server.kill()
    with pytest.raises(DeadlineExceededError):
        worker.step(LAYERS, timeout=0.05)
    assert worker.next_step == 2, "it is contributed as soon as can be"
    with pytest.raises(DeadlineExceededError, match="step 1 is not folded"):
        worker.step(LAYERS, step=1, timeout=0)
    worker.close(LONG)  # nothing is folded, so nothing has to be made durable


def test_counting_that_is_interrupted_is_done_by_the_next_who_waits(connection, monkeypatch):
    create_steps(connection, "s", 1)
    worker = open_rank(connection, "s", 0)
    count, interrupted = step_encoder.count, []

    def interrupt_first(job):
        if not interrupted and threading.current_thread() is threading.main_thread():
            interrupted.append(job.grids.step)
            raise KeyboardInterrupt
        return count(job)

    monkeypatch.setattr(step_encoder, "count", interrupt_first)
    with pytest.raises(KeyboardInterrupt):
        for step in range(1, 1000):  # the rank's own thread may be the first to count
            worker.step({"mxnet": TENSOR}, step=step, timeout=LONG)
    assert worker.step({"mxnet": TENSOR}, step=interrupted[0], timeout=LONG).step == interrupted[0]
    worker.close(LONG)


def test_a_message_that_can_not_be_made_ends_the_rank(connection, monkeypatch):
    create_steps(connection, "s", 1)
    worker = open_rank(connection, "s", 0)

    def fail():
        raise MemoryError

    monkeypatch.setattr(worker._log, "next_message", fail)
    with pytest.raises(CalibdError, match="a message could not be made: MemoryError"):
        worker.step(LAYERS, step=1, timeout=LONG)


@pytest.mark.skipif(not fork.SUPPORTED, reason="this grpcio can't call in forked children")
def test_a_forked_process_is_another_rank(connection):
    create_steps(connection, "s", 2)
    worker = open_rank(connection, "s", 0)
    first = worker.start_step(LAYERS, timeout=LONG)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.raises(FailedPreconditionError, match="forked"):
                worker.step(LAYERS)
            with open_rank(connection, "s", 1) as other:
                for _ in range(3):
                    other.step(LAYERS, timeout=LONG)
            status = 0
        finally:
            os._exit(status)
    assert first.wait(LONG).ranks == 2
    for _ in range(2):
        worker.step(LAYERS, timeout=LONG)
    worker.close(LONG)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert statistics(connection, "s").statistics.count == [12]
