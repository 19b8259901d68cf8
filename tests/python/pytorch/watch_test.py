"""Hooks observe what modules return, under the names that modules have."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import calibd.torch  # noqa: E402
from calibd.errors import InvalidArgumentError  # noqa: E402
from calibd.torch import kernels, modules  # noqa: E402
from calibd.torch.progress import Progress  # noqa: E402
from fake_session import FakeSession  # noqa: E402
from small_models import classifier, images  # noqa: E402
from torch import nn  # noqa: E402

LEAVES = [
    "stem",
    "blocks.0.conv",
    "blocks.0.norm",
    "blocks.0.relu",
    "blocks.1.conv",
    "blocks.1.norm",
    "blocks.1.relu",
    "pool",
    "dropout",
    "head",
]
WEIGHTS = ["stem.weight", "blocks.0.conv.weight", "blocks.1.conv.weight", "head.weight"]


def run(model, batches=3, **options):
    session = FakeSession(calibd.torch.rules(model))
    with torch.no_grad(), calibd.torch.watch(model, session, **options) as watcher:
        for batch in images(batches):
            model(batch)
    return session, watcher


def test_outputs_and_weights():
    model = classifier()
    outputs = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, o, name=name: outputs.setdefault(name, []).append(o.clone()))
    session, watcher = run(model)
    assert sorted(watcher.layers) == sorted([*LEAVES, *WEIGHTS])
    assert watcher.layers[:4] == WEIGHTS
    assert watcher.batches_seen == 3
    observer = session.config.observer_of("stem")
    for name in LEAVES:
        assert session.layers[name] == kernels.observe(torch.cat(outputs[name]), observer), name
    parameters = dict(model.named_parameters())
    for name in WEIGHTS:
        expected = kernels.observe(parameters[name], session.config.observer_of(name))
        assert session.layers[name] == expected
        assert expected.channels == parameters[name].shape[0]


@pytest.mark.parametrize(
    "options, layers",
    [
        ({"include": "head"}, ["head"]),
        ({"include": ["blocks.?.conv", "head"]}, ["blocks.0.conv", "blocks.1.conv", "head"]),
        ({"include": ["blocks.0"]}, ["blocks.0"]),
        (
            {"exclude": ["nothing", "blocks.*"], "exclude_types": ["Nothing", nn.LSTM]},
            ["stem", "pool", "dropout", "head"],
        ),
        ({"include_types": [nn.LSTM, nn.Linear]}, ["head"]),
        ({"include": ""}, ["output"]),
        ({"include_types": nn.Conv2d}, ["stem", "blocks.0.conv", "blocks.1.conv"]),
        ({"include_types": "Conv?d", "exclude": "stem"}, ["blocks.0.conv", "blocks.1.conv"]),
        ({"include_types": ["small_models.Block", nn.Linear]}, ["blocks.0", "blocks.1", "head"]),
        ({"exclude": "blocks.*", "exclude_types": ["*Pool*", nn.Dropout]}, ["stem", "head"]),
        ({"exclude_types": "_ConvNd", "exclude": ["*.norm", "*.relu"]}, ["pool", "dropout", "head"]),
    ],
)
def test_choice(options, layers):
    _, watcher = run(classifier(), weights=False, **options)
    assert sorted(watcher.layers) == sorted(layers)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"include": "stme"}, "include: .*'stme'; similar: 'stem'"),
        ({"include": ["stem", "module.*"]}, r"include: .*'module\.\*'; there are 'stem', 'blocks', .* and 5 more"),
        ({"include_types": "conv2d"}, "include_types: .*'conv2d'; similar: 'Conv2d'"),
        ({"include_types": [nn.Linear, "Attention"]}, "include_types: .*'Attention'; there are 'Classifier', 'Conv2d'"),
        ({"include_types": nn.LSTM}, "no module matches .*LSTM.* there are 'Classifier', 'Conv2d'"),
        ({"include": []}, r"no module matches include=\[\]"),
        ({"exclude": "*"}, r"no module is left to observe: exclude=\['\*'\]"),
        ({"include": "stem", "exclude_types": "Conv*"}, r"no module is left .*exclude_types=\['Conv\*'\]"),
        ({"include": 3}, "include has 3: it takes globs"),
        ({"include": nn.Linear}, "include has .*Linear.*; types go to include_types"),
        ({"exclude": [nn.Linear]}, "exclude has .*Linear.*; types go to exclude_types"),
        ({"exclude": ["stem", None]}, "exclude has None"),
        ({"exclude": b"stem"}, "exclude has b'stem'"),
        ({"include_types": [3.5]}, "include_types has 3.5: it takes types"),
        ({"exclude_types": nn.ReLU()}, r"exclude_types has ReLU\(\)"),
        ({"batches": -1}, "batches is -1"),
        ({"batches": 2.5}, "batches is 2.5"),
        ({"batches": "4"}, "batches is '4'"),
        ({"batches": True}, "batches is True"),
    ],
)
def test_a_choice_that_cannot_be_meant(options, message):
    session = FakeSession()
    model = classifier()
    with pytest.raises(InvalidArgumentError, match=message):
        calibd.torch.watch(model, session, **options)
    assert session.tries == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_may_be_numpy_s():
    model = classifier()
    with calibd.torch.watch(model, FakeSession(), batches=np.int64(2)) as watcher:
        for batch in images(3):
            model(batch)
    assert watcher.batches_seen == 2


def test_exclude_names_single_layers():
    _, watcher = run(classifier(), include="stem", exclude="*.weight", inputs=True)
    assert sorted(watcher.layers) == ["stem", "stem.input"]


def test_inputs():
    session, _ = run(classifier(), include="stem", inputs=True, weights=False)
    assert session.layers["stem.input"] == kernels.observe(torch.cat(images(3)))


def test_batches_end_the_watch():
    model = classifier()
    session, _ = run(model, batches=5, include="head")
    assert session.layers["head"].values() == 5 * 4 * 10
    session = FakeSession()
    with calibd.torch.watch(model, session, include="head", weights=False, batches=2) as watcher:
        for batch in images(5):
            model(batch)
            assert watcher.watching == (watcher.batches_seen < 2)
    assert watcher.batches_seen == 2
    assert session.layers["head"].values() == 2 * 4 * 10
    assert not any(module._forward_hooks for module in model.modules())


def test_structures_of_tensors():
    class Structured(nn.Module):
        def forward(self, x, mask):
            return {"hidden": x, "states": (x + 1, [x * 2]), "mask": mask, "length": 3, "none": None}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Structured()
            self.lstm = nn.LSTM(4, 3)

        def forward(self, x):
            return self.lstm(self.inner(x, torch.ones(2, dtype=torch.bool))["hidden"])

    session = FakeSession()
    model = Model()
    with calibd.torch.watch(model, session, inputs=True) as watcher:
        model(torch.randn(5, 2, 4))
    expected = ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "inner.input.0"]
    expected += ["inner.hidden", "inner.states.0", "inner.states.1.0", "lstm.input", "lstm.0", "lstm.1.0", "lstm.1.1"]
    assert watcher.layers == expected


def test_modules_that_are_used_again():
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    session = FakeSession()
    with calibd.torch.watch(model, session) as watcher:
        model(torch.randn(2, 3))
    assert watcher.layers == ["0.weight", "0", "1"]
    assert session.layers["0"].values() == 2 * 2 * 3


def test_a_model_of_one_module():
    model = nn.Linear(3, 2)
    session = FakeSession()
    with calibd.torch.watch(model, session, inputs=True) as watcher:
        model(torch.randn(2, 3))
    assert watcher.layers == ["weight", "input", "output"]


def test_wrappers_are_no_part_of_names():
    _, watcher = run(nn.DataParallel(classifier()))
    assert sorted(watcher.layers) == sorted([*LEAVES, *WEIGHTS])
    inside = nn.Sequential(nn.DataParallel(nn.Sequential(nn.Linear(2, 2))), nn.ReLU())
    assert [path for path, _ in modules.named_modules(inside)] == ["", "0", "0.0", "1"]


def test_autocast_mixes_types():
    model = classifier()
    session = FakeSession()
    with torch.no_grad(), calibd.torch.watch(model, session, weights=False, include=["stem", "blocks.0.norm"]):
        model(images(1)[0])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(images(1)[0])
    assert session.layers["stem"].values() == 2 * 4 * 8 * 64
    assert not session.layers["stem"].histogram.lossless[0]


def test_training_is_not_changed():
    gradients = []
    for watched in (False, True):
        model = classifier()
        watcher = calibd.torch.watch(model, FakeSession(), inputs=True) if watched else None
        model(images(1)[0]).square().sum().backward()
        if watcher is not None:
            watcher.close()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_a_copy_of_a_watched_model_runs():
    model = classifier()
    session = FakeSession()
    with calibd.torch.watch(model, session, include="head", weights=False):
        copy.deepcopy(model)(images(1)[0])
    assert session.layers["head"].values() == 40


def test_float64_is_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2)).double()
    with pytest.raises(InvalidArgumentError, match="layer '0'.*float64"):
        with calibd.torch.watch(model, FakeSession(), weights=False):
            model(torch.ones(1, 2, dtype=torch.float64))


def test_an_error_of_the_body_is_not_replaced():
    session = FakeSession()
    session.error = InvalidArgumentError("refused")
    model = classifier()
    with pytest.raises(KeyError):
        with calibd.torch.watch(model, session):
            model(images(1)[0])
            raise KeyError("body")


def test_weights_take_no_memory_on_their_device(monkeypatch):
    made = []
    monkeypatch.setattr(kernels, "make_counter", lambda *given, **more: made.append(given))
    session, watcher = run(classifier(), batches=0, exclude="blocks.1.*")
    assert sorted(session.layers) == ["blocks.0.conv.weight", "head.weight", "stem.weight"] == sorted(watcher.layers)
    assert not made


def test_only_the_first_rank_observes_weights(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    _, watcher = run(classifier())
    assert sorted(watcher.layers) == sorted(LEAVES)


def test_transposed_convolutions_have_their_channels_on_axis_1():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.Conv2d(6, 5, 3))
    session = FakeSession(calibd.torch.rules(model))
    calibd.torch.watch(model, session).close()
    assert {name: layer.channels for name, layer in session.layers.items()} == {"0.weight": 6, "1.weight": 5}


def test_progress():
    stream = io.StringIO()
    progress = Progress(4, True, stream)
    progress.update(1, 7)
    progress.update(4, 7)
    progress.close()
    progress.close()
    drawn = stream.getvalue()
    assert "batch 1/4 [######                  ], 7 layers" in drawn
    assert "batch 4/4 [########################]" in drawn
    assert drawn.endswith("batches/s\n")
    hidden = io.StringIO()
    Progress(4, None, hidden).update(1, 1)
    assert hidden.getvalue() == ""
