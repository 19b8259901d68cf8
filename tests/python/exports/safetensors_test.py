"""Static scales in safetensors files, read by safetensors and compressed-tensors."""

from __future__ import annotations

import json
import pathlib
import sys
import types
from typing import Any, Callable

import numpy as np
import pytest
from calibctl import Calibctl
from refusals import session_with

FP8 = ("--dtype", "fp8_e4m3", "--symmetric")
LAYERS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k",
    "model.layers.0.self_attn.v",
]


@pytest.fixture(scope="module")
def attention(exporter: Calibctl) -> str:
    """A session of what a decoder's attention has: an input, keys and values."""
    generator = np.random.default_rng(2)
    exporter.create("attention")
    exporter.push("attention", {name: generator.normal(0, 3, 5000).astype(np.float32) for name in LAYERS})
    return "attention"


def test_safetensors_reads_the_scales(
    exporter: Calibctl, attention: str, tmp_path: pathlib.Path, reader: Callable[[str], Any]
) -> None:
    safetensors = reader("safetensors")
    summary = exporter.export(attention, "safetensors", tmp_path / "scales.safetensors", *FP8)
    expected = exporter.qparams(attention, *FP8, "--preset", "tensorrt")
    with safetensors.safe_open(str(tmp_path / "scales.safetensors"), framework="np") as file:
        assert file.metadata()["format"] == "pt"
        scales = {name: file.get_tensor(name) for name in file.keys()}
    assert len(scales) == len(summary["layers"])
    print(scales)
