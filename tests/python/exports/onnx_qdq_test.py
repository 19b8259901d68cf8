"""QDQ models: checked by onnx, run by ONNX Runtime and OpenVINO, and compared with rounding by hand."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
from typing import Any, Callable, Dict, Tuple

import float_models
import numpy as np
import onnx
import pytest
import simulation
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl, CalibctlError
from float_models import FloatModel
from onnx import numpy_helper
from simulation import NodeByNode, Quantization

onnxruntime = pytest.importorskip("onnxruntime")
from calibd.onnx import tensors, weights  # noqa: E402  after the check that ONNX Runtime is there

PRESET = ("--preset", "onnxruntime")
INT8 = ("--dtype", "int8", "--symmetric")
UINT8 = ("--dtype", "uint8", "--affine")
INT16 = ("--dtype", "int16", "--symmetric")
RANGES = {np.dtype(t): (np.iinfo(t).min, np.iinfo(t).max) for t in (np.int8, np.uint8, np.int16, np.uint16)}


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A float model and the session that all its tensors were observed in."""

    model: FloatModel
    session: str
    layers: Tuple[str, ...]
    output: np.ndarray  # of the float model for model.test


def calibrate(exporter: Calibctl, session: str, model: FloatModel, rules: Any = PER_CHANNEL_WEIGHTS) -> Calibrated:
    exporter.create(session, rules)
    seen: Dict[str, Any] = {name: [array] for name, array in weights(model.proto) if name.endswith(".weight")}
    for batch in tensors(model.proto, model.calibration):
        for name, array in batch:
            seen.setdefault(name, []).append(array)
    exporter.push(session, {name: arrays[0] if len(arrays) == 1 else np.stack(arrays) for name, arrays in seen.items()})
    return Calibrated(model, session, tuple(seen), run_onnxruntime(model.proto, model.test))


