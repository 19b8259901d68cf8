"""Ranks of synchronous steps against a server: whatever happens on the way, every step has every rank once."""

from __future__ import annotations

import numpy as np
import pytest
from calibd.channel import Connection
from calibd.config import Observer
from calibd.errors import CalibdError, DeadlineExceededError
from calibd.observe import observe
from calibd.rank import Gradients, World
from rank_support import (
    LONG,
    create_steps,
    expected_bytes,
    given,
    open_rank,
    run_rank,
    statistics,
    statistics_bytes,
    synchronous_status,
    together,
)


@pytest.fixture
def connection(server):
    connection = Connection(server.address)
    yield connection
    connection.close()


def test_ranks_together_give_what_one_gives(connection):
    ranks, steps = 4, 12
    create_steps(connection, "s", ranks)

    def run(rank):
        worker = open_rank(connection, "s", rank)
        assert worker.next_step == 1
        assert worker.world == World(1, ranks)
        run_rank(worker, ranks, rank, 1, steps)
        worker.close(LONG)
        stats = worker.stats()
        assert stats.steps_contributed == stats.steps_answered == steps
        assert stats.kept_bytes == 0
        assert stats.durable_step >= steps
        assert stats.values_observed == steps * 8 * 9

    together(ranks, run)
    assert statistics_bytes(connection, "s") == expected_bytes(connection, steps)


def test_results_are_what_all_ranks_gave_in_the_callers_order(connection):
    create_steps(connection, "s", 2)
    first, second = open_rank(connection, "s", 0), open_rank(connection, "s", 1)
    # Layers that the session does not take lie between, and "mxnet" has a greater handle than what comes after it next.
    one = np.array([1, 2], np.float32)
    channels = np.array([[3, -7]], np.float32)
    five = np.array([5], np.float16)
    of_first = {"ema": one, "debug.x": one, "a": one, "channels": channels, "mxnet": five}
    of_second = {"mxnet": five, "channels": channels, "a": five, "debug.x": one, "ema": np.array([-4, 8], np.float32)}
    pending = first.start_step(of_first, timeout=LONG)
    assert pending.step == 1
    assert not pending.ready
    reversed_result = second.step(of_second, timeout=LONG)
    result = pending.wait(LONG)
    assert pending.ready
    assert list(result.layers) == list(of_first)
    assert list(reversed_result.layers) == list(of_second)
    for answer in (result, reversed_result):
        assert (answer.world_epoch, answer.world_size, answer.counted) == (1, 2, True)
    for name, layer in result.layers.items():
        same = reversed_result.layers[name]
        for field in ("min", "max", "step_min", "step_max", "scale", "zero_point", "learned_zero_point"):
            assert getattr(layer, field).tolist() == getattr(same, field).tolist(), (name, field)
            assert not getattr(layer, field).flags.writeable
    layers = result.layers
    assert (layers["ema"].step_min.tolist(), layers["ema"].step_max.tolist()) == ([-4], [8])
    assert layers["debug.x"].step_min.size == layers["debug.x"].scale.size == 0
    assert layers["a"].step_max.tolist() == [5]
    assert layers["channels"].step_min.tolist() == layers["channels"].max.tolist() == [3, -7]
    assert layers["mxnet"].scale[0] > 0
    assert layers["mxnet"].zero_point.dtype == np.int64
    first.close(LONG)
    second.close(LONG)


def test_statistics_count_as_their_tensors(connection):
    create_steps(connection, "s", 1)
    create_steps(connection, "t", 1)
    tensors = {name: tensor for name, tensor in given(1, 0, 2).items() if not name.startswith(("mxnet", "meg", "pyt"))}
    histograms = Observer(), Observer(channel_axis=1)
    counted = {name: observe(array, histograms["channels" in name]) for name, array in tensors.items()}
    with open_rank(connection, "s", 0) as of_tensors, open_rank(connection, "t", 0) as of_statistics:
        expected = of_tensors.step(tensors, timeout=LONG)
        result = of_statistics.step(counted, timeout=LONG)
    assert result.layers["ema_channels"].min.tolist() == expected.layers["ema_channels"].min.tolist()
    assert statistics_bytes(connection, "t") == statistics_bytes(connection, "s")


