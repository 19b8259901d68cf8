"""A collector gives a session what a worker that observes arrays gives it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import weakref

import pytest

torch = pytest.importorskip("torch")

import sample_tensors  # noqa: E402
from calibd import fork  # noqa: E402
from calibd.config import Rule  # noqa: E402
from calibd.errors import CalibdError, FailedPreconditionError, InvalidArgumentError  # noqa: E402
from calibd.observer import Observer  # noqa: E402
from calibd.torch import kernels  # noqa: E402
from calibd.torch.collector import Collector  # noqa: E402
from fake_session import FakeSession  # noqa: E402

FOREVER = 3600.0
SECONDS = 30


def observed(tensors, observer, mantissa_bits=7):
    expected = kernels.observe_on_host(tensors[0], observer, mantissa_bits)
    for tensor in tensors[1:]:
        expected.merge(kernels.observe_on_host(tensor, observer, mantissa_bits))
    return expected


@pytest.mark.parametrize("on_device", [None, True])
@pytest.mark.parametrize("mantissa_bits", [7, 4])
def test_merges_by_layer(on_device, mantissa_bits):
    rules = [Rule("*.weight", Observer("histogram", channel_axis=0)), Rule("range.*", Observer("minmax")), Rule("*")]
    session = FakeSession(rules, mantissa_bits)
    collector = Collector(session, interval=FOREVER, on_device=on_device)
    given = {name: [] for name in ("a", "b", "range.a", "fc.weight")}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for tensor in sample_tensors.strided(dtype).values():
            for name in ("a", "range.a"):
                assert collector.observe(name, tensor)
                given[name].append(tensor)
        for name in ("b", "fc.weight"):
            tensor = torch.randn(6, 4, 3).to(dtype)
            assert collector.observe(name, tensor)
            given[name].append(tensor)
    collector.close()
    assert session.layers.keys() == given.keys()
    for name, tensors in given.items():
        assert session.layers[name] == observed(tensors, session.config.observer_of(name), mantissa_bits), name


def test_a_thread_hands_over_by_itself():
    session = FakeSession()
    collector = Collector(session, interval=0.01)
    collector.observe("a", torch.ones(5))
    assert session.received.wait(SECONDS)
    collector.close()
    assert session.layers["a"].count.tolist() == [5]


@pytest.mark.parametrize("on_device", [None, True])
def test_threads_lose_nothing(on_device):
    session = FakeSession()
    collector = Collector(session, interval=0.001, on_device=on_device)
    tensor = torch.randn(300)

    def work():
        for index in range(200):
            collector.observe(f"layer{index % 3}", tensor)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collector.close()
    assert sum(layer.values() for layer in session.layers.values()) == 4 * 200 * 300


@pytest.mark.parametrize("on_device", [None, True])
def test_steps_stay_apart_and_in_order(on_device):
    session = FakeSession([Rule("*", Observer("ema"))])
    collector = Collector(session, interval=FOREVER, on_device=on_device)
    for step in range(5):
        collector.observe("a", torch.tensor([float(step), -1.0]))
    collector.close()
    assert [(name, step.max.tolist()) for name, step in session.steps] == [("a", [float(step)]) for step in range(5)]


def test_layers_that_are_not_collected():
    session = FakeSession([Rule("skipped", None), Rule("passive", Observer("passive")), Rule("only", Observer())])
    collector = Collector(session, interval=FOREVER)
    assert [collector.observe(name, torch.ones(2)) for name in ("skipped", "passive", "other", "only")] == [
        False,
        False,
        False,
        True,
    ]
    collector.close()
    assert list(session.layers) == ["only"]


def test_a_layer_of_a_wrong_type_is_named():
    collector = Collector(FakeSession(), interval=FOREVER)
    with pytest.raises(InvalidArgumentError, match="layer 'a'.*float64"):
        collector.observe("a", torch.ones(2, dtype=torch.float64))
    collector.close()


def test_the_session_s_error_comes_from_close():
    session = FakeSession()
    session.error = FailedPreconditionError("the session is sealed")
    collector = Collector(session, interval=FOREVER)
    collector.observe("a", torch.ones(2))
    with pytest.raises(FailedPreconditionError, match="sealed"):
        collector.close()
    assert collector.error is session.error


def test_the_rest_is_made_durable_at_exit_though_a_layer_was_refused():
    session = FakeSession()
    session.error = InvalidArgumentError("the layer has other channels")
    collector = Collector(session, interval=FOREVER)
    collector.observe("a", torch.ones(2))
    with pytest.warns(RuntimeWarning, match="other channels"):
        collector._finish()
    assert session.flushes == 1
    with pytest.raises(InvalidArgumentError):
        collector.close()


@pytest.mark.parametrize("rooms, most", [(2, 2), (1, 1), (0, 0)])
def test_counters_of_devices_are_bounded(monkeypatch, rooms, most):
    made, alive = [], weakref.WeakSet()
    make = kernels.make_counter

    def make_counter(*given, **more):
        counter = make(*given, **more)
        alive.add(counter)
        made.append(len(alive))
        return counter

    monkeypatch.setattr(kernels, "make_counter", make_counter)
    room = kernels.device_bytes(torch.ones(3), Observer(), on_device=True)
    assert room >= 8 * 65536
    session = FakeSession()
    collector = Collector(session, interval=FOREVER, on_device=True, device_bytes=rooms * room)
    for _ in range(3):
        for layer in range(5):
            collector.observe(f"layer{layer}", torch.ones(3))
    collector.close()
    assert {name: found.values() for name, found in session.layers.items()} == {f"layer{i}": 9 for i in range(5)}
    assert max(made, default=0) == most


def test_a_tensor_without_room_is_counted_on_the_host(monkeypatch):
    session = FakeSession()
    room = kernels.device_bytes(torch.ones(3), Observer(), on_device=True)
    collector = Collector(session, interval=FOREVER, on_device=True, device_bytes=room)
    collect = kernels.collect

    def fail(*_):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(kernels, "collect", fail)
    collector.observe("a", torch.ones(3))
    collector.observe("b", torch.ones(4))
    assert {name: found.values() for name, found in session.layers.items()} == {"b": 4}
    monkeypatch.setattr(kernels, "collect", collect)
    collector.close()
    assert session.layers["a"].values() == 3


@pytest.mark.parametrize("kind", ["histogram", "ema"])
def test_counts_outlast_a_hand_over_that_fails(monkeypatch, kind):
    session = FakeSession([Rule("*", Observer(kind))])
    collect, failures = kernels.collect, threading.Semaphore(0)

    def fail(*_):
        failures.release()
        raise RuntimeError("CUDA out of memory")

    collector = Collector(session, interval=0.01)
    monkeypatch.setattr(kernels, "collect", fail)
    collector.observe("a", torch.tensor([1.0, 2.0]))
    for _ in range(2):
        assert failures.acquire(timeout=SECONDS)  # the thread outlasts the first failure
    collector.observe("a", torch.tensor([3.0]))
    with pytest.raises(CalibdError, match="CUDA out of memory"):
        collector.close()
    assert session.calls == 0
    monkeypatch.setattr(kernels, "collect", collect)
    collector.close()
    assert collector.error is None
    if kind == "ema":
        assert [step.max.tolist() for _, step in session.steps] == [[2.0], [3.0]]
    else:
        assert session.layers["a"].count.tolist() == [3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_begins_anew():
    fork.install()  # as a session's channel does
    session = FakeSession()
    collector = Collector(session, interval=FOREVER)
    collector.observe("a", torch.ones(3))
    child = os.fork()
    if child == 0:
        status = 1
        try:
            collector.observe("a", torch.ones(10))
            collector.close()
            status = 0 if session.layers["a"].values() == 10 else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    collector.close()
    assert session.layers["a"].values() == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_threads_of_a_forked_process_begin_anew_together():
    fork.install()
    for _ in range(30):
        session = FakeSession()
        collector = Collector(session, interval=FOREVER)
        collector.observe("a", torch.ones(3))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(60)
                sys.setswitchinterval(1e-6)
                together = threading.Barrier(6)

                def work(collector=collector, together=together):
                    together.wait()
                    for _ in range(3):
                        collector.observe("a", torch.ones(1))

                threads = [threading.Thread(target=work) for _ in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                collector.close()
                status = 0 if session.layers["a"].values() == 18 else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        collector.close()


def test_what_is_observed_while_it_closes_is_handed_over():
    entered, gate = threading.Event(), threading.Event()

    class Slow(FakeSession):
        def observe_statistics(self, layer, statistics):
            entered.set()
            assert gate.wait(60)
            super().observe_statistics(layer, statistics)

    session = Slow()
    collector = Collector(session, interval=0.01)
    collector.observe("a", torch.ones(3))
    assert entered.wait(60)
    stop = collector._stop
    closing = threading.Thread(target=collector.close)
    closing.start()
    assert stop.wait(60)
    collector.observe("b", torch.ones(4))
    gate.set()
    closing.join(60)
    session.received.clear()
    collector.observe("b", torch.ones(4))
    assert session.received.wait(60)  # without another close
    collector.close()
    assert session.layers["b"].values() == 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_streams_of_a_cuda_device():
    session = FakeSession()
    collector = Collector(session, interval=0.01)
    side = torch.cuda.Stream()
    given = []
    for index in range(50):
        with torch.cuda.stream(side if index % 2 else torch.cuda.current_stream()):
            tensor = torch.randn(1000, device="cuda")
            collector.observe("a", tensor)
            given.append(tensor)
    collector.close()
    assert session.layers["a"] == observed(given, Observer())