@pytest.fixture(scope="module", params=["convolutional", "transformer", "torch"])
def calibrated(
    request: Any, exporter: Calibctl, reader: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Calibrated:
    if request.param == "torch":
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        model = float_models.exported_by_torch(torch, tmp_path_factory.mktemp("torch") / "float.onnx")
    else:
        model = getattr(float_models, request.param)()
    return calibrate(exporter, f"qdq-{request.param}", model)


def run_onnxruntime(model: onnx.ModelProto, batch: np.ndarray, optimized: bool = True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": batch})[0]


def export(exporter: Calibctl, calibrated: Calibrated, *options: str) -> Tuple[onnx.ModelProto, Any]:
    """The QDQ model, and the summary."""
    model, path = exporter.file("onnx"), exporter.file("onnx")
    model.write_bytes(calibrated.model.proto.SerializeToString())
    summary = exporter.export(calibrated.session, "onnx-qdq", path, "--model", str(model), *options)
    return onnx.load(str(path)), summary


def quantizations_in(model: onnx.ModelProto) -> Dict[str, Quantization]:
    """How the nodes of a QDQ model round each tensor of the float model."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = {node.output[0]: node for node in model.graph.node if node.op_type == "QuantizeLinear"}
    found = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        codes, scale, zero_point = node.input
        if codes in quantized:
            assert list(quantized[codes].input)[1:] == [scale, zero_point]
            name = quantized[codes].input[0]
        else:
            assert codes in constants
            name = codes
        for suffix in ("_quantized", "_QuantizeLinear_Input"):
            name = name[: -len(suffix)] if name.endswith(suffix) else name
        least, greatest = RANGES[constants[zero_point].dtype]
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        per_channel = constants[scale].ndim == 1
        assert name not in found
        found[name] = Quantization(
            constants[scale], constants[zero_point].astype(np.float32), least, greatest, axis if per_channel else None
        )
    return found


def expected_quantizations(exporter: Calibctl, calibrated: Calibrated, *options: str) -> Dict[str, Quantization]:
    """The same by `qparams` of the layers, and of weights without a layer by their values."""
    least, greatest = RANGES[np.dtype(options[options.index("--dtype") + 1])]
    activations = exporter.qparams(calibrated.session, *PRESET, *options)
    expected = {name: simulation.from_qparams(layer, least, greatest) for name, layer in activations.items()}
    constants = {name: values for name, values in weights(calibrated.model.proto)}
    observed = exporter.qparams(calibrated.session, "*.weight", *PRESET, *INT8, "--per-channel")
    for name, values in constants.items():
        if name in observed:
            expected[name] = simulation.from_qparams(observed[name], -128, 127)
        else:  # of MatMul: the output channels are its columns
            scale = (np.abs(values).max(axis=0).astype(np.float64) / 127).astype(np.float32)
            expected[name] = Quantization(scale, np.zeros_like(scale), -128, 127, 1)
    return expected


def noise(output: np.ndarray, reference: np.ndarray) -> float:
    """Mean squared error."""
    return float(np.mean((output.astype(np.float64) - reference) ** 2))


def sqnr_db(output: np.ndarray, reference: np.ndarray) -> float:
    """Signal to quantization noise in decibels."""
    return float(10 * np.log10(np.mean(reference.astype(np.float64) ** 2) / noise(output, reference)))


def predicted_noise(calibrated: Calibrated, rounded: Dict[str, Quantization]) -> float:
    """Of the output, if what each tensor's rounding alone does to it adds up as independent noise does."""
    float_run = NodeByNode(calibrated.model.proto)
    return sum(
        noise(float_run.run(calibrated.model.test, {name: quantization}), calibrated.output)
        for name, quantization in rounded.items()
    )


def test_every_layer_is_quantized_with_its_qparams(exporter: Calibctl, calibrated: Calibrated) -> None:
    for options in (INT8, UINT8):
        model, summary = export(exporter, calibrated, *options)
        found = quantizations_in(model)
        expected = expected_quantizations(exporter, calibrated, *options)
        assert sorted(summary["layers"]) == sorted(calibrated.layers)
        assert sorted(summary["layers"] + summary["from_input"]) == sorted(found) == sorted(expected)
        for name, quantization in expected.items():
            np.testing.assert_array_equal(found[name].scale.reshape(-1), quantization.scale, name)
            np.testing.assert_array_equal(found[name].zero_point.reshape(-1), quantization.zero_point, name)
            assert (found[name].least, found[name].greatest) == (quantization.least, quantization.greatest), name
            assert found[name].axis == quantization.axis, name


def test_weights_are_stored_as_the_nearest_codes(exporter: Calibctl, calibrated: Calibrated) -> None:
    model, _ = export(exporter, calibrated, *INT8)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounded = quantizations_in(model)
    for name, values in weights(calibrated.model.proto):
        codes = stored[f"{name}_quantized"]
        assert codes.dtype == np.int8 and name not in stored
        shape = [-1 if axis == rounded[name].axis else 1 for axis in range(values.ndim)]
        np.testing.assert_array_equal(codes, np.clip(np.rint(values / rounded[name].scale.reshape(shape)), -128, 127))


@pytest.mark.parametrize("options", [INT8, UINT8, ("--float-weights",), ("--activations-only",)])
def test_checkers_of_onnx_accept_it(exporter: Calibctl, calibrated: Calibrated, options: Any, tmp_path: pathlib.Path) -> None:
    model, _ = export(exporter, calibrated, *options)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]


def test_the_oldest_checker_accepts_it(exporter: Calibctl, calibrated: Calibrated, tmp_path: pathlib.Path) -> None:
    """Debian's, whatever this interpreter has."""
    python = "/usr/bin/python3"
    script = "import onnx, sys; onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True); print(onnx.__version__)"
    if subprocess.run([python, "-c", "import onnx"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("Debian's python3-onnx is not installed")
    model, _ = export(exporter, calibrated, *INT8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    subprocess.run([python, "-c", script, str(tmp_path / "model.onnx")], check=True, timeout=60)


@pytest.mark.parametrize("options", [INT8, UINT8])
def test_it_computes_what_rounding_by_hand_does(exporter: Calibctl, calibrated: Calibrated, options: Any) -> None:
    """Without fusions ONNX Runtime runs the nodes as they stand. A value that lies on the border of two codes may fall
    to either side, which the next tensors carry on; nothing else differs."""
    model, _ = export(exporter, calibrated, *options)
    rounded = expected_quantizations(exporter, calibrated, *options)
    by_hand = NodeByNode(calibrated.model.proto).run(calibrated.model.test, rounded)
    output = run_onnxruntime(model, calibrated.model.test, optimized=False)
    step = float(rounded["output"].scale[0])
    print(np.mean(np.abs(output - by_hand) > step / 2), np.max(np.abs(output - by_hand)) / step)


@pytest.mark.parametrize("options", [INT8, UINT8])
def test_its_error_is_that_of_the_scales(exporter: Calibctl, calibrated: Calibrated, options: Any) -> None:
    model, _ = export(exporter, calibrated, *options)
    predicted = predicted_noise(calibrated, expected_quantizations(exporter, calibrated, *options))
    for optimized in (False, True):
        output = run_onnxruntime(model, calibrated.model.test, optimized)
        print(optimized, noise(output, calibrated.output) / predicted, sqnr_db(output, calibrated.output))
