"""TensorRT calibration caches, read by ModelOpt and by the rules of three readers."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import struct
import sys
import types
from typing import Any, Callable, Dict

import numpy as np
import pytest
from calibctl import Calibctl
from refusals import assert_refused, session_with

TENSORRT = ("--preset", "tensorrt", "--dtype", "int8", "--symmetric")


def _float32(bits: int) -> np.float32:
    return np.array([bits], np.uint32).view(np.float32)[0]


def read_as_trtexec(text: str) -> Dict[str, np.float32]:
    """The name ends at the last colon; what follows one character later is eight digits of a positive int32."""
    scales = {}
    for line in text.splitlines()[1:]:
        colon = line.rindex(":")
        bits = int(line[colon + 2 : colon + 10], 16)
        assert bits < 1 << 31, line
        scales[line[:colon]] = _float32(bits)
    return scales


def read_as_onnxruntime(text: str) -> Dict[str, np.float32]:
    """The header has "TRT-" in it; the name ends at the first colon, the rest is a hexadecimal number."""
    header, *lines = text.splitlines()
    assert "TRT-" in header
    return {name: _float32(int(digits, 16)) for name, digits in (line.split(":", 1) for line in lines)}


def read_as_modelopt(text: str) -> Dict[str, np.float32]:
    """A colon and a space exactly once, then whole bytes in hexadecimal, the most significant first."""
    scales = {}
    for line in text.split("\n")[1:-1]:
        name, digits = line.split(": ")
        scales[name] = np.float32(struct.unpack("!f", bytes.fromhex(digits))[0])
    return scales


def import_modelopt(reader: Callable[[str], Any]) -> Any:
    """modelopt.onnx.quantization.calib_utils without the packages above it, which need a newer torch than it does."""
    specification = importlib.util.find_spec("modelopt")
    if specification is None or specification.origin is None:
        return reader("modelopt")
    root = pathlib.Path(specification.origin).parent
    for name in ("modelopt", "modelopt.onnx", "modelopt.onnx.quantization"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        sys.modules.setdefault(name, package)
    return reader("modelopt.onnx.quantization.calib_utils")


@pytest.mark.parametrize("method", ["minmax", "entropy", "mse"])
@pytest.mark.parametrize("read", [read_as_trtexec, read_as_onnxruntime, read_as_modelopt])
def test_every_tokenization_reads_the_scales_of_qparams(
    exporter: Calibctl, digits: str, tmp_path: pathlib.Path, read: Callable[[str], Dict[str, np.float32]], method: str
) -> None:
    path = tmp_path / "calib.cache"
    summary = exporter.export(digits, "tensorrt-cache", path, "--method", method, "--weight-method", method)
    expected = exporter.qparams(digits, *TENSORRT, "--method", method)
    read_back = read(path.read_text())
    assert sorted(read_back) == summary["layers"]
    assert sorted(read_back) == sorted(expected)
    for layer, scale in read_back.items():
        assert [scale] == [np.float32(value) for value in expected[layer]["scale"]], layer


def test_a_scale_is_the_greatest_magnitude_by_127(exporter: Calibctl, tmp_path: pathlib.Path) -> None:
    exporter.create("magnitude")
    exporter.push("magnitude", {"one": np.array([0.5, -1], np.float32), "other": np.array([6.35, -2], np.float32)})
    exporter.export("magnitude", "tensorrt-cache", tmp_path / "c", "--tensorrt-version", "8.6.1")
    assert (tmp_path / "c").read_text() == "TRT-8601-EntropyCalibration2\none: 3c010204\nother: 3d4ccccd\n"


@pytest.mark.parametrize(
    "version, algorithm, header",
    [
        ("9.3.0", "MinMaxCalibration", "TRT-9300-MinMaxCalibration"),
        ("10.3.0", "EntropyCalibration", "TRT-100300-EntropyCalibration"),
        ("10.14.1", "LegacyCalibration", "TRT-101401-LegacyCalibration"),
    ],
)
def test_the_header_is_of_the_release_and_algorithm(
    exporter: Calibctl, zeros: str, tmp_path: pathlib.Path, version: str, algorithm: str, header: str
) -> None:
    options = ("--tensorrt-version", version, "--tensorrt-algorithm", algorithm, "--skip-unexportable")
    exporter.export(zeros, "tensorrt-cache", tmp_path / "c", *options)
    assert (tmp_path / "c").read_text().splitlines()[0] == header


def test_modelopt_imports_the_scales(
    exporter: Calibctl, digits: str, tmp_path: pathlib.Path, reader: Callable[[str], Any]
) -> None:
    modelopt = import_modelopt(reader)
    path = tmp_path / "calib.cache"
    summary = exporter.export(digits, "tensorrt-cache", path)
    expected = exporter.qparams(digits, *TENSORRT)
    scales = modelopt.import_scales_from_calib_cache(str(path))
    assert sorted(scales) == sorted(f"{layer}_scale" for layer in summary["layers"])
    for layer in summary["layers"]:
        assert [np.float32(scales[f"{layer}_scale"])] == [np.float32(v) for v in expected[layer]["scale"]]


@pytest.mark.parametrize("name", ["x/y:0", "a: b"])
def test_a_name_that_a_reader_would_split_is_refused(exporter: Calibctl, tmp_path: pathlib.Path, name: str) -> None:
    session = session_with(exporter, f"cache-{len(name)}", name)
    assert_refused(exporter, session, "tensorrt-cache", tmp_path / "out", name)


def test_a_tensor_of_zeros_is_refused(exporter: Calibctl, zeros: str, tmp_path: pathlib.Path) -> None:
    assert_refused(exporter, zeros, "tensorrt-cache", tmp_path / "out", "dead")
