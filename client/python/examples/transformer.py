#!/usr/bin/env python3
"""Quantization of a small transformer whose activations have outlier channels, calibrated by a fleet.

Trains a language model of characters on the text of Python's own manual (the standard library's pydoc_data), gives it
the outlier channels that large language models have, lets worker processes observe the inputs of all its linear layers,
channel by channel, and prints what quantization costs, in bits per character:

    calibd --store memory &
    python3 transformer.py --workers 2

One pass over the data answers every row: the methods, which choose a range per tensor, and `smooth`, which moves the
outliers into the weights first (SmoothQuant, Xiao et al. 2022, with alpha = 0.5) by the ranges of the channels.

The outliers are made, not grown: a model this small does not get them by itself. The gain of a few channels of each
normalization is multiplied by 32 and the columns of the next weight divided by it, which changes nothing that the
float model computes, and is what the large models are found to do.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pydoc_data import topics
from typing import Dict, List, Tuple

import calibd
import calibd.torch
import numpy as np
import torch
from torch import nn

METHODS = ("minmax", "percentile", "mse", "entropy")
CONTEXT, WIDTH, HEADS, BLOCKS = 64, 64, 4, 2
OUTLIER_CHANNELS, OUTLIER_GAIN = (5, 23, 48), 32.0


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.register_buffer("future", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(WIDTH // HEADS)
        attention = scores.masked_fill(self.future[:length, :length], -math.inf).softmax(-1)
        x = x + self.projection((attention @ v).transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class CharacterModel(nn.Module):
    """Codes [batch, length] to logits of the next character [batch, length, characters]."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.code, self.position = nn.Embedding(characters, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(BLOCKS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, characters)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        x = self.code(codes) + self.position(torch.arange(codes.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def data() -> Tuple[int, Dict[str, torch.Tensor]]:
    """The number of characters, and codes [n, CONTEXT + 1] for train, calibration and test."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    alphabet = {character: code for code, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([alphabet[character] for character in text])
    rows = codes[: len(codes) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    rows = rows[torch.from_numpy(np.random.default_rng(0).permutation(len(rows)))]
    return len(alphabet), {"train": rows[:-768], "calibration": rows[-768:-512], "test": rows[-512:]}


def train(model: nn.Module, rows: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = rows[torch.randint(len(rows), (32,))]
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def bits_per_character(model: nn.Module, rows: torch.Tensor) -> float:
    with torch.no_grad():
        return sum(float(loss(model, batch)) for batch in rows.split(64)) / len(rows.split(64)) / math.log(2)


def add_outliers(model: CharacterModel) -> None:
    """Outlier channels in the inputs of qkv and up; the model computes the same."""
    with torch.no_grad():
        for block in model.blocks:
            for norm, linear in ((block.norm1, block.qkv), (block.norm2, block.up)):
                for channel in OUTLIER_CHANNELS:
                    norm.weight[channel] *= OUTLIER_GAIN
                    norm.bias[channel] *= OUTLIER_GAIN
                    linear.weight[:, channel] /= OUTLIER_GAIN


def linear_layers(model: nn.Module) -> List[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def observe(server: str, session_name: str, model_file: str, worker: int, workers: int) -> None:
    """One worker: observes every workers-th batch. All hold the same weights, so the first alone sends them."""
    torch.set_num_threads(1)
    characters, sets = data()
    model = CharacterModel(characters).eval()
    model.load_state_dict(torch.load(model_file))
    with calibd.connect(server) as client:
        session = client.session(session_name)
        watch = calibd.torch.watch(model, session, include_types=[nn.Linear], inputs=True, weights=worker == 0)
        with watch, torch.no_grad():
            for batch in sets["calibration"].split(32)[worker::workers]:
                model(batch[:, :-1])
        session.flush()


def quantized(model: CharacterModel, characters: int, layers: Dict[str, calibd.LayerQParams]) -> CharacterModel:
    """A copy that computes with quantized weights and quantized inputs of its linear layers."""
    copy = CharacterModel(characters).eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in linear_layers(model):
        q = layers[f"{name}.weight"]
        state[f"{name}.weight"] = torch.fake_quantize_per_channel_affine(
            state[f"{name}.weight"], torch.from_numpy(q.scale), torch.from_numpy(q.zero_point.astype(np.int32)), 0,
            q.qmin, q.qmax
        )  # fmt: skip
    copy.load_state_dict(state)

    def hook(q: calibd.LayerQParams):  # type: ignore[no-untyped-def]
        scale, zero_point = float(q.scale[0]), int(q.zero_point[0])
        return lambda _module, inputs: (
            torch.fake_quantize_per_tensor_affine(inputs[0], scale, zero_point, q.qmin, q.qmax),
        )

    for name in linear_layers(copy):
        copy.get_submodule(name).register_forward_pre_hook(hook(layers[f"{name}.input"]))
    return copy


def smooth(model: CharacterModel, characters: int, session: calibd.Session, bits: int) -> CharacterModel:
    """Quantized after the outliers moved from inputs to weights, by the ranges of the channels seen."""
    statistics = session.statistics("*.input")
    copy = CharacterModel(characters).eval()
    copy.load_state_dict(model.state_dict())
    largest = 2 ** (bits - 1) - 1

    def hook(factor: torch.Tensor, scale: float):  # type: ignore[no-untyped-def]
        return lambda _module, inputs: (
            torch.fake_quantize_per_tensor_affine(inputs[0] / factor, scale, 0, -largest, largest),
        )

    with torch.no_grad():
        for name in linear_layers(copy):
            linear = copy.get_submodule(name)
            ranges = statistics[f"{name}.input"]
            inputs = torch.from_numpy(np.maximum(np.abs(ranges.min), np.abs(ranges.max))).clamp(min=1e-5)
            factor = (inputs / linear.weight.abs().amax(0).clamp(min=1e-5)).sqrt()
            linear.weight *= factor
            scales = linear.weight.abs().amax(1) / largest
            linear.weight.copy_(
                torch.fake_quantize_per_channel_affine(
                    linear.weight, scales, torch.zeros(len(scales), dtype=torch.int32), 0, -largest, largest
                )
            )
            linear.register_forward_pre_hook(hook(factor, float((inputs / factor).max()) / largest))
    return copy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=os.environ.get("CALIBD_SERVER", "127.0.0.1:7070"), metavar="HOST:PORT")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default 2)")
    parser.add_argument("--steps", type=int, default=400, help="of training (default 400)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--observe", nargs=4, help=argparse.SUPPRESS)  # what the worker processes are given
    options = parser.parse_args()
    if options.observe:
        session_name, model_file, worker, workers = options.observe
        observe(options.server, session_name, model_file, int(worker), int(workers))
        return 0

    torch.manual_seed(0)
    characters, sets = data()
    model = CharacterModel(characters)
    train(model, sets["train"], options.steps)
    model.eval()
    add_outliers(model)
    rows: List[Tuple[str, str, float]] = [("float32", "", bits_per_character(model, sets["test"]))]

    with tempfile.TemporaryDirectory() as folder, calibd.connect(options.server) as client:
        model_file = os.path.join(folder, "model.pt")
        torch.save(model.state_dict(), model_file)
        session = client.create_session(
            f"transformer-{os.getpid()}-{int(time.time())}",
            rules=[
                calibd.Rule("*.weight", calibd.Observer("histogram", channel_axis=0)),
                calibd.Rule("*.input", calibd.Observer("histogram", channel_axis=-1)),
            ],
        )
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--server", options.server]
                + ["--observe", session.name, model_file, str(worker), str(options.workers)]
            )
            for worker in range(options.workers)
        ]
        for process in processes:
            if process.wait() != 0:
                raise SystemExit(f"worker process {process.pid} failed with exit code {process.returncode}")
        for bits in (8, 4):
            weights = session.qparams("*.weight", method="mse", dtype=f"int{bits}", per_channel=True)
            for method in METHODS:
                inputs = session.qparams("*.input", method=method, dtype=f"int{bits}")
                layers = {layer.layer: layer for layer in weights + inputs}
                for layer in layers.values():
                    if layer.error is not None:
                        raise layer.error
                value = bits_per_character(quantized(model, characters, layers), sets["test"])
                rows.append((f"int{bits}", method, value))
            rows.append(
                (f"int{bits}", "smooth", bits_per_character(smooth(model, characters, session, bits), sets["test"]))
            )
    if options.json:
        print(json.dumps([dict(zip(("dtype", "method", "bits_per_character"), row)) for row in rows]))
        return 0
    print(f"{'dtype':8} {'method':12} bits per character")
    for dtype, method, value in rows:
        print(f"{dtype:8} {method:12} {value:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
