"""ncnn int8 tables: read by the rules of ncnn2int8, and run by ncnn with the multipliers in them."""

from __future__ import annotations

import pathlib
import struct
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl, CalibctlError
from refusals import assert_refused, session_with

LONGEST_KEY = 255
NCNN_MAGIC, NCNN_INT8, NCNN_FLOAT32 = 7767517, 0x000D4B38, 0


class Table:
    """What ncnn2int8 makes of a table: multipliers of weights and of the inputs of layers."""

    def __init__(self, text: str) -> None:
        self.weights: Dict[str, List[np.float32]] = {}
        self.inputs: Dict[str, np.float32] = {}
        for line in text.split("\n"):
            if not line.strip():
                break  # a blank line ends the table
            key, *numbers = line.rstrip(" ").split(" ")
            assert 0 < len(key) <= LONGEST_KEY and "\t" not in line
            values = [np.float32(number) for number in numbers]
            assert values and all(np.isfinite(value) and value > 0 for value in values), line
            if "_param_" in key:
                self.weights[key] = values
            else:
                assert len(values) == 1
                self.inputs[key] = values[0]
        for layer in self.inputs:
            assert f"{layer}_param_0" in self.weights, f"{layer} has an input row, but no row of weights"


@pytest.fixture(scope="module")
def convolution() -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weight [16, 8, 3, 3], bias [16] and an input [8, 12, 12]."""
    generator = np.random.default_rng(7)
    spread = np.exp2(generator.uniform(-4, 0, (16, 1, 1, 1)))
    weight = (generator.normal(size=(16, 8, 3, 3)) * spread).astype(np.float32)
    return weight, generator.normal(size=16).astype(np.float32), generator.normal(size=(8, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def session(exporter: Calibctl, convolution: Any) -> str:
    weight, _, batch = convolution
    exporter.create("ncnn", PER_CHANNEL_WEIGHTS)
    exporter.push("ncnn", {"conv1.weight": weight, "conv1": batch})
    return "ncnn"


def test_multipliers_are_127_by_the_greatest_magnitude(
    exporter: Calibctl, session: str, convolution: Any, tmp_path: pathlib.Path
) -> None:
    weight, _, batch = convolution
    summary = exporter.export(session, "ncnn", tmp_path / "table")
    assert summary["layers"] == ["conv1", "conv1.weight"]
    table = Table((tmp_path / "table").read_text())
    assert sorted(table.weights) == ["conv1_param_0"] and sorted(table.inputs) == ["conv1"]
    np.testing.assert_allclose(table.weights["conv1_param_0"], 127 / np.abs(weight).max(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(table.inputs["conv1"], 127 / np.abs(batch).max(), rtol=1e-6)


def test_an_input_that_was_clipped_has_the_method_s_range(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path
) -> None:
    exporter.export(session, "ncnn", tmp_path / "table", "--method", "entropy")
    expected = exporter.qparams(session, "--method", "entropy", "--preset", "tensorrt", "--symmetric")
    multiplier = Table((tmp_path / "table").read_text()).inputs["conv1"]
    assert multiplier == pytest.approx(1 / expected["conv1"]["scale"][0], rel=1e-6)


def test_a_table_that_is_given_keeps_its_other_rows(exporter: Calibctl, session: str, tmp_path: pathlib.Path) -> None:
    given = "conv1_param_0 1.5 2.5 \nother_param_0 3.25 \nconv1 9 \nother 4.5 \n"
    (tmp_path / "given").write_text(given)
    exporter.export(session, "ncnn", tmp_path / "table", "conv1", "--table", str(tmp_path / "given"))
    before, after = Table(given), Table((tmp_path / "table").read_text())
    assert after.weights == before.weights
    assert after.inputs["other"] == before.inputs["other"]
    assert after.inputs["conv1"] != before.inputs["conv1"]


def test_ncnn_runs_with_the_table(
    exporter: Calibctl, session: str, convolution: Any, tmp_path: pathlib.Path, reader: Callable[[str], Any]
) -> None:
    ncnn = reader("ncnn")
    weight, bias, batch = convolution
    exporter.export(session, "ncnn", tmp_path / "table")
    table = Table((tmp_path / "table").read_text())
    multipliers = np.array(table.weights["conv1_param_0"], np.float32)
    codes = np.clip(np.rint(weight * multipliers[:, None, None, None]), -127, 127).astype(np.int8)
    # Of a convolution with int8_scale_term: weights, bias, multipliers of the weights, multiplier of the input.
    model = struct.pack("<I", NCNN_INT8) + codes.tobytes() + bias.tobytes() + multipliers.tobytes()
    quantized = _run(ncnn, tmp_path, weight.shape, model + table.inputs["conv1"].tobytes(), batch, " 8=2")
    exact = _run(
        ncnn, tmp_path, weight.shape, struct.pack("<I", NCNN_FLOAT32) + weight.tobytes() + bias.tobytes(), batch
    )

    rounded_input = np.rint(batch * table.inputs["conv1"]) / table.inputs["conv1"]
    rounded_weight = codes / multipliers[:, None, None, None]
    np.testing.assert_allclose(exact, _convolve(batch, weight, bias), rtol=0, atol=1e-4)
    np.testing.assert_allclose(quantized, _convolve(rounded_input, rounded_weight, bias), rtol=0, atol=1e-4)
    # A code is off by at most half: so much can an output be, at the most.
    most = _convolve(np.abs(batch), 0.5 / multipliers[:, None, None, None] * np.ones_like(weight), 0 * bias)
    most += _convolve(np.full_like(batch, 0.5 / table.inputs["conv1"]), np.abs(rounded_weight), 0 * bias)
    assert np.all(np.abs(quantized - exact) <= most + 1e-4)


@pytest.mark.parametrize("name", ["a b", "a_param_0", "x" * (LONGEST_KEY + 1)])
def test_a_name_that_the_reader_would_misread_is_refused(exporter: Calibctl, tmp_path: pathlib.Path, name: str) -> None:
    session = f"ncnn-{len(name)}"
    exporter.create(session, PER_CHANNEL_WEIGHTS)
    values = np.linspace(-1, 2, 18, dtype=np.float32).reshape(2, 9)
    exporter.push(session, {layer: values for layer in (name, f"{name}.weight", "ordinary", "ordinary.weight")})
    assert_refused(exporter, session, "ncnn", tmp_path / "out", name)


def test_an_input_without_weights_is_refused(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    session = session_with(exporter, "ncnn-no-weights")
    with pytest.raises(CalibctlError, match="ordinary"):
        exporter.export(session, "ncnn", tmp_path / "table")
    assert not (tmp_path / "table").exists()


def _run(ncnn: Any, folder: pathlib.Path, shape: Any, model: bytes, batch: np.ndarray, options: str = "") -> np.ndarray:
    """The output of a network of one convolution whose binary part is `model`."""
    outputs, _, size, _ = shape
    (folder / "net.param").write_text(
        f"{NCNN_MAGIC}\n2 2\nInput data 0 1 data\n"
        f"Convolution conv1 1 1 data out 0={outputs} 1={size} 5=1 6={int(np.prod(shape))}{options}\n"
    )
    (folder / "net.bin").write_bytes(model)
    network = ncnn.Net()
    network.opt.num_threads = 1
    network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = network.opt.use_fp16_packed = False
    assert network.load_param(str(folder / "net.param")) == 0 and network.load_model(str(folder / "net.bin")) == 0
    extractor = network.create_extractor()
    assert extractor.input("data", ncnn.Mat(batch)) == 0
    status, output = extractor.extract("out")
    assert status == 0
    return np.array(output)


def _convolve(batch: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """In float64, without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(batch.astype(np.float64), weight.shape[2:], axis=(1, 2))
    return np.einsum("oikl,ihwkl->ohw", weight.astype(np.float64), windows) + bias[:, None, None]
