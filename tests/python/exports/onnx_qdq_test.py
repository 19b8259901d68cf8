"""QDQ models: checked by onnx, run by ONNX Runtime and OpenVINO, and compared with rounding by hand."""

from __future__ import annotations

import dataclasses
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
from refusals import assert_refused
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
    per_channel: bool  # the weights
    output: np.ndarray  # of the float model for model.test
    rounding: NodeByNode  # the float model again


def calibrate(exporter: Calibctl, session: str, model: FloatModel, rules: Any = PER_CHANNEL_WEIGHTS) -> Calibrated:
    exporter.create(session, rules)
    seen: Dict[str, Any] = {name: [array] for name, array in weights(model.proto) if name.endswith(".weight")}
    for batch in tensors(model.proto, model.calibration):
        for name, array in batch:
            seen.setdefault(name, []).append(array)
    exporter.push(session, {name: arrays[0] if len(arrays) == 1 else np.stack(arrays) for name, arrays in seen.items()})
    output = run_onnxruntime(model.proto, model.test)
    return Calibrated(model, session, tuple(seen), bool(rules), output, NodeByNode(model.proto))


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


def run_onnxruntime(
    model: onnx.ModelProto, batch: np.ndarray, optimized: bool = True, saturating: bool = False
) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not saturating:  # CPUs without VNNI otherwise add products of 8 bits in 16, where they saturate
        options.add_session_config_entry("session.x64quantprecision", "1")
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
    for name, values in weights(calibrated.model.proto):
        if name in calibrated.layers:
            options = ("--per-channel",) if calibrated.per_channel else ()
            observed = exporter.qparams(calibrated.session, name, *PRESET, *INT8, *options)
            expected[name] = simulation.from_qparams(observed[name], -128, 127)
        else:
            axis = 0 if values.ndim == 4 else 1  # output channels of Conv, and of MatMul
            greatest = np.abs(values.astype(np.float64)).max(axis=tuple(a for a in range(values.ndim) if a != axis))
            scale = (greatest / 127).astype(np.float32)
            expected[name] = Quantization(scale, np.zeros_like(scale), -128, 127, axis)
    return expected


def noise(output: np.ndarray, reference: np.ndarray) -> float:
    """Mean squared error."""
    return float(np.mean((output.astype(np.float64) - reference) ** 2))


def sqnr_db(output: np.ndarray, reference: np.ndarray) -> float:
    """Signal to quantization noise in decibels."""
    return float(10 * np.log10(np.mean(reference.astype(np.float64) ** 2) / noise(output, reference)))


