"""Ranks in Python give what MegEngine's Sync observers computed with four ranks, and what ranks in C++ give, bit for
bit."""

from __future__ import annotations

import json
import pathlib
import subprocess

import numpy as np
import pytest
from calibd.channel import Connection
from calibd.config import Observer, Rule, SessionConfig, Synchronous
from calibd.quantize import Method, QuantSpec
from calibd.rpc import calibration_service_pb2 as service
from rank_support import LONG, create, open_rank, reference, statistics, statistics_bytes, together

RANKS = 4
STEPS = 6
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "digits_cnn"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())["layers"]


@pytest.fixture(scope="module")
def tensors():
    """float32 [steps, batch, ...] of each layer."""
    return {path.stem: np.load(path) for path in sorted(GOLDEN.glob("*.npy"))}


@pytest.fixture
def connection(server):
    connection = Connection(server.address)
    yield connection
    connection.close()


def config_of(observer):
    return SessionConfig(rules=(Rule("*", observer),), synchronous=Synchronous(RANKS))


def push(connection, session, tensors):
    """Every step as four ranks, each split along its first axis."""

    def run(rank):
        with open_rank(connection, session, rank) as worker:
            for step in range(1, STEPS + 1):
                parts = {name: np.array_split(steps[step - 1], RANKS)[rank] for name, steps in tensors.items()}
                assert worker.step(parts, step=step, timeout=LONG).ranks == RANKS

    together(RANKS, run)


@pytest.mark.parametrize("kind, golden", [("minmax", "SyncMinMax"), ("ema", "SyncExponentialMovingAverage")])
def test_megengines_sync_observers(connection, tensors, kind, golden):
    create(connection, "golden", config_of(Observer(kind)))
    push(connection, "golden", tensors)
    rows = statistics(connection, "golden")
    method, spec = Method("minmax").to_proto(), QuantSpec(dtype="uint8", preset="megengine", scheme="affine").to_proto()
    request = service.ComputeQParamsRequest(session="golden", method=method, spec=spec)
    answers = {layer.layer: layer for layer in connection.unary("ComputeQParams", request).layer}
    assert list(rows.layer) == sorted(tensors) == sorted(answers)
    for i, name in enumerate(rows.layer):
        expected = EXPECTED[name]["megengine"][f"{golden}Observer/quint8/asymmetric"]
        held = rows.statistics.ema[i] if kind == "ema" else rows.statistics
        least, greatest = (held.min, held.max) if kind == "ema" else (held.min[i], held.max[i])
        assert (least, greatest) == (np.float32(expected["min"]), np.float32(expected["max"])), name
        assert answers[name].scale[0] == np.float32(expected["scale"]), name
        assert answers[name].zero_point[0] == expected["zero_point"], name


@pytest.mark.parametrize(
    "observer",
    [
        reference("megengine", 0),
        reference("mxnet", 0),
        reference("pytorch", 0),
        reference("pytorch_current", 0),
        Observer("ema"),
        Observer("ema", channel_axis=1),
        Observer("minmax"),
        Observer("histogram"),
        Observer("histogram", channel_axis=1),
        Observer("learned"),
    ],
    ids=lambda observer: "-".join(
        str(part)
        for part in (
            observer.kind,
            observer.reference_histogram and observer.reference_histogram.rule,
            observer.channel_axis,
        )
        if part is not None
    ),
)
def test_ranks_in_cpp_give_the_same(server, connection, tensors, observer, programs):
    if observer.channel_axis is not None:  # along which no rank may split
        tensors = {name: steps for name, steps in tensors.items() if name in ("conv1", "relu2", "fc1")}
    for session in ("python", "cpp"):
        create(connection, session, config_of(observer))
    push(connection, "python", tensors)
    files = [f"{name}={GOLDEN / name}.npy" for name in tensors]
    command = [programs / "calibctl", "--server", server.address, "push", "cpp", "--sync", *files]
    subprocess.run(command, check=True, timeout=LONG, stdout=subprocess.DEVNULL)
    assert statistics_bytes(connection, "python") == statistics_bytes(connection, "cpp")
