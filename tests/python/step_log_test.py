"""The rules of a rank's step log, one by one."""

from __future__ import annotations

import pytest
from calibd import config
from calibd.errors import CalibdError, DataLossError, make_error
from calibd.rpc import observe_pb2
from calibd.step import World
from calibd.step_contribution import EncodedStep, StepTicket
from calibd.step_layers import StepLayers
from calibd.step_log import AfterRefusal, StepLog
from step_model_server import refusal


class Fixture:
    def __init__(self):
        self.changed = []
        layers = StepLayers(lambda name: config.Observer())
        self.log = StepLog(1, layers, lambda ticket: self.changed.append(ticket.step))

    def welcome(self, folded, durable, epoch=1, size=2, server_epoch=0):
        welcome = observe_pb2.Welcome(folded_step=folded, durable_step=durable, server_epoch=server_epoch)
        welcome.world.epoch = epoch
        welcome.world.size = size
        welcome.config.synchronous.window = 2
        self.log.on_welcome(welcome)

    def add(self, step, layer="a", values=()):
        number = self.log.layers.find(layer).number
        encoded = EncodedStep(observe_pb2.ObserveRequest(), values=values, layers_used=number + 1, nbytes=10)
        encoded.request.step_contribution.statistics.layer.append(number)
        ticket = StepTicket()
        self.log.add(step, encoded, ticket)
        return ticket

    def sent(self):
        """What is sent now: "+a" registers a layer, "5" contributes to a step, "#5" counts."""
        sent = []
        while True:
            message = self.log.next_message()
            if message is None:
                return sent
            sent += ["+" + name for name in message.register_layers.name]
            if message.HasField("step_contribution"):
                sent.append(str(message.step_contribution.step))
            if message.HasField("step_counts"):
                sent.append(f"#{message.step_counts.step}")

    def result(self, step):
        self.log.on_result(observe_pb2.StepResult(step=step, counted=True))

    def ack(self, folded, durable):
        self.log.on_ack(observe_pb2.Ack(folded_step=folded, durable_step=durable))

    def world(self, epoch, size):
        world = observe_pb2.ObserveResponse()  # its World is that of session.proto
        world.world.epoch = epoch
        world.world.size = size
        self.log.on_world(world.world)

    def refuse(self, step, reason, expected=0):
        return self.log.on_refusal(refusal(step, reason, expected))

    def news(self, any_error):
        news = self.log.news(any_error)
        return None if news is None else news.reason


@pytest.fixture
def fixture():
    return Fixture()


def test_a_contribution_is_kept_until_it_is_durable(fixture):
    assert fixture.sent() == []
    fixture.welcome(0, 0)
    ticket = fixture.add(1)
    assert fixture.sent() == ["+a", "1"]
    assert fixture.sent() == []
    assert fixture.log.next_step == 2
    fixture.result(1)
    assert ticket.answered and ticket.error is None and ticket.result.step == 1
    assert fixture.changed == [1]
    assert fixture.log.kept_bytes == 10
    fixture.ack(1, 0)
    assert not fixture.log.empty
    fixture.ack(1, 1)
    assert fixture.log.empty and fixture.log.kept_bytes == 0
    assert fixture.log.next_step == 2


def test_a_new_stream_gets_what_is_lost_and_what_is_not_answered(fixture):
    fixture.welcome(0, 0)
    fixture.add(1)
    fixture.add(2)
    assert fixture.sent() == ["+a", "1", "2"]
    fixture.result(1)
    fixture.log.on_stream_end()
    assert fixture.sent() == []
    fixture.welcome(2, 0)  # 2 was folded, and its answer lost
    assert fixture.sent() == ["+a", "2"]
    fixture.result(2)
    fixture.add(3)
    fixture.result(3)
    fixture.welcome(0, 0)  # the server restarted
    assert fixture.sent() == ["+a", "1", "2"], "no further than the window"
    assert fixture.log.next_step == 4
    assert not fixture.log.has_message()
    fixture.result(1)
    assert fixture.sent() == ["3"]
    assert fixture.changed == [1, 2, 3], "each is answered once"


def test_a_server_that_forgot_durable_steps_is_found(fixture):
    fixture.welcome(3, 2)
    assert not fixture.log.settled
    assert fixture.log.next_step == 4
    fixture.welcome(2, 2)  # what nobody contributed to yet may come back
    assert fixture.log.settled
    assert fixture.log.next_step == 3
    with pytest.raises(DataLossError):
        fixture.welcome(1, 1)
    fixture.welcome(2, 2, epoch=5)
    with pytest.raises(DataLossError):  # a world that was left
        fixture.welcome(2, 2, epoch=4)
    for durable in (3, 1):
        with pytest.raises(CalibdError, match="contradicts itself"):
            fixture.ack(2, durable)


def test_a_session_without_steps_is_refused(fixture):
    with pytest.raises(CalibdError) as error:
        fixture.log.on_welcome(observe_pb2.Welcome())
    assert error.value.reason == "SESSION_NOT_SYNCHRONOUS"