def predicted_noise(calibrated: Calibrated, rounded: Dict[str, Quantization]) -> float:
    """Of the output, if what each tensor's rounding alone does to it adds up as independent noise does."""
    return sum(
        noise(calibrated.rounding.run(calibrated.model.test, {name: quantization}), calibrated.output)
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
def test_checkers_of_onnx_accept_it(
    exporter: Calibctl, calibrated: Calibrated, options: Any, tmp_path: pathlib.Path
) -> None:
    model, _ = export(exporter, calibrated, *options)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["input"]
    assert [value.name for value in model.graph.output] == ["output"]


def test_the_oldest_checker_accepts_it(exporter: Calibctl, calibrated: Calibrated, tmp_path: pathlib.Path) -> None:
    """Debian's, whatever this interpreter has."""
    python = "/usr/bin/python3"
    script = (
        "import onnx, sys; onnx.checker.check_model(onnx.load(sys.argv[1]), full_check=True); print(onnx.__version__)"
    )
    if subprocess.run([python, "-c", "import onnx"], capture_output=True, timeout=60, check=False).returncode != 0:
        pytest.skip("Debian's python3-onnx is not installed")
    model, _ = export(exporter, calibrated, *INT8)
    onnx.save(model, str(tmp_path / "model.onnx"))
    subprocess.run([python, "-c", script, str(tmp_path / "model.onnx")], check=True, timeout=60)


@pytest.mark.parametrize("options", [INT8, UINT8])
def test_it_computes_what_rounding_by_hand_does(exporter: Calibctl, calibrated: Calibrated, options: Any) -> None:
    """Without fusions ONNX Runtime runs the nodes as they stand. Where a value lies between two codes either is right,
    and the tensors behind it carry that on; so the two may differ, but by far less than from the float model."""
    model, _ = export(exporter, calibrated, *options)
    rounded = expected_quantizations(exporter, calibrated, *options)
    by_hand = calibrated.rounding.run(calibrated.model.test, rounded)
    output = run_onnxruntime(model, calibrated.model.test, optimized=False)
    assert noise(output, by_hand) <= noise(output, calibrated.output) / 100


@pytest.mark.parametrize("options", [INT8, UINT8])
def test_its_error_is_that_of_the_scales(exporter: Calibctl, calibrated: Calibrated, options: Any) -> None:
    """Errors of tensors add up as independent noise does, but for a factor of 2 (3 dB) where they do not cancel."""
    model, _ = export(exporter, calibrated, *options)
    predicted = predicted_noise(calibrated, expected_quantizations(exporter, calibrated, *options))
    for optimized in (False, True):
        seen = noise(run_onnxruntime(model, calibrated.model.test, optimized), calibrated.output)
        assert predicted / 10 <= seen <= 2 * predicted


MATRICES = [((8, 16), (2, 16, 3)), ((4, 8), (8, 16)), ((2, 8, 16), (16, 4)), ((16,), (16, 4))]


@pytest.mark.parametrize("shapes", MATRICES)
@pytest.mark.parametrize("options", [(), ("--weight-dtype", "uint8"), INT8], ids=["uint8", "uint8-weights", "int8"])
def test_onnxruntime_optimizes_matmul_of_any_weight(
    exporter: Calibctl, shapes: Any, options: Any, request: Any
) -> None:
    """A stack of matrices, a first operand, and a matrix beside a stack and a vector."""
    model, session = float_models.matmul(*shapes, first=shapes[0] == (4, 8)), request.node.name
    calibrated = calibrate(exporter, "".join(c if c.isalnum() else "-" for c in session), model)
    quantized, summary = export(exporter, calibrated, *options)
    assert summary["from_input"] == ["matrix"]
    onnx.checker.check_model(quantized, full_check=True)
    seen, unoptimized = (run_onnxruntime(quantized, model.test, optimized=choice) for choice in (True, False))
    assert noise(seen, calibrated.output) <= 2 * noise(unoptimized, calibrated.output)
    assert np.isfinite(run_onnxruntime(quantized, model.test, saturating=True)).all()


@pytest.mark.parametrize("skipped", [False, True])
def test_float16_tensors_without_a_declared_type_are_refused(exporter: Calibctl, skipped: bool) -> None:
    model = float_models.half_inside()
    calibrated = calibrate(exporter, f"qdq-half-{skipped}", model)
    assert sorted(calibrated.layers) == ["half", "input", "output", "product"]
    if not skipped:
        with pytest.raises(CalibctlError, match="FLOAT16, but only float32 can be quantized"):
            export(exporter, calibrated)
        return
    quantized, summary = export(exporter, calibrated, "--skip-unexportable")
    assert sorted(summary["layers"]) == ["input", "output"]
    onnx.checker.check_model(quantized, full_check=True)
    output = run_onnxruntime(quantized, model.test)
    assert noise(output, calibrated.output) <= predicted_noise(calibrated, quantizations_in(quantized)) * 2


def test_openvino_runs_it(exporter: Calibctl, calibrated: Calibrated, reader: Callable[[str], Any]) -> None:
    openvino = reader("openvino")
    model, _ = export(exporter, calibrated, *UINT8)
    path = exporter.file("onnx")
    onnx.save(model, str(path))
    read = openvino.Core().read_model(str(path))
    kinds = {operator.get_type_name() for operator in read.get_ops()}
    assert "FakeQuantize" in kinds, "OpenVINO takes it for a float model"
    # FakeQuantize as it stands: OpenVINO's own 8-bit transformations would add their error.
    compiled = openvino.Core().compile_model(read, "CPU", {"LP_TRANSFORMS_MODE": "NO"})
    output = compiled({"input": calibrated.model.test})[compiled.output(0)]
    predicted = predicted_noise(calibrated, expected_quantizations(exporter, calibrated, *UINT8))
    assert predicted / 10 <= noise(output, calibrated.output) <= 2 * predicted


@pytest.fixture(scope="module", params=["convolutional", "transformer"])
def opset21(request: Any, exporter: Calibctl) -> Calibrated:
    """Models whose opset has 16-bit codes, for onnx and ONNX Runtime that know it."""
    if onnx.defs.onnx_opset_version() < 21:
        pytest.skip("this onnx is older than opset 21")
    return calibrate(exporter, f"qdq21-{request.param}", getattr(float_models, request.param)(opset=21))


def test_more_codes_mean_less_error(exporter: Calibctl, opset21: Calibrated) -> None:
    """Of activations alone, and without optimization: that would quantize the weights beside them to 8 bits."""

    def found(*options: str) -> float:
        model, _ = export(exporter, opset21, *options, "--activations-only")
        onnx.checker.check_model(model, full_check=True)
        return sqnr_db(run_onnxruntime(model, opset21.model.test, optimized=False), opset21.output)

    symmetric, affine, wide = found(*INT8), found(*UINT8), found(*INT16)
    assert affine > symmetric  # whose codes below zero are idle in what Relu and Softmax put out
    assert wide > affine + 36  # of 8 bits more, 6 dB each, at least 6


def test_scales_of_channels_mean_less_error(exporter: Calibctl) -> None:
    """Channels of the weights differ in size by up to 64, so that the least have few codes of a common scale. With 16
    bits for activations nearly all of the error is that of the weights."""
    if onnx.defs.onnx_opset_version() < 21:
        pytest.skip("this onnx is older than opset 21")
    model = float_models.convolutional(opset=21)
    common, own = (
        calibrate(exporter, session, model, rules)
        for session, rules in (("qdq-per-tensor", ()), ("qdq-per-channel", PER_CHANNEL_WEIGHTS))
    )
    seen, predicted = [], []
    for calibrated in (common, own):
        quantized, _ = export(exporter, calibrated, *INT16)
        seen.append(noise(run_onnxruntime(quantized, model.test), calibrated.output))
        predicted.append(predicted_noise(calibrated, expected_quantizations(exporter, calibrated, *INT16)))
    assert seen[1] < seen[0] / 2
    assert all(p / 10 <= s <= 2 * p for s, p in zip(seen, predicted))


def test_without_options_it_is_uint8(exporter: Calibctl, calibrated: Calibrated) -> None:
    assert export(exporter, calibrated)[0] == export(exporter, calibrated, *UINT8)[0]


def test_a_tensor_that_the_model_lacks_is_refused(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    model = float_models.convolutional()
    calibrate(exporter, "qdq-other-names", model)
    exporter.push("qdq-other-names", {"conv1_output": np.ones(10, np.float32)})
    onnx.save(model.proto, str(tmp_path / "float.onnx"))
    options = ("--model", str(tmp_path / "float.onnx"))
    assert_refused(exporter, "qdq-other-names", "onnx-qdq", tmp_path / "out", "conv1_output", *options)


def test_sixteen_bits_need_their_opset(exporter: Calibctl, calibrated: Calibrated) -> None:
    with pytest.raises(CalibctlError, match="opset"):
        export(exporter, calibrated, *INT16)


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x08"])
def test_what_is_no_model_is_refused(exporter: Calibctl, digits: str, tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "float.onnx").write_bytes(content)
    with pytest.raises(CalibctlError):
        exporter.export(digits, "onnx-qdq", tmp_path / "out", "--model", str(tmp_path / "float.onnx"))
    assert not (tmp_path / "out").exists()
