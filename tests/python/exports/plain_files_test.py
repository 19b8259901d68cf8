"""calibd's own JSON and CSV, and MXNet's dictionary."""

from __future__ import annotations

import csv
import json
import pathlib
from typing import Any, List

import numpy as np
import pytest
from calibctl import Calibctl
from refusals import session_with

EQUAL = ("method", "dtype", "zero_point", "qmin", "qmax", "count", "nan", "inf", "mse", "sqnr_db", "clipped")
NAMES = ["plain", "with,comma", 'quo"te', "a b", "Größe", "x/y:0"]


def _float32(values: List[float]) -> List[np.float32]:
    return [np.float32(value) for value in values]


@pytest.mark.parametrize("options", [(), ("--method", "mse", "--dtype", "uint8", "--affine")])
def test_json_has_what_qparams_say(exporter: Calibctl, digits: str, tmp_path: pathlib.Path, options: Any) -> None:
    no_weights = ("--weights", "none")  # so that the options are those of all layers
    exporter.export(digits, "json", tmp_path / "q.json", *options, *no_weights)
    layers = {layer["layer"]: layer for layer in json.loads((tmp_path / "q.json").read_text())["layers"]}
    expected = exporter.qparams(digits, *options)
    assert sorted(layers) == sorted(expected)
    for name, layer in layers.items():
        assert _float32(layer["scale"]) == _float32(expected[name]["scale"]), name
        assert _float32([layer["min"], layer["max"]]) == _float32([expected[name]["min"], expected[name]["max"]]), name
        for key in EQUAL:
            assert layer[key] == expected[name][key], (name, key)


def test_csv_has_a_row_a_channel(exporter: Calibctl, digits: str, tmp_path: pathlib.Path) -> None:
    exporter.export(digits, "csv", tmp_path / "q.csv", "conv*.weight", "--per-channel", "--weights", "none")
    expected = exporter.qparams(digits, "conv*.weight", "--per-channel")
    with open(tmp_path / "q.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name, layer in expected.items():
        of_layer = [row for row in rows if row["layer"] == name]
        assert [np.float32(row["scale"]) for row in of_layer] == _float32(layer["scale"])
        assert [int(row["zero_point"]) for row in of_layer] == layer["zero_point"]
        assert [int(row["channel"]) for row in of_layer] == list(range(len(layer["scale"])))
    assert len(rows) == sum(len(layer["scale"]) for layer in expected.values())


def test_names_come_back_as_they_are(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    session = session_with(exporter, "plain-names", *NAMES)
    for export_format in ("json", "csv"):
        exporter.export(session, export_format, tmp_path / export_format)
    expected = sorted([*NAMES, "ordinary"])
    assert sorted(layer["layer"] for layer in json.loads((tmp_path / "json").read_text())["layers"]) == expected
    with open(tmp_path / "csv", newline="", encoding="utf-8") as file:
        assert sorted(row["layer"] for row in csv.DictReader(file)) == expected


def test_mxnet_has_the_outputs_of_layers(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    session = session_with(exporter, "mxnet-names", *NAMES)
    exporter.export(session, "mxnet", tmp_path / "m.json", "--rename", "ordinary=data")
    expected = sorted([*(f"{name}_output" for name in NAMES), "data"])
    assert sorted(json.loads((tmp_path / "m.json").read_text())) == expected


def test_mxnet_has_the_range_of_each_layer(exporter: Calibctl, digits: str, tmp_path: pathlib.Path) -> None:
    summary = exporter.export(digits, "mxnet", tmp_path / "m.json", "--method", "entropy")
    ranges = json.loads((tmp_path / "m.json").read_text())
    expected = exporter.qparams(digits, "--method", "entropy", "--dtype", "auto8", "--preset", "mxnet")
    assert sorted(ranges) == sorted(f"{layer}_output" for layer in summary["layers"])
    for layer in ("input", "conv1", "relu3", "logits"):
        least, greatest = ranges[f"{layer}_output"]
        assert _float32([least, greatest]) == _float32(
            [expected[layer]["clip_min"][0], expected[layer]["clip_max"][0]]
        ), layer
