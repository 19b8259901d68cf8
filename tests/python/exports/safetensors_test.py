"""Static scales in safetensors files, read by safetensors and compressed-tensors."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import struct
import subprocess
import sys
from typing import Any, Callable, Dict

import numpy as np
import pytest
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl, CalibctlError
from refusals import assert_refused

FP8_MAX, INT8_CODES = 448, 255
ATTENTION = "model.layers.0.self_attn"
# Layer: its scale's name in the file.
NAMES = {
    f"{ATTENTION}.q_proj": f"{ATTENTION}.q_proj.input_scale",
    f"{ATTENTION}.q_proj.weight": f"{ATTENTION}.q_proj.weight_scale",
    f"{ATTENTION}.k_cache": f"{ATTENTION}.k_scale",
    f"{ATTENTION}.v_cache": f"{ATTENTION}.v_scale",
}


@pytest.fixture(scope="module")
def arrays() -> Dict[str, np.ndarray]:
    generator = np.random.default_rng(2)
    return {layer: (generator.normal(0, 3, (16, 24)) + 0.5).astype(np.float32) for layer in NAMES}


@pytest.fixture(scope="module")
def session(exporter: Calibctl, arrays: Dict[str, np.ndarray]) -> str:
    exporter.create("attention", PER_CHANNEL_WEIGHTS)
    exporter.push("attention", arrays)
    return "attention"


def read(reader: Callable[[str], Any], path: pathlib.Path) -> Any:
    """Metadata and tensors by safetensors' own reader."""
    with reader("safetensors").safe_open(str(path), framework="np") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}


def test_fp8_scales_are_the_greatest_magnitudes_by_448(
    exporter: Calibctl,
    session: str,
    arrays: Dict[str, np.ndarray],
    tmp_path: pathlib.Path,
    reader: Callable[[str], Any],
) -> None:
    summary = exporter.export(session, "safetensors", tmp_path / "scales")
    metadata, scales = read(reader, tmp_path / "scales")
    assert metadata["format"] == "pt"
    assert sorted(summary["layers"]) == sorted(NAMES)
    assert sorted(scales) == sorted(NAMES.values())
    for layer, name in NAMES.items():
        magnitudes = np.abs(arrays[layer].astype(np.float64))
        if layer.endswith(".weight"):
            expected = magnitudes.max(axis=1, keepdims=True) / FP8_MAX
        else:
            expected = np.array([magnitudes.max() / FP8_MAX])
        assert scales[name].dtype == np.float32 and scales[name].shape == expected.shape, name
        np.testing.assert_allclose(scales[name], expected, rtol=1e-7, err_msg=name)


def test_scales_and_zero_points_are_those_of_qparams(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path, reader: Callable[[str], Any]
) -> None:
    layer = f"{ATTENTION}.q_proj"
    options = ("--dtype", "int8", "--affine")
    exporter.export(session, "safetensors", tmp_path / "scales", layer, *options)
    _, tensors = read(reader, tmp_path / "scales")
    expected = exporter.qparams(session, layer, *options)[layer]
    assert sorted(tensors) == [f"{layer}.input_scale", f"{layer}.input_zero_point"]
    np.testing.assert_array_equal(tensors[f"{layer}.input_scale"], np.array(expected["scale"], np.float32))
    assert tensors[f"{layer}.input_zero_point"].dtype == np.int8
    assert tensors[f"{layer}.input_zero_point"].tolist() == expected["zero_point"]


def test_symmetric_int8_scales_spread_the_range_over_255_steps(
    exporter: Calibctl,
    session: str,
    arrays: Dict[str, np.ndarray],
    tmp_path: pathlib.Path,
    reader: Callable[[str], Any],
) -> None:
    layer = f"{ATTENTION}.q_proj"
    exporter.export(session, "safetensors", tmp_path / "scales", layer, "--dtype", "int8", "--symmetric")
    _, tensors = read(reader, tmp_path / "scales")
    greatest = np.abs(arrays[layer].astype(np.float64)).max()
    np.testing.assert_allclose(tensors[f"{layer}.input_scale"], [greatest / (INT8_CODES / 2)], rtol=1e-7)


def test_the_least_scale_of_the_cache_is_an_option(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path, reader: Callable[[str], Any]
) -> None:
    exporter.export(session, "safetensors", tmp_path / "scales", "--least-kv-scale", "1")
    _, tensors = read(reader, tmp_path / "scales")
    assert tensors[f"{ATTENTION}.k_scale"] == [1] and tensors[f"{ATTENTION}.v_scale"] == [1]
    assert tensors[f"{ATTENTION}.q_proj.input_scale"] < 1


def test_the_container_has_no_holes_and_is_aligned(exporter: Calibctl, session: str, tmp_path: pathlib.Path) -> None:
    exporter.export(session, "safetensors", tmp_path / "scales")
    content = (tmp_path / "scales").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    assert content[8:9] == b"{" and size % 8 == 0
    del header["__metadata__"]
    end = 0
    for begin, next_end in sorted(entry["data_offsets"] for entry in header.values()):
        assert begin == end
        end = next_end
    assert 8 + size + end == len(content)


@pytest.mark.parametrize(
    "options, num_bits, kind, symmetric",
    [((), 8, "float", True), (("--dtype", "int8", "--symmetric", "--weight-dtype", "int8"), 8, "int", True)],
)
def test_compressed_tensors_takes_the_config(
    exporter: Calibctl,
    session: str,
    tmp_path: pathlib.Path,
    reader: Callable[[str], Any],
    options: Any,
    num_bits: int,
    kind: str,
    symmetric: bool,
) -> None:
    if importlib.util.find_spec("compressed_tensors") is None:
        reader("compressed_tensors")
    exporter.export(session, "safetensors", tmp_path / "scales", *options)
    metadata, _ = read(reader, tmp_path / "scales")
    script = pathlib.Path(__file__).with_name("validate_quantization_config.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        input=metadata["quantization_config"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    group = config["config_groups"]["group_0"]
    for arguments in (group["input_activations"], group["weights"], config["kv_cache_scheme"]):
        assert (arguments["num_bits"], arguments["type"], arguments["symmetric"]) == (num_bits, kind, symmetric)
        assert arguments["dynamic"] is False
    assert group["weights"]["strategy"] == "channel" and group["input_activations"]["strategy"] == "tensor"
    assert group["targets"] == ["Linear"] and config["quant_method"] == "compressed-tensors"


def test_two_layers_of_one_name_are_refused(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    exporter.create("twice")
    values = np.linspace(-1, 2, 100, dtype=np.float32)
    exporter.push("twice", {"a.k_cache": values, "b": values})
    with pytest.raises(CalibctlError, match='"a.k_cache" and "b"'):
        exporter.export("twice", "safetensors", tmp_path / "scales", "--rename", "b=a.k_scale")
    assert not list(tmp_path.iterdir())


def test_a_cache_with_a_zero_point_is_refused(exporter: Calibctl, session: str, tmp_path: pathlib.Path) -> None:
    options = ("--dtype", "int8", "--affine")
    assert_refused(exporter, session, "safetensors", tmp_path / "out", f"{ATTENTION}.k_cache", *options)
