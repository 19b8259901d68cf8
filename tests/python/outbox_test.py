"""The rules of exactly-once delivery, one by one. outbox_simulation_test.py puts them together."""

from __future__ import annotations

from typing import List, Optional

import numpy as np
import pytest
from calibd.config import Observer
from calibd.errors import CalibdError, DataLossError, Meaning
from calibd.histogram import Bfloat16Histogram
from calibd.observe import observe
from calibd.outbox import Outbox
from calibd.rpc import observe_pb2 as pb
from calibd.rpc import statistics_pb2
from calibd.statistics import TensorStatistics
from model_server import ModelServer

HISTOGRAM = Observer()
_CODES = {"OUT_OF_RANGE": 11, "FAILED_PRECONDITION": 9, "NOT_FOUND": 5, "RESOURCE_EXHAUSTED": 8, "UNAVAILABLE": 14}


def counted(count: int = 1) -> TensorStatistics:
    """Of `count` ones."""
    dense = np.zeros((1, 65536), np.uint64)
    dense[0, 0x3F80] = count
    statistics = TensorStatistics(1, 7)
    statistics.count[:] = count
    statistics.min[:] = statistics.max[:] = 1
    statistics.histogram = Bfloat16Histogram.from_dense(dense, True)
    return statistics


def chunk(values: List[float]) -> statistics_pb2.TensorChunk:
    data = np.array(values, np.float32).tobytes()
    return statistics_pb2.TensorChunk(data_type=statistics_pb2.DATA_TYPE_FLOAT32, shape=[len(values)], data=data)


def refusal(unit: int, code: str, reason: str, layer: str = "") -> pb.Refusal:
    message = pb.Refusal(first=unit, last=unit, code=_CODES[code], message="no")
    message.info.reason = reason
    if layer:
        message.info.metadata["layer"] = layer
    return message


def next_update(outbox: Outbox) -> Optional[pb.Update]:
    while True:
        message = outbox.next_message(True)
        if message is None or message.HasField("update"):
            return None if message is None else message.update


def welcomed(rounds_in_flight: int = 4, applied: int = 0, durable: int = 0) -> Outbox:
    outbox = Outbox(rounds_in_flight)
    outbox.take_welcome(pb.Welcome(applied=applied, durable=durable))
    return outbox


def reason_of(call, *arguments) -> str:
    with pytest.raises(CalibdError) as caught:
        call(*arguments)
    return caught.value.reason


def test_nothing_is_sent_before_a_welcome() -> None:
    outbox = Outbox(4)
    outbox.add("a", HISTOGRAM, counted())
    assert outbox.next_message(True) is None
    outbox.take_welcome(pb.Welcome())
    assert outbox.next_message(True) is not None


def test_layers_are_registered_once_on_each_stream_before_their_use() -> None:
    outbox = Outbox(4)
    outbox.add("a", HISTOGRAM, counted())
    outbox.add("b", HISTOGRAM, counted())
    for _ in range(2):
        outbox.take_welcome(pb.Welcome())
        registration = outbox.next_message(True).register_layers
        assert registration.first_handle == 0 and list(registration.name) == ["a", "b"]
        update = next_update(outbox)
        assert list(update.statistics.layer) == [0, 1] and (update.first, update.last) == (1, 1)
    outbox.add("c", HISTOGRAM, counted())
    registration = outbox.next_message(True).register_layers
    assert registration.first_handle == 2 and list(registration.name) == ["c"]


def test_what_is_pending_merges_and_nothing_that_may_be_applied() -> None:
    outbox = welcomed()
    outbox.add("a", HISTOGRAM, counted(10))
    assert list(next_update(outbox).statistics.count) == [10]
    outbox.add("a", HISTOGRAM, counted(100))
    outbox.add("a", HISTOGRAM, counted(1000))
    outbox.end_stream()
    assert outbox.next_message(True) is None
    # Unit 1 was applied before the stream broke: only what came later is sent.
    outbox.take_welcome(pb.Welcome(applied=1))
    update = next_update(outbox)
    assert update.first == 2 and list(update.statistics.count) == [1100]


