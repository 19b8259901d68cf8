"""Reads a `quantization_config` on standard input as compressed-tensors does and writes what it understood, as JSON.

A program of its own: compressed-tensors names types that PyTorch 1.13 lacks, and transformers, though reading a config
needs neither. They get stand-ins, which no test should share.
"""

from __future__ import annotations

import json
import sys
import unittest.mock

import torch

for name in ("float8_e4m3fn", "float8_e5m2"):
    if not hasattr(torch, name):
        setattr(torch, name, torch.float16)
for name in ("transformers", "transformers.utils", "transformers.file_utils"):
    sys.modules[name] = unittest.mock.MagicMock()

from compressed_tensors.quantization import QuantizationConfig  # noqa: E402  after the stand-ins

print(json.dumps(QuantizationConfig.model_validate(json.load(sys.stdin)).model_dump(mode="json")))
