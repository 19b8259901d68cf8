"""Hooks see what modules take and return whatever these do with it, and leave models as they were."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import warnings

import pytest

torch = pytest.importorskip("torch")

import calibd.torch  # noqa: E402
from calibd.errors import InvalidArgumentError  # noqa: E402
from calibd.torch import modules  # noqa: E402
from fake_session import FakeSession  # noqa: E402
from torch import nn  # noqa: E402


def hooks_of(model):
    return [h for m in model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


class Scaled(nn.Module):
    """A model with a child whose name is a layer's name, too."""

    def __init__(self, child):
        super().__init__()
        self.child = child
        self.add_module(child, nn.Linear(2, 2))

    def forward(self, x):
        return getattr(self, self.child)(x) * 100


def test_inputs_are_those_before_the_module_writes_to_them():
    model = nn.Sequential(nn.ReLU(inplace=True))
    session = FakeSession()
    with calibd.torch.watch(model, session, inputs=True):
        model(torch.tensor([-1.0, -2.0, 3.0]))
    assert (session.layers["0.input"].min, session.layers["0"].min) == (-2.0, 0.0)
    assert not hooks_of(model)


@pytest.mark.parametrize("batches", [None, 1])
def test_copies_stop_when_the_watcher_does(batches):
    model = nn.Linear(3, 2)
    session = FakeSession()
    watcher = calibd.torch.watch(model, session, weights=False, inputs=True, batches=batches)
    twin = copy.deepcopy(model)
    model(torch.ones(1, 3))
    if batches is None:
        watcher.close()
    twin(torch.ones(1, 3))
    watcher.close()
    twin(torch.ones(1, 3))
    assert watcher.batches_seen == 1
    assert {name: layer.values() for name, layer in session.layers.items()} == {"input": 3, "output": 2}
    assert "calibd-collector" not in [thread.name for thread in threading.enumerate()]


def test_torchscript_inside_is_left_out():
    model = nn.Sequential(nn.Linear(3, 3), torch.jit.script(nn.Sequential(nn.Linear(3, 3))), nn.Linear(3, 2))
    session = FakeSession()
    with pytest.warns(RuntimeWarning, match="'1.0'"):
        with calibd.torch.watch(model, session, inputs=True) as watcher:
            model(torch.ones(1, 3))
    weights = ["0.weight", "1.0.weight", "2.weight"]
    assert watcher.layers == [*weights, "0.input", "0", "2.input", "2"]
    with pytest.raises(InvalidArgumentError, match="ScriptModule"):
        calibd.torch.watch(torch.jit.script(nn.Linear(3, 2)), session)


def test_no_hook_stays_when_watch_raises():
    class Unhooked(nn.ReLU):
        def register_forward_hook(self, *given, **more):
            raise RuntimeError("no hooks here")

    for last in (Unhooked(), nn.Linear(3, 2).double()):
        model = nn.Sequential(nn.Linear(3, 3), last)
        with pytest.raises((RuntimeError, InvalidArgumentError), match="no hooks here|float64"):
            calibd.torch.watch(model, FakeSession(), inputs=True)
        assert not hooks_of(model)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        return self.encoder(x, src_key_padding_mask=torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:calibd")
@pytest.mark.skipif(hasattr(torch.backends, "mha"), reason="this PyTorch has a switch for it")
def test_fast_path_of_transformers():
    model = Encoder().eval()
    x = torch.randn(2, 5, 8)
    session = FakeSession()
    with torch.no_grad(), calibd.torch.watch(model, session, include="*", weights=False) as watcher:
        model(x)
    assert watcher.layers == ["encoder", "output"]  # what layers return is nested
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.training = True
    with torch.no_grad(), calibd.torch.watch(model, session, weights=False) as watcher:
        slow = model(x)
    assert {"encoder.layers.0.linear1", "encoder.layers.1.norm2"} <= set(watcher.layers)
    assert torch.equal(model(x), slow)  # no dropout


def test_nested_tensors_are_left_out():
    make = getattr(torch.nested, "nested_tensor", None) if hasattr(torch, "nested") else None
    nested = (make or torch._nested_tensor_from_tensor_list)([torch.ones(2, 3), torch.ones(1, 3)])
    assert [name for name, _ in modules.tensors_in("x", (torch.ones(2), nested))] == ["x.0"]


def test_modules_that_were_not_called_are_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.none = nn.Linear(2, 2), nn.Linear(2, 2), nn.ModuleList()

        def forward(self, x):
            return self.used(x)

    model = Model()
    watcher = calibd.torch.watch(model, FakeSession())
    model(torch.ones(1, 2))
    with pytest.warns(RuntimeWarning, match="no batch called them as modules: 'unused'. "):
        watcher.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watcher.close()
        calibd.torch.watch(model, FakeSession()).close()  # no batch
        with calibd.torch.watch(model, FakeSession(), exclude="unused"):
            model(torch.ones(1, 2))


def test_two_layers_of_one_name_are_refused():
    for child, inputs in (("output", False), ("input", True)):
        model = Scaled(child)
        with pytest.raises(InvalidArgumentError, match=f"layer '{child}' .*the model.* module '{child}'"):
            calibd.torch.watch(model, FakeSession(), include="*", inputs=inputs)
        assert not hooks_of(model)
        calibd.torch.watch(model, FakeSession(), inputs=inputs).close()
    calibd.torch.watch(Scaled("input"), FakeSession(), include="*").close()


def test_errors_of_saving_a_watched_model_say_what_to_do():
    model = nn.Linear(3, 2)
    watcher = calibd.torch.watch(model, FakeSession(), inputs=True)
    for save in (pickle.dumps, lambda m: torch.save(m, io.BytesIO())):
        with pytest.raises(TypeError, match="close the watcher"):
            save(model)
    with pytest.raises(Exception, match="close the watcher"):
        torch.jit.script(model)
    torch.save(model.state_dict(), io.BytesIO())
    watcher.close()
    pickle.dumps(model)
    torch.jit.script(model)