def test_what_a_welcome_says_was_not_applied_merges_with_what_came_later() -> None:
    outbox = welcomed()
    for count in (10, 100):
        outbox.add("a", HISTOGRAM, counted(count))
        next_update(outbox)
    outbox.add("a", HISTOGRAM, counted(1000))
    outbox.take_welcome(pb.Welcome())
    update = next_update(outbox)
    assert update.first == 1 and list(update.statistics.count) == [1110]


def test_what_a_restarted_server_forgot_is_sent_again() -> None:
    outbox = welcomed()
    for i in range(3):
        outbox.add("a", HISTOGRAM, counted(1 << i))
        next_update(outbox)
    outbox.take_ack(pb.Ack(applied=3, durable=1))
    outbox.take_welcome(pb.Welcome(applied=1, durable=1))
    update = next_update(outbox)
    assert update.first == 2 and list(update.statistics.count) == [2 + 4]


def test_raw_chunks_are_sent_again_as_they_were_and_in_order() -> None:
    outbox = welcomed()
    for value in (1.0, 2.0, 3.0):
        outbox.add_raw("a", HISTOGRAM, 1, chunk([value]))
    next_update(outbox)
    second = next_update(outbox)
    outbox.take_welcome(pb.Welcome(applied=1, durable=1))
    assert next_update(outbox) == second
    assert next_update(outbox).tensor.data == chunk([3.0]).data


def test_steps_keep_their_order_and_are_never_merged() -> None:
    outbox = welcomed()
    ema = Observer("ema")
    for value in (1.0, 2.0, 3.0):
        outbox.add_step("a", ema, observe(np.float32(value), ema))
    sent = [next_update(outbox) for _ in range(3)]
    assert [update.statistics.min[0] for update in sent] == [1.0, 2.0, 3.0]
    outbox.take_welcome(pb.Welcome(applied=1, durable=1))
    assert [next_update(outbox) for _ in range(2)] == sent[1:]


def test_raw_bytes_count_until_they_are_durable() -> None:
    outbox = welcomed()
    outbox.add_raw("a", HISTOGRAM, 1, chunk([0.0] * 1000))
    assert outbox.raw_bytes >= 4000
    next_update(outbox)
    outbox.take_ack(pb.Ack(applied=1))
    assert outbox.raw_bytes >= 4000
    outbox.take_ack(pb.Ack(applied=1, durable=1))
    assert outbox.raw_bytes == 0


def test_work_goes_on_where_an_earlier_process_stopped() -> None:
    outbox = Outbox(4)
    outbox.add("a", HISTOGRAM, counted())
    outbox.take_welcome(pb.Welcome(applied=7, durable=5))
    assert next_update(outbox).first == 8
    # The server crashes: units 6 and 7 were the earlier process's, which went without knowing them to be durable.
    outbox.take_welcome(pb.Welcome(applied=5, durable=5))
    assert next_update(outbox).first == 6


def test_data_loss_names_the_missing_units() -> None:
    outbox = welcomed()
    for i in range(5):
        outbox.add("a", HISTOGRAM, counted())
        next_update(outbox)
        outbox.take_ack(pb.Ack(applied=i + 1, durable=i))
    with pytest.raises(DataLossError, match="units 3 to 4"):
        outbox.take_welcome(pb.Welcome(applied=2, durable=2))


def test_another_process_with_the_worker_id_is_noticed() -> None:
    assert reason_of(welcomed().take_welcome, pb.Welcome(applied=3)) == "WORKER_FENCED"


@pytest.mark.parametrize("applied, durable", [(3, 1), (1, 1), (2, 0), (2, 3)])
def test_impossible_acks_are_refused(applied: int, durable: int) -> None:
    outbox = welcomed(applied=2, durable=1)
    with pytest.raises(CalibdError, match="contradicts itself"):
        outbox.take_ack(pb.Ack(applied=applied, durable=durable))
    outbox.take_ack(pb.Ack(applied=2, durable=2))