def test_a_restarted_server_may_have_forgotten_a_world(fixture):
    """A server may die after it told of a new world and before that was durable."""
    fixture.welcome(1, 1, epoch=2, size=4)
    ticket = fixture.add(2)
    fixture.welcome(1, 1, epoch=1, size=3, server_epoch=7)
    assert fixture.log.world == World(1, 3)
    assert ticket.error.reason == "WORLD_EPOCH_STALE"
    fixture.log.take_world_news()
    # Then another world has the number of the forgotten one.
    ticket = fixture.add(2)
    fixture.welcome(1, 1, epoch=1, size=5, server_epoch=8)
    assert ticket.error.reason == "WORLD_EPOCH_STALE"
    assert fixture.log.next_step == 2


def test_a_world_that_changes_drops_what_is_not_folded(fixture):
    fixture.welcome(0, 0)
    folded = fixture.add(1)
    dropped = fixture.add(2)
    fixture.sent()
    fixture.result(1)
    fixture.world(2, 3)
    assert folded.error is None
    assert dropped.error.reason == "WORLD_EPOCH_STALE"
    assert "anew from step 2 on" in str(dropped.error)
    assert fixture.log.world == World(2, 3)
    assert fixture.log.next_step == 2
    assert fixture.news(any_error=False) == "WORLD_EPOCH_STALE"
    fixture.log.take_world_news()
    assert fixture.news(any_error=True) is None
    anew = fixture.add(2)
    assert fixture.log.next_message().step_contribution.world_epoch == 2
    # The refusal of the older one comes late.
    assert fixture.refuse(2, "WORLD_EPOCH_STALE")[0] is AfterRefusal.GO_ON
    assert not anew.answered


def test_what_was_folded_and_lost_is_asked_for_again_in_a_new_world(fixture):
    fixture.welcome(0, 0)
    fixture.add(1)
    fixture.add(2)
    fixture.sent()
    fixture.result(1)
    fixture.result(2)
    fixture.ack(2, 1)
    assert fixture.log.next_step == 3
    fixture.welcome(1, 1, epoch=2)  # crashed, and SetWorld before this rank came back
    assert fixture.log.next_step == 2
    assert fixture.news(any_error=False) == "WORLD_EPOCH_STALE"
    assert fixture.log.empty


def test_a_rank_that_the_world_loses_hears_of_it_and_goes_on_where_it_is_when_it_comes_back(fixture):
    fixture.welcome(0, 0)

    def change_world(epoch, size):
        fixture.world(epoch, size)
        assert fixture.news(any_error=False) == "WORLD_EPOCH_STALE"
        fixture.log.take_news()

    change_world(2, 1)
    assert fixture.news(any_error=False) == "RANK_INVALID"
    fixture.log.take_news()
    assert fixture.news(any_error=False) == "RANK_INVALID", "it stays so"
    fixture.ack(7, 7)
    change_world(3, 2)
    assert fixture.news(any_error=True) is None
    assert fixture.log.next_step == 8


def test_a_refused_step_is_the_next_one_again(fixture):
    fixture.welcome(0, 0)
    first = fixture.add(1)
    second = fixture.add(2)
    fixture.sent()
    assert fixture.refuse(1, "STEP_TIMED_OUT")[0] is AfterRefusal.GO_ON
    assert first.error.reason == "STEP_TIMED_OUT"
    assert fixture.log.next_step == 1
    assert fixture.news(any_error=False) is None
    assert fixture.news(any_error=True) == "STEP_TIMED_OUT"
    fixture.log.take_news()
    fixture.add(1)
    assert fixture.log.next_step == 3, "step 2 has its contribution still"
    assert fixture.sent() == ["1"]
    assert not second.answered


def test_what_is_repeated_for_a_restarted_server_is_tried_again_or_reported_as_lost(fixture):
    fixture.welcome(0, 0)
    fixture.add(1)
    fixture.sent()
    fixture.result(1)
    fixture.welcome(0, 0)
    assert fixture.sent() == ["+a", "1"]
    assert fixture.refuse(1, "STEP_TIMED_OUT")[0] is AfterRefusal.GO_ON
    assert fixture.sent() == ["1"]
    assert fixture.log.next_step == 2
    after, error = fixture.refuse(1, "OBSERVER_MISMATCH")
    assert after is AfterRefusal.END
    assert isinstance(error, DataLossError)


def test_a_step_whose_result_is_gone_is_over(fixture):
    fixture.welcome(0, 0)
    ticket = fixture.add(1)
    fixture.sent()
    assert fixture.refuse(1, "STEP_OUT_OF_WINDOW", expected=6)[0] is AfterRefusal.GO_ON
    assert ticket.error.reason == "STEP_OUT_OF_WINDOW"
    assert fixture.log.next_step == 6


