"""AIMET and QNN encodings: their shape, that all versions say the same, and AIMET's own loader."""

from __future__ import annotations

import json
import pathlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import float_models
import numpy as np
import pytest
from calibctl import PER_CHANNEL_WEIGHTS, Calibctl

pytest.importorskip("onnxruntime")
from calibd.onnx import tensors, weights  # noqa: E402  after the check that ONNX Runtime is there

VERSIONS = ["0.6.1", "1.0.0", "2.0.0"]
MODEL = float_models.convolutional()
ACTIVATIONS = ("--dtype", "uint8", "--affine")
NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 1}
OFFSETS = {"type": "array", "items": {"type": "integer", "maximum": 0}, "minItems": 1}


def _object(**properties: Any) -> Dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": [
            name for name in properties if not name.startswith("y_zero") and name not in ("axis", "excluded_layers")
        ],
        "additionalProperties": False,
    }


def _schema(version: str) -> Dict[str, Any]:
    if version == "0.6.1":
        encoding = _object(
            bitwidth={"type": "integer", "minimum": 2, "maximum": 32},
            dtype={"const": "int"},
            is_symmetric={"enum": ["True", "False"]},
            min={"type": "number", "maximum": 0},
            max={"type": "number", "minimum": 0},
            scale={"type": "number", "exclusiveMinimum": 0},
            offset={"type": "integer", "maximum": 0},
        )
        encodings: Dict[str, Any] = {
            "type": "object",
            "additionalProperties": {"type": "array", "minItems": 1, "items": encoding},
        }
    elif version == "1.0.0":
        encodings = {
            "type": "array",
            "items": _object(
                name={"type": "string"},
                enc_type={"enum": ["PER_TENSOR", "PER_CHANNEL"]},
                dtype={"const": "INT"},
                bw={"type": "integer", "minimum": 2, "maximum": 32},
                is_sym={"type": "boolean"},
                scale=NUMBERS,
                offset=OFFSETS,
            ),
        }
    else:
        number_or_list = {"anyOf": [{"type": "number"}, NUMBERS]}
        encoding = _object(
            name={"type": "string"},
            output_dtype={"pattern": "^u?int[0-9]+$"},
            y_scale=number_or_list,
            y_zero_point={"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
            axis={"type": "integer"},
        )
        return _object(version={"const": version}, encodings={"type": "array", "items": encoding})
    strings = {"type": ["boolean", "string"]} if version == "1.0.0" else {"enum": ["True", "False"]}
    schema = _object(
        version={"const": version},
        activation_encodings=encodings,
        param_encodings=encodings,
        quantizer_args=_object(
            activation_bitwidth={"type": "integer"},
            param_bitwidth={"type": "integer"},
            dtype={"const": "int"},
            is_symmetric=strings,
            per_channel_quantization=strings,
            quant_scheme={"type": "string"},
        ),
        excluded_layers={"type": "array", "maxItems": 0},
    )
    return schema


class Encoding(NamedTuple):
    """What every version can say of a tensor: q is unsigned, x = (q + offset) * scale."""

    bits: int
    scale: List[np.float32]
    offset: List[int]


def read(path: pathlib.Path) -> Dict[str, Encoding]:
    """Encodings of a file of any version."""
    file = json.loads(path.read_text())
    if file["version"] == "2.0.0":
        return {entry["name"]: _read_aligned_with_onnx(entry) for entry in file["encodings"]}
    found: Dict[str, Encoding] = {}
    for kind in ("activation_encodings", "param_encodings"):
        if file["version"] == "1.0.0":
            for entry in file[kind]:
                found[entry["name"]] = Encoding(entry["bw"], [np.float32(s) for s in entry["scale"]], entry["offset"])
                assert (entry["enc_type"] == "PER_CHANNEL") == (len(entry["scale"]) > 1)
            continue
        for name, channels in file[kind].items():
            found[name] = Encoding(
                channels[0]["bitwidth"], [np.float32(c["scale"]) for c in channels], [c["offset"] for c in channels]
            )
            for channel in channels:
                codes = (1 << channel["bitwidth"]) - 1
                assert channel["min"] == pytest.approx(channel["offset"] * channel["scale"], rel=1e-6)
                assert channel["max"] == pytest.approx((codes + channel["offset"]) * channel["scale"], rel=1e-6)
    return found


def _read_aligned_with_onnx(entry: Dict[str, Any]) -> Encoding:
    scale = entry["y_scale"] if isinstance(entry["y_scale"], list) else [entry["y_scale"]]
    zero_point = entry.get("y_zero_point", 0)
    zero_points = zero_point if isinstance(zero_point, list) else [zero_point] * len(scale)
    signed = not entry["output_dtype"].startswith("u")
    bits = int(entry["output_dtype"].lstrip("uint"))
    assert ("axis" in entry) == isinstance(entry["y_scale"], list)
    return Encoding(
        bits, [np.float32(s) for s in scale], [-z - ((1 << (bits - 1)) if signed else 0) for z in zero_points]
    )


@pytest.fixture(scope="module")
def session(exporter: Calibctl) -> str:
    exporter.create("aimet", PER_CHANNEL_WEIGHTS)
    seen: Dict[str, np.ndarray] = dict(weights(MODEL.proto))
    for name, array in next(tensors(MODEL.proto, MODEL.calibration)):
        seen[name] = array
    exporter.push("aimet", seen)
    return "aimet"


@pytest.mark.parametrize("options", [(), ACTIVATIONS, ("--dtype", "int16", "--symmetric")])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_has_the_shape_of_its_version(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path, reader: Callable[[str], Any], version: str, options: Any
) -> None:
    exporter.export(session, f"aimet-{version}", tmp_path / "encodings", *options)
    reader("jsonschema").validate(json.loads((tmp_path / "encodings").read_text()), _schema(version))


@pytest.mark.parametrize(
    "options", [(), ACTIVATIONS, ("--dtype", "int16", "--symmetric"), ("--dtype", "int4", "--affine")]
)
def test_all_versions_say_what_qparams_say(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path, options: Any
) -> None:
    for version in VERSIONS:
        exporter.export(session, f"aimet-{version}", tmp_path / version, *options)
    encodings = read(tmp_path / "1.0.0")
    assert encodings == read(tmp_path / "0.6.1") == read(tmp_path / "2.0.0")
    if options:
        expected = exporter.qparams(session, "--preset", "aimet", *options)
        for name, layer in expected.items():
            if name.endswith(".weight"):
                assert len(encodings[name].scale) > 1
                continue
            assert encodings[name].scale == [np.float32(value) for value in layer["scale"]], name
            signed = layer["qmin"] < 0
            lowest = 1 << (encodings[name].bits - 1) if signed else 0
            assert encodings[name].offset == [-zero_point - lowest for zero_point in layer["zero_point"]], name


@pytest.mark.parametrize("version", VERSIONS)
def test_aimet_loads_them(
    exporter: Calibctl, session: str, tmp_path: pathlib.Path, reader: Callable[[str], Any], version: str
) -> None:
    quantsim = reader("aimet_onnx.quantsim")
    exporter.export(session, f"aimet-{version}", tmp_path / "encodings", *ACTIVATIONS)
    simulated = quantsim.QuantizationSimModel(MODEL.proto, providers=["CPUExecutionProvider"])
    mismatches = quantsim.load_encodings_to_sim(simulated, str(tmp_path / "encodings"), strict=False)
    assert mismatches is not None
    loaded: Optional[int] = 0
    for name, encoding in read(tmp_path / "encodings").items():
        operator = simulated.qc_quantize_op_dict.get(name)
        if operator is None or not operator.enabled:
            continue
        values = operator.get_encodings()
        assert operator.bitwidth == encoding.bits, name
        np.testing.assert_allclose([value.delta for value in values], encoding.scale, rtol=1e-6, err_msg=name)
        assert [int(value.offset) for value in values] == encoding.offset, name
        loaded += 1
    assert loaded >= 10
