"""What callers give by mistake: errors that name the parameter and its value and say what to do."""

import inspect

import calibd
import numpy as np
import pytest
from calibd import InvalidArgumentError, Method, Observer, QuantSpec, Rule, SessionConfig, Synchronous
from calibd.rank import Rank
from calibd.worker import Worker

ONES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Rule("*", "minmax"), "observer is 'minmax'; it must be a calibd.Observer"),
        (lambda: Rule(None), "pattern is None"),
        (lambda: Rule("*", quant_spec="int8"), "quant_spec is 'int8'; it must be a calibd.QuantSpec"),
        (lambda: SessionConfig(("*",)), r"rules is '\*'; each must be a calibd.Rule"),
        (lambda: SessionConfig(mantissa_bits=1.5).to_proto(), "mantissa_bits is 1.5; .* integer from 0 to 7"),
        (lambda: Synchronous(-1).to_proto(), "world_size is -1; .* integer from 1 to 65536"),
        (lambda: Synchronous(1, window="x").to_proto(), "window is 'x'"),
        (lambda: Synchronous(1, "fail", float("inf")).to_proto(), "deadline is inf; .*seconds"),
        (lambda: Observer(5).to_proto(), "no observer kind 5; there are histogram"),
        (lambda: Observer(channel_axis="x").to_proto(), "channel_axis is 'x'; it must be an integer"),
        (lambda: Observer(ema="x").to_proto(), "ema is 'x'; it must be a calibd.Ema"),
        (lambda: Method("mse", norm="2").to_proto(), "norm is '2'; it must be a number"),
        (lambda: QuantSpec(per_channel="no").to_proto(), "per_channel is 'no'; it must be True or False"),
        (lambda: QuantSpec(codes=7).to_proto(), r"codes is 7; it must be a pair \(qmin, qmax\)"),
        (lambda: QuantSpec(codes=(0, 1.5)).to_proto(), "qmax is 1.5; it must be an integer$"),
        (lambda: QuantSpec(dtype=8).to_proto(), "dtype is 8; give a name"),
        (lambda: calibd.connect(7070), "target is 7070; it must be a str HOST:PORT"),
    ],
)
def test_configs_and_specs(make, message):
    with pytest.raises(InvalidArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda session: session.qparams(method=None), "method is None; give a name"),
        (lambda session: session.qparams(5), "pattern is 5; it must be a glob"),
        (lambda session: session.qparams(dtype=np.dtype("float32")), "no quant type 'float32'; there are"),
        (lambda session: session.compare(methods="mse"), "methods is 'mse'; it must be a sequence"),
        (lambda session: session.compare(dtypes="int8"), "dtypes is 'int8'; it must be a sequence"),
        (lambda session: session.statistics(None), "pattern is None"),
        (lambda session: session.export("json", weights=5), "weights is 5"),
        (lambda session: session.set_enabled(None, True), "pattern is None"),
        (lambda session: session.set_enabled("*", "no"), "enabled is 'no'"),
        (lambda session: session.set_world(-1), "world_size is -1"),
    ],
)
def test_calls(client, call, message):
    session = client.create_session("s", world_size=1)
    with pytest.raises(InvalidArgumentError, match=message):
        call(session)


def test_a_session_that_can_not_be_is_not_made(client):
    for options in ({"world_size": -1}, {"rules": ["*"]}, {"rank": "0"}, {"mantissa_bits": "7"}):
        with pytest.raises(InvalidArgumentError, match=next(iter(options))):
            client.create_session("s", **options)
    with pytest.raises(InvalidArgumentError, match="name is None"):
        client.session(None)
    assert client.sessions() == []


def test_types_of_numpy_stand_for_their_names(client):
    session = client.create_session("s")
    session.observe("a", ONES)
    session.flush()
    for dtype in (np.dtype("uint8"), np.uint8):
        assert session.qparams(dtype=dtype, scheme="affine")[0].spec.dtype == "uint8"
        assert QuantSpec.from_proto(QuantSpec(dtype).to_proto()).dtype == "uint8"


@pytest.mark.parametrize("layer", [None, b"a", 5, ["a"]])
def test_names_of_layers_are_text(client, layer):
    session = client.create_session("s", rules=[Rule("p", Observer("passive")), Rule("*")])
    with pytest.raises(InvalidArgumentError, match="layer is .*; its name must be a str") as caught:
        session.observe(layer, ONES)
    assert caught.value.reason == "LAYER_NAME_INVALID"
    with pytest.raises(InvalidArgumentError, match="layer is "):
        session.set_qparams(layer, 1.0)


def test_steps(client):
    session = client.create_session("s", world_size=1, rank=0)
    for layers, step, message in (
        ({None: ONES}, None, "layer is None"),
        ({b"a": ONES}, None, "layer is b'a'"),
        ([], None, r"layers is \[\]; it must be a mapping"),
        (None, None, "layers is None"),
        ({"a": ONES}, "3", "step is '3'"),
        ({"a": ONES}, 1.5, "step is 1.5"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            session.step(layers, step=step)
    assert session.step({"a": ONES}, step=np.int64(1)).step == 1


@pytest.mark.parametrize(
    "name, value",
    [
        ("worker_id", 5),
        ("worker_id", "\ud800"),
        ("display_name", 5),
        ("display_name", None),
        ("send_interval", "1"),
        ("send_interval", -0.1),
        ("send_interval", float("nan")),
        ("send_interval", float("inf")),
        ("updates_in_flight", 0),
        ("updates_in_flight", 1.5),
        ("raw_window_bytes", "x"),
        ("min_backoff", None),
        ("max_backoff", -1),
        ("open_timeout", "3"),
        ("open_timeout", -1),
    ],
)
def test_options_of_a_worker_are_checked_before_it_is_used(client, name, value):
    for make in (lambda: Worker(client.connection, "s", **{name: value}), lambda: client.session("s", **{name: value})):
        with pytest.raises(InvalidArgumentError, match=f"^{name} is "):
            make()


@pytest.mark.parametrize(
    "name, value", [("worker_id", 5), ("display_name", 5), ("kept_bytes", "x"), ("max_message_bytes", -1), ("rank", -1)]
)
def test_options_of_a_rank_are_checked_before_it_connects(client, name, value):
    options = {"rank": 0, name: value}
    for make in (lambda: Rank(client.connection, "s", **options), lambda: client.session("s", **options)):
        with pytest.raises(InvalidArgumentError, match=f"^{name} is "):
            make()


def test_options_are_told_apart_and_named_at_once(client):
    with pytest.raises(InvalidArgumentError, match="send_interval is 1; that is for sessions without a rank"):
        client.session("s", rank=0, send_interval=1)
    with pytest.raises(InvalidArgumentError, match="kept_bytes is 1; that is for sessions with a rank"):
        client.session("s", kept_bytes=1)
    with pytest.raises(TypeError, match="send_intervall"):
        client.session("s", send_intervall=1)
    parameters = inspect.signature(client.session).parameters
    for contributor in (Worker, Rank):
        own = inspect.signature(contributor).parameters
        for name in list(own)[2:]:
            assert parameters[name].default in (own[name].default, None), name


def test_options_reach_the_worker_and_the_rank(client):
    client.create_session("s", world_size=1)
    for given in ({"send_interval": np.float32(0.5)}, {"rank": np.int64(0), "kept_bytes": np.int64(1 << 20)}):
        session = client.session("s", worker_id="mine", display_name="me", **given)
        session.open()
        (worker,) = [worker for worker in session.describe().workers if worker.connected]
        assert (worker.worker_id, worker.rank) == ("mine", given.get("rank"))
        session.close()
