"""TensorQuantOverrides, taken by ONNX Runtime's own quantizer."""

from __future__ import annotations

import json
import pathlib
from typing import Any, Callable, Dict, Iterator, List, Optional

import float_models
import numpy as np
import onnx
import pytest
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl
from onnx import numpy_helper

pytest.importorskip("onnxruntime")
from calibd.onnx import tensors, weights  # noqa: E402  after the check that ONNX Runtime is there

MODEL = float_models.convolutional()
UINT8 = ("--dtype", "uint8", "--affine", "--preset", "onnxruntime")
WEIGHTS = ("--dtype", "int8", "--symmetric", "--preset", "onnxruntime", "--per-channel")


@pytest.fixture(scope="module")
def session(exporter: Calibctl) -> str:
    exporter.create("overrides", PER_CHANNEL_WEIGHTS)
    seen: Dict[str, np.ndarray] = dict(weights(MODEL.proto))
    for name, array in next(tensors(MODEL.proto, MODEL.calibration)):
        seen[name] = array
    exporter.push("overrides", seen)
    return "overrides"


def as_quantizer_takes_them(path: pathlib.Path) -> Any:
    """ONNX Runtime wants arrays where a file has numbers."""
    overrides = json.loads(path.read_text())
    for channels in overrides.values():
        for channel in channels:
            channel["scale"] = np.array(channel["scale"], np.float32)
            channel["zero_point"] = np.array(channel["zero_point"])
    return overrides


def test_quantize_static_takes_the_scales(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path, reader: Callable[[str], Any]
) -> None:
    quantization = reader("onnxruntime.quantization")
    exporter.export(session, "onnxruntime-overrides", tmp_path / "overrides.json", *UINT8)

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """Other data than the session saw: ranges of its own would differ."""

        def __init__(self) -> None:
            self._batches: Iterator[np.ndarray] = iter([MODEL.test * 3])

        def get_next(self) -> Optional[Dict[str, np.ndarray]]:
            batch = next(self._batches, None)
            return None if batch is None else {"input": batch}

    onnx.save(MODEL.proto, str(tmp_path / "float.onnx"))
    quantization.quantize_static(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "quantized.onnx"),
        Batches(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        extra_options={"TensorQuantOverrides": as_quantizer_takes_them(tmp_path / "overrides.json")},
    )
    model = onnx.load(str(tmp_path / "quantized.onnx"))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    expected = {**exporter.qparams(session, *UINT8), **exporter.qparams(session, "*.weight", *WEIGHTS)}
    compared: List[str] = []
    for name, layer in expected.items():
        if f"{name}_scale" in constants:
            np.testing.assert_array_equal(constants[f"{name}_scale"].reshape(-1), np.array(layer["scale"], np.float32))
            assert constants[f"{name}_zero_point"].reshape(-1).tolist() == layer["zero_point"], name
            compared.append(name)
    # ONNX Runtime leaves tensors alone that it joins with the next operator, such as the input of a Relu.
    assert {"input", "relu1", "relu2", "output", "conv1.weight", "fc2.weight"} <= set(compared)


def test_parameters_are_those_of_qparams(exporter: Calibctl, session: str, tmp_path: pathlib.Path) -> None:
    exporter.export(session, "onnxruntime-overrides", tmp_path / "o.json", *UINT8)
    overrides = json.loads((tmp_path / "o.json").read_text())
    expected = {**exporter.qparams(session, *UINT8), **exporter.qparams(session, "*.weight", *WEIGHTS)}
    assert sorted(overrides) == sorted(expected)
    for name, entries in overrides.items():
        assert [np.float32(entry["scale"]) for entry in entries] == [np.float32(v) for v in expected[name]["scale"]]
        assert [entry["zero_point"] for entry in entries] == expected[name]["zero_point"]
        if name.endswith(".weight"):
            assert len(entries) > 1 and entries[0]["axis"] == 0, name
