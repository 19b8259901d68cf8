"""A server with sessions whose exports the tests of this folder read back."""

from __future__ import annotations

import importlib
import os
import pathlib
from typing import Any, Callable, Iterator

import numpy as np
import pytest
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl
from calibd_server import Server

ROOT = pathlib.Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests/golden/digits_cnn"


@pytest.fixture(scope="session")
def reader() -> Callable[[str], Any]:
    """Imports a third-party reader; the test is skipped where it is not installed, and fails where CALIBD_ALL_READERS
    says that all are."""

    def load(name: str) -> Any:
        if os.environ.get("CALIBD_ALL_READERS"):
            return importlib.import_module(name)
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} can't be imported: {error}")

    return load


@pytest.fixture(scope="session")
def exporter(programs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calibctl]:
    """calibctl of a server that the whole folder uses; each test has sessions of its own."""
    server = Server(programs)
    try:
        yield Calibctl(programs / "calibctl", server.address, tmp_path_factory.mktemp("exports"))
    finally:
        server.kill()


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
