"""prepare and convert with observers of calibd: PyTorch's own answers, from all workers' values."""

from __future__ import annotations

import copy
import pathlib
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import calibd  # noqa: E402
import calibd.torch  # noqa: E402
from calibd.config import Rule  # noqa: E402
from calibd.errors import CalibdError, FailedPreconditionError, InvalidArgumentError  # noqa: E402
from calibd.torch.observer import FleetObserver  # noqa: E402
from quantized_cnn import CNN, batches, converted_state, prepare_eager, prepare_graph  # noqa: E402
from torch import nn  # noqa: E402
from torch.ao import quantization  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
RULES = calibd.torch.rules()
MINMAX = {"method": "minmax"}
TIMEOUT = 120


@pytest.fixture
def session(server):
    with calibd.connect(server.address) as client:
        session = client.create_session("quantization", rules=RULES)
        yield session
        session.close()


def torch_s_own(**activation):
    return quantization.QConfig(
        activation=quantization.MinMaxObserver.with_args(**activation),
        weight=quantization.PerChannelMinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_channel_symmetric),
    )


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, f"{name}: {found[name]}, not {value}"


@pytest.mark.parametrize("how", [prepare_eager, prepare_graph])
@pytest.mark.parametrize(
    "activation",
    [
        {},
        {"dtype": torch.quint8, "qscheme": torch.per_tensor_symmetric},
        {"quant_min": 0, "quant_max": 127},
        {"quant_min": 0, "quant_max": 100, "qscheme": torch.per_tensor_symmetric},
    ],
)
def test_minmax_equals_torch_s_observers(session, how, activation):
    prepared, convert = how(CNN(), torch_s_own(**activation))
    for batch in batches(4):
        prepared(batch)
    expected = converted_state(convert(prepared))

    prepared, convert = how(CNN(), calibd.torch.qconfig(activation={**MINMAX, **activation}, weight=MINMAX))
    attachment = calibd.torch.attach(prepared, session)
    for batch in batches(4):
        prepared(batch)
    found = converted_state(convert(prepared))
    attachment.close()
    assert_same_state(found, expected)
    assert any("scale" in name for name in found)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.quint8},
        {"dtype": torch.qint8},
        {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric},
        {"dtype": torch.quint8, "qscheme": torch.per_tensor_symmetric},
        {"dtype": torch.quint8, "reduce_range": True},
        {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric, "quant_min": -8, "quant_max": 7},
        {"dtype": torch.quint4x2},
        {"dtype": torch.qint32, "qscheme": torch.per_tensor_symmetric},
        {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric},
        {"dtype": torch.quint8, "qscheme": torch.per_channel_affine},
        {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "quant_min": -127, "quant_max": 127},
    ],
)
@pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max")
def test_an_observer_equals_torch_s(session, options):
    per_channel = options.get("qscheme") in (torch.per_channel_symmetric, torch.per_channel_affine)
    peer = (quantization.PerChannelMinMaxObserver if per_channel else quantization.MinMaxObserver)(**options)
    layer = "a.weight" if per_channel else "a"
    model = nn.Sequential()
    model.add_module(layer.replace(".", "_"), FleetObserver(**options))
    attachment = calibd.torch.Attachment(session)
    observer = model[0]
    attachment.add(layer, observer)
    observer.layer, observer.attachment = layer, attachment
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        tensor = 5 * torch.randn(6, 20, generator=generator) + 1
        assert observer(tensor) is tensor
        peer(tensor)
    for found, expected in zip(observer.calculate_qparams(), peer.calculate_qparams()):
        assert found.tolist() == expected.tolist()
        assert found.shape == expected.shape
    observer(torch.full((6, 1), 1000.0))  # asked anew
    peer(torch.full((6, 1), 1000.0))
    assert observer.calculate_qparams()[0].tolist() == peer.calculate_qparams()[0].tolist()
    attachment.close()


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_workers_convert_to_the_same_model(server, tmp_path, method):
    states = []
    for workers in (1, 3):
        with calibd.connect(server.address) as client:
            client.create_session(f"{method}-{workers}", rules=RULES)
        processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / "quantized_cnn.py"), server.address, f"{method}-{workers}", method]
                + [str(rank), str(workers), str(tmp_path / f"{workers}-{rank}.pt")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(workers)
        ]
        try:
            for process in processes:  # all have flushed before any converts
                assert process.stdout.readline() == "flushed\n"
            for process in processes:
                process.communicate("convert\n", timeout=TIMEOUT)
                assert process.returncode == 0
        finally:
            for process in processes:
                process.kill()
                process.wait()
        states += [torch.load(tmp_path / f"{workers}-{rank}.pt") for rank in range(workers)]
    for state in states[1:]:
        assert_same_state(state, states[0])