def test_a_refused_layer_takes_nothing_else_with_it() -> None:
    outbox = welcomed()
    outbox.add("good", HISTOGRAM, counted(10))
    outbox.add("bad", HISTOGRAM, counted(5))
    next_update(outbox)
    refused = refusal(1, "FAILED_PRECONDITION", "CHANNEL_COUNT_CHANGED", "bad")
    assert outbox.take_refusal(refused) is Meaning.DATA_REFUSED
    assert outbox.next_message(True) is None
    assert outbox.refusal is not None and outbox.refusal.reason == "CHANNEL_COUNT_CHANGED"
    assert reason_of(outbox.add, "bad", HISTOGRAM, counted()) == "CHANNEL_COUNT_CHANGED"
    assert reason_of(outbox.add_raw, "bad", HISTOGRAM, 1, chunk([1.0])) == "CHANNEL_COUNT_CHANGED"

    outbox.take_welcome(pb.Welcome())
    assert outbox.values_refused == 5
    assert list(outbox.next_message(True).register_layers.name) == ["good"]
    update = next_update(outbox)
    assert update.first == 1 and list(update.statistics.count) == [10]


def test_a_refusal_that_names_no_layer_drops_the_update_alone() -> None:
    outbox = welcomed()
    outbox.add("a", HISTOGRAM, counted(10))
    outbox.add("b", HISTOGRAM, counted(10))
    next_update(outbox)
    outbox.add("a", HISTOGRAM, counted(7))
    next_update(outbox)
    assert outbox.take_refusal(refusal(1, "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")) is Meaning.DATA_REFUSED
    outbox.take_welcome(pb.Welcome())
    assert outbox.values_refused == 20
    # What came behind the refused unit moves up.
    update = next_update(outbox)
    assert update.first == 1 and list(update.statistics.count) == [7]


def test_a_refused_name_takes_nothing_else_with_it() -> None:
    outbox = welcomed()
    outbox.add("bad", HISTOGRAM, counted())
    outbox.add("good", HISTOGRAM, counted())
    outbox.next_message(True)
    refused = refusal(0, "FAILED_PRECONDITION", "LAYER_NAME_INVALID", "bad")
    assert outbox.take_refusal(refused) is Meaning.DATA_REFUSED
    assert outbox.values_refused == 1
    outbox.take_welcome(pb.Welcome())
    assert list(outbox.next_message(True).register_layers.name) == ["good"]
    assert list(next_update(outbox).statistics.layer) == [0]


def test_which_refusals_end_the_worker_and_which_lose_nothing() -> None:
    outbox = welcomed()
    outbox.add("a", HISTOGRAM, counted(10))
    next_update(outbox)
    for code, reason in (("FAILED_PRECONDITION", "SESSION_SEALED"), ("NOT_FOUND", "SESSION_DELETED")):
        assert outbox.take_refusal(refusal(1, code, reason)) is Meaning.WORKER_ENDS
    assert outbox.take_refusal(refusal(9, "FAILED_PRECONDITION", "TENSOR_INVALID")) is Meaning.WORKER_ENDS
    assert outbox.take_refusal(refusal(0, "RESOURCE_EXHAUSTED", "LIMIT_EXCEEDED")) is Meaning.WORKER_ENDS
    for code, reason in (("UNAVAILABLE", "STORE_FAILED"), ("OUT_OF_RANGE", "SEQUENCE_GAP")):
        assert outbox.take_refusal(refusal(1, code, reason)) is Meaning.TRY_AGAIN
        outbox.take_welcome(pb.Welcome())
        assert list(next_update(outbox).statistics.count) == [10]
    assert outbox.refusal is None


def test_names_channel_counts_and_counts_are_checked() -> None:
    outbox = Outbox(4)
    for name in ("", "\udcff", "x" * 513, "ä" * 257):
        assert reason_of(outbox.add, name, HISTOGRAM, counted()) == "LAYER_NAME_INVALID"
    outbox.add("x" * 512, HISTOGRAM, counted())
    outbox.add_raw("a", Observer("histogram", 0), 2, chunk([1.0, 2.0]))
    assert (
        reason_of(outbox.add_raw, "a", Observer("histogram", 0), 3, chunk([1.0, 2.0, 3.0])) == "CHANNEL_COUNT_CHANGED"
    )
    outbox.add("b", HISTOGRAM, counted(2**64 - 2))
    assert reason_of(outbox.add, "b", HISTOGRAM, counted(2)) == "COUNT_OVERFLOW"
    outbox.add("b", HISTOGRAM, counted(1))


