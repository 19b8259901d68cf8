"""A server with sessions whose exports the tests of this folder read back."""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import subprocess
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAMS = pathlib.Path(os.environ.get("CALIBD_PROGRAMS", ROOT / "build/bin"))
GOLDEN = ROOT / "tests/golden/digits_cnn"


@pytest.fixture(scope="session")
def reader() -> Callable[[str], Any]:
    """Imports a third-party reader; the test is skipped where it is not installed, and fails where CALIBD_ALL_READERS
    says that all are."""

    def load(name: str) -> Any:
        if os.environ.get("CALIBD_ALL_READERS"):
            return importlib.import_module(name)
        return pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)

    return load


@pytest.fixture(scope="session")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calibctl]:
    """calibctl of a server that the whole folder uses; each test has sessions of its own."""
    folder = tmp_path_factory.mktemp("exports")
    command = [PROGRAMS / "calibd", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--store", "memory"]
    with open(folder / "calibd.log", "wb") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert server.stdout is not None
        ready = re.search(r"grpc=(\S+)", server.stdout.readline())
        assert ready, (folder / "calibd.log").read_text()
        yield Calibctl(PROGRAMS / "calibctl", ready[1], folder)
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def digits(exporter: Calibctl) -> str:
    """A session of the activations of a CNN on real data, and of weights per channel."""
    names = ["input", "conv1", "relu1", "conv2", "relu2", "fc1", "relu3", "logits"]
    generator = np.random.default_rng(1)
    shapes = {"conv1.weight": (16, 1, 3, 3), "conv2.weight": (32, 16, 3, 3), "fc1.weight": (64, 2048)}
    weights = {
        name: (generator.normal(size=shape) * np.exp2(generator.uniform(-4, 0, (shape[0],) + (1,) * (len(shape) - 1))))
        for name, shape in shapes.items()
    }
    exporter.create("digits", PER_CHANNEL_WEIGHTS)
    exporter.push("digits", {name: np.load(GOLDEN / f"{name}.npy") for name in names})
    exporter.push("digits", {name: weight.astype(np.float32) for name, weight in weights.items()})
    return "digits"


@pytest.fixture(scope="session")
def zeros(exporter: Calibctl) -> str:
    """A session with one layer that never was anything but zero, and one that was."""
    exporter.create("zeros")
    exporter.push("zeros", {"dead": np.zeros(100, np.float32), "live": np.linspace(-1, 2, 100, dtype=np.float32)})
    return "zeros"
