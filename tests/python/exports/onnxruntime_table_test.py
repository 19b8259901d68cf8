"""Calibration tables of ONNX Runtime's TensorRT and MIGraphX execution providers, read by the flatbuffers compiler."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
from typing import Dict

import numpy as np
import pytest
from calibctl import Calibctl
from refusals import assert_refused, session_with

# The table as ONNX Runtime publishes it.
SCHEMA = """
namespace CalTableFlatBuffers;
table KeyValue { key:string (key); value:string; }
table TrtTable { dict:[KeyValue]; }
root_type TrtTable;
"""


def read_table(path: pathlib.Path) -> Dict[str, str]:
    """What flatc finds in the file, in its order."""
    assert shutil.which("flatc"), "flatc (Debian's flatbuffers-compiler) is not installed"
    schema = path.with_name("table.fbs")
    schema.write_text(SCHEMA)
    command = ["flatc", "--json", "--strict-json", "--raw-binary", "-o", path.parent, schema, "--", path]
    subprocess.run(command, check=True, timeout=30, capture_output=True)
    return {entry["key"]: entry["value"] for entry in json.loads(path.with_suffix(".json").read_text())["dict"]}


def test_values_are_the_greatest_magnitudes(exporter: Calibctl, digits: str, tmp_path: pathlib.Path) -> None:
    summary = exporter.export(digits, "onnxruntime-table", tmp_path / "table.flatbuffers")
    table = read_table(tmp_path / "table.flatbuffers")
    expected = exporter.qparams(digits, "--symmetric")
    assert list(table) == summary["layers"] == sorted(expected)
    for layer, text in table.items():
        greatest = max(abs(expected[layer]["min"]), abs(expected[layer]["max"]))
        assert np.float32(text) == np.float32(greatest), layer


def test_clipped_ranges_are_those_of_the_method(exporter: Calibctl, digits: str, tmp_path: pathlib.Path) -> None:
    options = ("--method", "percentile", "--percentile", "99")
    exporter.export(digits, "onnxruntime-table", tmp_path / "table.flatbuffers", *options)
    table = read_table(tmp_path / "table.flatbuffers")
    expected = exporter.qparams(digits, *options, "--preset", "tensorrt", "--symmetric")
    for layer in ("conv1", "relu2", "logits"):
        assert float(table[layer]) < max(abs(expected[layer]["min"]), abs(expected[layer]["max"]))
        assert float(table[layer]) / 127 == pytest.approx(expected[layer]["scale"][0], rel=1e-6)


def test_any_name_fits(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    names = ["x/y:0", "a b", 'quo"te', "Größe"]
    session = session_with(exporter, "table-names", *names)
    exporter.export(session, "onnxruntime-table", tmp_path / "table.flatbuffers")
    assert sorted(read_table(tmp_path / "table.flatbuffers")) == sorted([*names, "ordinary"])


def test_a_tensor_of_zeros_is_refused(exporter: Calibctl, zeros: str, tmp_path: pathlib.Path) -> None:
    assert_refused(exporter, zeros, "onnxruntime-table", tmp_path / "out", "dead")
