"""Counts on grids: those of C++, and of the frameworks themselves where they are installed."""

from __future__ import annotations

import json
import pathlib
import subprocess

import numpy as np
import pytest
from calibd import reference_grid

RULES = ("megengine", "mxnet", "pytorch", "pytorch_current")
FLOAT_MAX = float(np.finfo(np.float32).max)


def random_case(rng):
    """Values of a random kind, and a grid that may or may not fit them."""
    size = int(rng.choice([0, 1, 2, 50, 3000]))
    values = rng.standard_normal(size) * 10.0 ** rng.uniform(-40, 38)
    kind = rng.integers(6)
    if kind == 0:
        values = np.round(values / (np.abs(values).max(initial=0) or 1) * 8) / 8  # on the edges
    elif kind == 1:
        values = np.full(size, rng.standard_normal())
    elif kind == 2:
        values = rng.uniform(1, 1 + 1e-5, size)
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    if kind == 3 and size > 2:
        values[:3] = [np.nan, np.inf, -np.inf]
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    form = rng.integers(5)
    if form == 0:
        low, high = low - 0.5, high + 0.5
    elif form == 1:
        low, high = -max(-low, high), max(-low, high)
    elif form == 2:
        low, high = np.trunc(low), np.trunc(high)
    elif form == 3:
        high = low + (high - low) * rng.uniform(0, 1.5)
    return values, float(low), float(high), int(rng.choice([1, 2, 65, 2048, 8001]))


@pytest.fixture(scope="module")
def probe():
    path = pathlib.Path(__file__).parents[2] / "build" / "bin" / "reference_probe"
    if not path.exists():
        pytest.skip(f"{path} is not built")
    return path


def test_counts_are_those_of_cpp(probe):
    rng = np.random.default_rng(1)
    cases = [random_case(rng) for _ in range(3000)]
    sent = []
    for i, (values, low, high, bins) in enumerate(cases):
        request = {"op": "count", "rule": RULES[i % 4], "low": low, "high": high, "bins": bins}
        sent.append(json.dumps(dict(request, float32=[values.size])).encode() + b"\n" + values.astype("<f4").tobytes())
    run = subprocess.run([probe], input=b"".join(sent), stdout=subprocess.PIPE, check=True, timeout=120)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(cases)
    counted = 0
    for i, (values, low, high, bins) in enumerate(cases):
        counts = reference_grid.count_on_grid(RULES[i % 4], low, high, bins, values)
        assert counts.tolist() == answers[i]["counts"], (RULES[i % 4], low, high, bins, values)
        counted += counts.sum()
    assert counted > 1_000_000


@pytest.mark.skipif(int(np.__version__.split(".")[0]) > 1, reason="numpy.histogram's arithmetic is that of NumPy 1")
def test_megengine_and_mxnet_count_as_numpy():
    rng = np.random.default_rng(2)
    for _ in range(200):
        values = (rng.standard_normal(1000) * 10.0 ** rng.uniform(-3, 3)).astype(np.float32)
        low, high = float(values.min()), float(values.max()) * rng.uniform(0.5, 2)
        expected, _ = np.histogram(values, 2048, (low, max(low, high)))
        counts = reference_grid.count_on_grid("megengine", low, max(low, high), 2048, values)
        assert counts.tolist() == expected.tolist()


def test_pytorch_counts_as_histc():
    torch = pytest.importorskip("torch")
    rule = "pytorch" if torch.__version__.startswith("1.13") else "pytorch_current"
    rng = np.random.default_rng(3)
    for _ in range(200):
        values = (rng.standard_normal(1000) * 10.0 ** rng.uniform(-3, 3)).astype(np.float32)
        low, high = float(values.min()), float(values.max())
        expected = torch.histc(torch.from_numpy(values), 2048, min=low, max=high)
        counts = reference_grid.count_on_grid(rule, low, high, 2048, values)
        assert counts.tolist() == expected.tolist()


def test_what_lies_on_ends_and_beside_them():
    values = np.array([[-1, 0, 0.5], [1, 2, np.nan]], np.float32)
    for rule in RULES:
        assert reference_grid.count_on_grid(rule, 0, 1, 2, values).tolist() == [1, 2]
    assert reference_grid.count_on_grid("pytorch", 0, 0, 2, values).tolist() == [1, 0]
    assert reference_grid.count_on_grid("mxnet", 0, 0, 0, values).tolist() == []


@pytest.mark.parametrize("low, high", [(1, 0), (float("nan"), 1), (0, float("inf")), (-1.7e308, 1.7e308)])
def test_a_grid_that_is_none_is_refused(low, high):
    with pytest.raises(ValueError, match="no bins can lie"):
        reference_grid.count_on_grid("mxnet", low, high, 3, np.zeros(1, np.float32))
