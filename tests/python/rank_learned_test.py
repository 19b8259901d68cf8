"""Scales that three ranks learn together are those of torch.optim in one process, bit for bit."""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from calibd.channel import Connection
from calibd.config import Observer, Rule, SessionConfig, Synchronous
from calibd.observer import Learned
from calibd.quantize import QuantSpec
from calibd.rank import Gradients
from rank_support import LONG, create, open_rank, together

RANKS = 3
STEPS = 40
CHANNELS = 4
QMIN, QMAX = -128, 127
OPTIMIZERS = {
    "sgd": (Learned(learning_rate=0.05), "SGD", {"lr": 0.05}),
    "momentum": (Learned(learning_rate=0.02, momentum=0.9), "SGD", {"lr": 0.02, "momentum": 0.9}),
    "adam": (
        Learned("adam", learning_rate=0.003, beta1=0.8, beta2=0.99, epsilon=1e-7),
        "Adam",
        {"lr": 0.003, "betas": (0.8, 0.99), "eps": 1e-7},
    ),
}


@pytest.fixture(scope="module")
def torch_optim():
    """Asks a process that has PyTorch."""
    reference = pathlib.Path(__file__).with_name("learned_reference.py")
    process = subprocess.Popen([sys.executable, reference], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(request):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    with process:
        version = process.stdout.readline()
        if not version.startswith("1.13"):
            pytest.skip(f"the arithmetic is that of PyTorch 1.13; here is {version.strip() or 'none'}")
        yield ask


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("scheme", ["symmetric", "affine"])
@pytest.mark.parametrize("axis", [None, 0], ids=["tensor", "channels"])
def test_ranks_learn_what_torch_optim_learns(server, torch_optim, optimizer, scheme, axis):
    learned, torch_optimizer, options = OPTIMIZERS[optimizer]
    channels = 1 if axis is None else CHANNELS
    rng = np.random.default_rng(len(optimizer) * 10 + len(scheme) + channels)
    tensors = rng.standard_normal((RANKS, CHANNELS, 8)).astype(np.float32)
    gradients = rng.standard_normal((STEPS, RANKS, 2, channels)) * 10.0 ** rng.uniform(-2, 3, (1, 1, 2, channels))
    elements = [5, 100, 7]
    weights = [1.0, 32.0, 0.5]

    connection = Connection(server.address)
    rule = Rule("*", Observer("learned", channel_axis=axis, learned=learned), QuantSpec(scheme=scheme))
    create(connection, "s", SessionConfig(rules=(rule,), synchronous=Synchronous(RANKS)))
    results = [None] * RANKS

    def run(rank):
        with open_rank(connection, "s", rank) as worker:
            first = worker.step({"layer": tensors[rank]}, timeout=LONG).layers["layer"]
            path = [(first.scale, first.zero_point)]
            for scale, zero_point in gradients[:, rank]:
                given = Gradients(scale, zero_point if scheme == "affine" else None, elements[rank], weights[rank])
                layer = worker.step({"layer": given}, timeout=LONG).layers["layer"]
                path.append((layer.scale, layer.learned_zero_point))
            results[rank] = path

    together(RANKS, run)
    factor = 1 / math.sqrt(sum(elements) * QMAX)
    averaged = gradients[:, 0] + gradients[:, 1] + gradients[:, 2]  # in rank order
    request = {
        "optimizer": torch_optimizer,
        "options": options,
        "affine": scheme == "affine",
        "qmin": QMIN,
        "qmax": QMAX,
        "scale": results[0][0][0].astype(float).tolist(),
        "zero_point": results[0][0][1].astype(float).tolist(),
        "gradients": (averaged / sum(weights) * factor).tolist(),
    }
    expected = torch_optim(request)
    assert len(expected) == STEPS
    for path in results:
        assert [[scale.tolist(), zero_point.tolist()] for scale, zero_point in path[1:]] == expected
    moved = [scale for scale, _ in expected]
    assert len({tuple(scale) for scale in moved}) > STEPS / 2, "it learns"