def test_layers_have_the_names_that_watch_gives(session):
    prepared, _ = prepare_graph(CNN(), calibd.torch.qconfig())
    layers = calibd.torch.attach(prepared, session).layers
    # What pool and flatten return has the observer of what they take.
    assert layers == ["x", "stem", "body.0", "relu", "head", "stem.weight", "body.0.weight", "head.weight"]
    prepared, _ = prepare_eager(CNN(), calibd.torch.qconfig())
    layers = calibd.torch.attach(prepared, session).layers
    expected = ["stem", "body.0", "skip", "head", "quant", "stem.weight", "body.0.weight", "head.weight"]
    assert sorted(layers) == sorted(expected)


def test_one_request_for_each_kind_of_layer(session):
    asked = []
    answer = session.qparams
    session.qparams = lambda *given, **more: asked.append(given) or answer(*given, **more)
    prepared, convert = prepare_graph(CNN(), calibd.torch.qconfig())
    calibd.torch.attach(prepared, session)
    prepared(batches(1)[0])
    convert(prepared)
    assert sorted(asked) == [("*",), ("*.weight",)]


@pytest.mark.parametrize("end", ["flush", "close"])
def test_answers_are_asked_for_anew_after_a_barrier(server, session, end):
    attachment = calibd.torch.Attachment(session)
    observer = FleetObserver(method="minmax", layer="a", attachment=attachment)
    attachment.add("a", observer)
    attachment.observe("a", torch.tensor([0.0, 1.0]))
    before = observer.calculate_qparams()[0].item()
    with calibd.connect(server.address) as client, client.session("quantization") as other:
        other.observe("a", torch.tensor([100.0]).numpy())
    getattr(attachment, end)()
    assert observer.calculate_qparams()[0].item() == pytest.approx(100 * before)
    attachment.close()


def test_without_attach():
    prepared, convert = prepare_eager(CNN(), calibd.torch.qconfig())
    with pytest.raises(FailedPreconditionError, match="calibd.torch.attach"):
        prepared(batches(1)[0])
    with pytest.raises(FailedPreconditionError, match="calibd.torch.attach"):
        convert(prepared)
    with pytest.raises(FailedPreconditionError, match="calibd.torch.attach"):
        FleetObserver().calculate_qparams()


def test_without_values(session):
    prepared, convert = prepare_eager(CNN(), calibd.torch.qconfig())
    calibd.torch.attach(prepared, session)
    with pytest.raises(CalibdError, match="run batches|no values|finite"):
        convert(prepared)


def test_a_model_without_observers(session):
    with pytest.raises(InvalidArgumentError, match="prepare it with calibd.torch.qconfig"):
        calibd.torch.attach(nn.Linear(2, 2), session)


def test_rules_that_do_not_suit(server):
    with calibd.connect(server.address) as client:
        session = client.create_session("per-tensor")
        prepared, _ = prepare_eager(CNN(), calibd.torch.qconfig())
        with pytest.raises(InvalidArgumentError, match="along axis 0, but the session observes it per tensor"):
            calibd.torch.attach(prepared, session)
        session = client.create_session("weights-alone", rules=[Rule("*.weight")])
        with pytest.raises(InvalidArgumentError, match="no rule of the session"):
            calibd.torch.attach(prepared, session)


def test_copies_share_the_session(session):
    prepared, _ = prepare_eager(CNN(), calibd.torch.qconfig())
    attachment = calibd.torch.attach(prepared, session)
    twin = copy.deepcopy(prepared)
    assert twin.stem.activation_post_process.attachment is attachment
    assert set(prepared.state_dict()) == set(twin.state_dict())
    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(prepared)
    attachment.close()


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": torch.quint4x2, "qscheme": torch.per_tensor_symmetric},
        {"qscheme": torch.per_channel_affine_float_qparams},
    ],
)
def test_what_calibd_has_no_parameters_of(options):
    with pytest.raises(InvalidArgumentError):
        FleetObserver(**options)


def test_the_least_scale_is_the_session_s():
    FleetObserver(eps=torch.finfo(torch.float32).eps)
    with pytest.raises(InvalidArgumentError, match="eps is 0.000244141.*computed by the session"):
        FleetObserver(eps=2**-12)