def test_memory_is_bounded_while_nothing_becomes_durable() -> None:
    outbox, server, pending = Outbox(3), ModelServer(), 0
    for i in range(1000):
        # The worst case for rounds: the server takes a message here and there, and breaks the stream.
        if i % 10 == 0:
            outbox.take_welcome(server.open())
        for layer in ("a", "b", "c"):
            outbox.add(layer, HISTOGRAM, counted(1 << i % 10))
        pending = outbox.total_bytes() if i == 9 else pending
        message = outbox.next_message(True)
        if message is not None and i % 10 < 3:
            server.take(message)
        assert i <= 10 or outbox.total_bytes() <= 5 * pending
    assert server.applied > 0 and outbox.durable == 0


def test_rounds_wait_for_their_turn() -> None:
    outbox = welcomed(rounds_in_flight=2)
    outbox.add("a", HISTOGRAM, counted())
    assert outbox.next_message(False).HasField("register_layers")
    assert outbox.next_message(False) is None
    assert next_update(outbox).first == 1
    outbox.add("a", HISTOGRAM, counted())
    assert next_update(outbox).first == 2
    outbox.add("a", HISTOGRAM, counted())
    assert not outbox.has_round_waiting() and outbox.next_message(True) is None
    outbox.take_ack(pb.Ack(applied=2))
    assert outbox.next_message(True) is None
    outbox.take_ack(pb.Ack(applied=2, durable=1))
    assert outbox.has_round_waiting()
    assert next_update(outbox).first == 3


def test_durability_is_waited_for_when_all_that_may_be_sent_is_applied() -> None:
    outbox = welcomed(rounds_in_flight=2)
    for unit in (1, 2):
        outbox.add("a", HISTOGRAM, counted())
        assert not outbox.waits_for_durability(True)  # a round waits
        next_update(outbox)
        assert not outbox.waits_for_durability(True)  # it is not applied
        outbox.take_ack(pb.Ack(applied=unit))
        assert outbox.waits_for_durability(True)
    outbox.add("a", HISTOGRAM, counted())
    # No third round may be in flight.
    assert not outbox.is_applied(outbox.mark()) and outbox.waits_for_durability(True)
    outbox.add_raw("b", HISTOGRAM, 1, chunk([1.0]))
    assert not outbox.waits_for_durability(True)  # a chunk may be sent
    next_update(outbox)
    outbox.take_ack(pb.Ack(applied=3))
    assert outbox.waits_for_durability(True)
    outbox.take_ack(pb.Ack(applied=3, durable=1))
    # The third round may be sent, when it is due.
    assert not outbox.waits_for_durability(True) and outbox.waits_for_durability(False)
    outbox.take_ack(pb.Ack(applied=3, durable=3))
    assert not outbox.waits_for_durability(False)  # all that was sent is durable


def test_marks_tell_when_everything_before_them_is_applied_and_durable() -> None:
    outbox = welcomed()
    outbox.add("a", HISTOGRAM, counted())
    mark = outbox.mark()
    assert not outbox.is_applied(mark)
    next_update(outbox)
    outbox.add("a", HISTOGRAM, counted())
    assert not outbox.is_applied(mark)
    outbox.take_ack(pb.Ack(applied=1))
    assert outbox.is_applied(mark) and not outbox.is_durable(mark)
    # The server forgets: what was before the mark is pending again, merged with what came after.
    outbox.take_welcome(pb.Welcome())
    assert not outbox.is_applied(mark)
    next_update(outbox)
    outbox.take_ack(pb.Ack(applied=1, durable=1))
    assert outbox.is_applied(mark) and outbox.is_durable(mark)