def test_a_process_that_is_started_again_goes_on(connection):
    create_steps(connection, "s", 2)

    def run(rank):
        worker = open_rank(connection, "s", rank)
        assert worker.next_step == 2 * turn + 1
        assert worker.stats().durable_step == 2 * turn
        run_rank(worker, 2, rank, 2 * turn + 1, 2 * turn + 2)
        # Others close when they will; nobody is lost with the worker.
        if turn == 2:
            worker.close(LONG)

    for turn in range(3):
        together(2, run)
    assert statistics_bytes(connection, "s") == expected_bytes(connection, 6)


def test_a_rank_that_repeats_a_step_is_answered_and_not_counted(connection):
    create_steps(connection, "s", 2)
    layers = {"a": np.array([1, 2], np.float32)}
    other = open_rank(connection, "s", 1)
    of_other = other.start_step(layers)
    open_rank(connection, "s", 0).step(layers, step=1, timeout=LONG)
    of_other.wait(LONG)
    again = open_rank(connection, "s", 0)
    assert again.next_step == 2
    repeated = again.step(layers, step=1, timeout=LONG)
    assert repeated.step == 1 and repeated.layers["a"].step_max.tolist() == [2]
    assert again.next_step == 2
    assert statistics(connection, "s").statistics.count == [4]
    assert synchronous_status(connection, "s").repeated_contributions >= 1


def test_gradients_teach_learned_layers(connection):
    create_steps(connection, "s", 2)
    tensor = np.array([-1, 0.5, 2], np.float32)
    gradients = {"learned": Gradients(0.25, elements=3), "a": tensor}

    def run(rank):
        with open_rank(connection, "s", rank) as worker:
            with pytest.raises(CalibdError) as early:
                worker.step(gradients, step=1, timeout=LONG)
            assert early.value.reason == "LEARNED_NOT_INITIALIZED"
            assert worker.next_step == 1
            initial = worker.step({"a": tensor, "learned": tensor}, step=1, timeout=LONG).layers["learned"]
            learned = worker.step(gradients, step=2, timeout=LONG)
            assert learned.layers["learned"].scale != initial.scale
            assert learned.layers["learned"].learned_zero_point.shape == (1,)
            assert learned.layers["learned"].step_min.size == 0
            assert learned.layers["a"].step_max.tolist() == [2]

    together(2, run)


def test_waiting_can_be_given_up_and_taken_up_again(connection):
    create_steps(connection, "s", 2)
    first, second = open_rank(connection, "s", 0), open_rank(connection, "s", 1)
    # Counted although nobody waits for it.
    layers = {"mxnet": np.array([1, 2, 3], np.float32), "a": np.array([1, 2, 3], np.float32)}
    with pytest.raises(DeadlineExceededError, match="step 1 is not folded yet"):
        first.step(layers, step=1, timeout=0.02)
    assert first.next_step == 2
    with pytest.raises(DeadlineExceededError):
        first.step(layers, step=1, timeout=0)
    with pytest.raises(CalibdError, match="other layers"):
        first.step({"a": layers["a"]}, step=1, timeout=LONG)
    second.step(layers, step=1, timeout=LONG)
    assert first.step(layers, step=1, timeout=LONG).counted
    assert first.stats().steps_contributed == 1
    assert statistics(connection, "s").statistics.count == [6, 6]


def test_the_window_holds_back_who_is_ahead(connection):
    create_steps(connection, "s", 2, window=2)
    first, second = open_rank(connection, "s", 0), open_rank(connection, "s", 1)
    layers = {"ema": np.array([1], np.float32)}
    pending = [first.start_step(layers, timeout=LONG) for _ in range(2)]
    with pytest.raises(DeadlineExceededError, match="no room for step 3"):
        first.start_step(layers, timeout=0.02)
    assert first.next_step == 3, "nothing was contributed"
    third = []

    def run(rank):
        if rank == 0:
            third.append(first.start_step(layers, step=3, timeout=LONG))
        else:
            second.step(layers, timeout=LONG)

    together(2, run)
    pending[0].wait(LONG)
    assert not pending[1].ready
    for _ in range(2):
        second.step(layers, timeout=LONG)
    assert third[0].wait(LONG).step == 3