def test_what_ends_streams_and_ranks(fixture):
    fixture.welcome(0, 0)
    ticket = fixture.add(1)
    fixture.sent()
    assert fixture.refuse(1, "STORE_FAILED")[0] is AfterRefusal.REOPEN
    after, error = fixture.refuse(1, "SESSION_SEALED")
    assert after is AfterRefusal.END and error.reason == "SESSION_SEALED"
    assert not ticket.answered
    fixture.log.end_all(error)
    assert ticket.error.reason == "SESSION_SEALED"
    assert fixture.log.empty


def test_a_refused_name_takes_its_steps_along(fixture):
    fixture.welcome(0, 0)
    fixture.add(1, "good")
    fixture.sent()
    fixture.result(1)
    bad = fixture.add(2, "bad")
    assert fixture.sent() == ["+bad", "2"]
    assert fixture.refuse(0, "LIMIT_EXCEEDED")[0] is AfterRefusal.REOPEN
    assert bad.error.reason == "LIMIT_EXCEEDED"
    assert fixture.log.layers_refused == 1
    assert len(fixture.log.layers) == 1
    fixture.welcome(1, 0)
    fixture.log.take_news()
    fixture.add(2, "better")
    assert fixture.sent() == ["+good", "+better", "2"]


def test_what_was_sent_does_not_change(fixture):
    """A stream's thread may still be writing it."""
    fixture.welcome(0, 0)
    fixture.add(1)
    fixture.log.next_message()
    contribution = fixture.log.next_message()
    fixture.welcome(1, 0, epoch=2)  # folded, and the answer lost
    fixture.log.next_message()
    again = fixture.log.next_message()
    assert (contribution.step_contribution.world_epoch, again.step_contribution.world_epoch) == (1, 2)


def test_layer_names(fixture):
    for name in ("", "\ud800", "ä" * 257):
        with pytest.raises(CalibdError) as error:
            fixture.log.layers.find(name)
        assert error.value.reason == "LAYER_NAME_INVALID"
    assert fixture.log.layers.find("ä" * 256).number == 0


# Layers with a reference histogram.


def grids_of(step, high):
    grids = observe_pb2.StepGrids(step=step, world_epoch=1)
    grids.grid.add(high=high)
    return grids


def counts_of(job):
    request = observe_pb2.ObserveRequest()
    request.step_counts.step = job.grids.step
    request.step_counts.world_epoch = job.grids.world_epoch
    request.step_counts.count.add(grid=job.grids.grid[0])
    return request


def test_counts_are_made_once_and_sent_again(fixture):
    fixture.welcome(0, 0)
    fixture.add(1, values=[7])
    assert fixture.sent() == ["+a", "1"]
    fixture.log.on_grids(grids_of(1, 2.5))
    assert fixture.changed == [1]
    job = fixture.log.take_count_job()
    assert job.values == [7]
    assert fixture.log.take_count_job() is None, "one counts"
    fixture.log.add_counts(job, counts_of(job))
    assert fixture.sent() == ["#1"]
    fixture.result(1)
    fixture.welcome(0, 0)
    assert fixture.sent() == ["+a", "1"]
    fixture.log.on_grids(grids_of(1, 2.5))
    assert not fixture.log.has_count_job()
    assert fixture.sent() == ["#1"]


def test_another_grid_is_counted_anew(fixture):
    fixture.welcome(0, 0)
    fixture.add(1, values=[7])
    fixture.sent()
    fixture.log.on_grids(grids_of(1, 2.5))
    first = fixture.log.take_count_job()
    fixture.log.on_grids(grids_of(1, 4))
    fixture.log.add_counts(first, counts_of(first))
    assert fixture.sent() == []
    second = fixture.log.take_count_job()
    assert second.grids.grid[0].high == 4
    assert fixture.refuse(1, "REFERENCE_GRID_MISMATCH")[0] is AfterRefusal.GO_ON
    fixture.log.add_counts(second, counts_of(second))
    assert fixture.sent() == ["#1"]


def test_counts_of_what_was_dropped_are_of_no_use(fixture):
    fixture.welcome(0, 0)
    fixture.add(1, values=[7])
    fixture.sent()
    fixture.log.on_grids(grids_of(1, 2.5))
    job = fixture.log.take_count_job()
    fixture.refuse(1, "REFERENCE_TOO_LARGE")
    fixture.add(1, values=[7])
    fixture.log.on_grids(grids_of(1, 2.5))
    fixture.log.add_counts(job, counts_of(job))
    assert fixture.sent() == ["1"]
    assert fixture.log.has_count_job()


def test_grids_that_do_not_fit_are_the_servers_fault(fixture):
    fixture.welcome(0, 0)
    fixture.add(1, values=[7])
    with pytest.raises(CalibdError, match="contradicts itself"):
        fixture.log.on_grids(observe_pb2.StepGrids(step=1, world_epoch=1))


def test_the_end_answers_what_is_open(fixture):
    fixture.welcome(0, 0)
    ticket = fixture.add(1)
    fixture.log.end_all(make_error("ABORTED", "the end"))
    assert ticket.answered and not fixture.log.has_open() and not fixture.log.has_message()
