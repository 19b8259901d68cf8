"""What a session can't take for now is given again; what it refuses is not."""

from __future__ import annotations

import time

import pytest

torch = pytest.importorskip("torch")

import calibd  # noqa: E402
import calibd.torch  # noqa: E402
from calibd.config import Rule  # noqa: E402
from calibd.errors import (  # noqa: E402
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from calibd.observer import Observer  # noqa: E402
from calibd.torch import kernels  # noqa: E402
from calibd.torch.collector import Collector  # noqa: E402
from calibd.torch.delivery import Delivery  # noqa: E402
from fake_session import FakeSession  # noqa: E402

FOREVER = 3600.0
SECONDS = 60
AWAY = UnavailableError("cannot reach calibd")


@pytest.mark.parametrize("on_device", [None, True])
@pytest.mark.parametrize(
    "observer",
    [Observer(), Observer("minmax"), Observer("histogram", channel_axis=0), Observer("ema", channel_axis=0)],
    ids=["histogram", "minmax", "per channel", "steps"],
)
def test_nothing_is_lost_while_a_server_is_away(observer, on_device):
    session = FakeSession([Rule("*", observer)])
    collector = Collector(session, interval=FOREVER, on_device=on_device)
    tensors = [torch.tensor([[float(index), 1.0], [-1.0, 2.0]]) for index in range(6)]
    session.error = AWAY
    for tensor in tensors[:4]:
        assert collector.observe("a", tensor)
        with pytest.raises(UnavailableError, match="cannot reach calibd; what was observed is kept"):
            collector.hand_over()
    with pytest.raises(UnavailableError):
        collector.close()
    assert collector.error is None
    assert collector.failure is not None
    session.error = None
    for tensor in tensors[4:]:
        collector.observe("a", tensor)
    collector.close()
    collector.close()
    assert collector.failure is None
    counted = [kernels.observe(tensor, observer) for tensor in tensors]
    if observer.depends_on_order:
        assert [step for _, step in session.steps] == counted
    else:
        for statistics in counted[1:]:
            counted[0].merge(statistics)
        assert session.layers == {"a": counted[0]}


def test_arrays_are_kept_as_they_were():
    session = FakeSession([Rule("*", Observer("reference_histogram"))])
    given = []
    session.observe = lambda layer, array, dtype=None: session.observe_statistics(layer, None) or given.append(array)
    collector = Collector(session, interval=FOREVER)
    tensor = torch.tensor([1.0, 2.0])
    session.error = AWAY
    collector.observe("a", tensor)
    tensor.fill_(3.0)
    collector.observe("a", tensor)
    session.error = None
    collector.close()
    assert [array.tolist() for array in given] == [[1.0, 2.0], [3.0, 3.0]]


def test_a_server_that_is_away_is_asked_once_a_hand_over():
    session = FakeSession()
    session.error = AWAY
    collector = Collector(session, interval=FOREVER)
    for index in range(5):
        collector.observe(f"{index}.weight", torch.ones(2, 2), once=True)
    assert session.tries == 1
    with pytest.raises(UnavailableError):
        collector.hand_over()
    assert session.tries == 2
    session.error = None
    collector.close()
    assert len(session.layers) == 5


def test_weights_are_given_again_by_the_thread():
    session = FakeSession()
    session.error = AWAY
    collector = Collector(session, interval=0.01)
    collector.observe("weight", torch.ones(2, 2), once=True)
    session.error = None
    assert session.received.wait(SECONDS)
    collector.close()
    assert session.layers["weight"].values() == 4


@pytest.mark.parametrize(
    "error, passes",
    [
        (AWAY, True),
        (ResourceExhaustedError("full", reason="LIMIT_EXCEEDED", metadata={"option": "--max-state-bytes"}), True),
        (ResourceExhaustedError("too many streams", reason="LIMIT_EXCEEDED"), True),
        (ResourceExhaustedError("too wide", reason="LIMIT_EXCEEDED", metadata={"layer": "a"}), False),
        (InvalidArgumentError("the layer has other channels"), False),
        (FailedPreconditionError("the session is sealed", reason="SESSION_SEALED"), False),
    ],
)
def test_what_is_refused_is_dropped(error, passes):
    session = FakeSession()
    delivery = Delivery(session)
    session.error = error
    delivery.keep("a", kernels.observe(torch.ones(3)), Observer())
    delivery.give()
    assert (delivery.error, delivery.failure) == ((None, error) if passes else (error, None))
    session.error = None
    delivery.give()
    assert list(session.layers) == (["a"] if passes else [])
    assert (delivery.error, delivery.failure) == (None if passes else error, None)


def test_a_watch_outlasts_a_server_that_is_away(server, client):
    client.create_session("away")
    session = client.session("away", open_timeout=0.2)
    assert session.config.mantissa_bits  # known from here on
    server.kill()
    model = torch.nn.Linear(4, 4)
    watcher = calibd.torch.watch(model, session)
    model(torch.ones(8, 4))
    with pytest.raises(UnavailableError, match="is kept"):
        watcher.close()
    server.start()
    end = time.monotonic() + SECONDS
    while True:
        try:
            watcher.close()
            break
        except UnavailableError:  # after open_timeout
            assert time.monotonic() < end
    session.flush(SECONDS)
    found = {layer: statistics.values() for layer, statistics in session.statistics().items()}
    assert found == {"weight": 16, "output": 32}
