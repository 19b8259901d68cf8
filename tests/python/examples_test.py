"""The examples, as a person runs them."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

# Looked for, not imported: Debian's PyTorch brings ONNX messages of its own, with which newer onnx can't be imported.
for module in ("torch", "sklearn"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed", allow_module_level=True)

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "client" / "python" / "examples"


def run(server, name, *arguments):
    """What an example prints as JSON."""
    command = [sys.executable, str(EXAMPLES / name), "--server", server.address, "--json", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=540, env={**os.environ, "OMP_NUM_THREADS": "2"}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_digits(server):
    result = run(server, "digits.py", "--workers", "4", "--compare-workers", "1")
    accuracy = {(row["dtype"], row["method"]): row["accuracy"] for row in result["quantized"]}
    assert result["float"] > 93
    for method in ("minmax", "percentile", "mse", "entropy"):
        assert accuracy["int8", method] >= result["float"] - 0.5, method
    assert accuracy["int4", "mse"] >= accuracy["int4", "minmax"]
    # The program itself compares the parameters of 4 workers and of 1, bit for bit.
    assert result["identical_to_workers"] == 1


def test_transformer(server):
    rows = run(server, "transformer.py", "--workers", "2", "--steps", "150")
    bits = {(row["dtype"], row["method"]): row["bits_per_character"] for row in rows}
    exact = bits["float32", ""]
    # Outlier channels leave int8 a few codes for all others; moved into the weights they cost nothing.
    assert bits["int8", "smooth"] < exact + 0.02
    assert bits["int8", "smooth"] < bits["int8", "minmax"]
    assert bits["int4", "mse"] < bits["int4", "minmax"]
