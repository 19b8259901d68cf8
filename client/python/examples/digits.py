#!/usr/bin/env python3
"""Post-training quantization of a small CNN on scikit-learn's handwritten digits, calibrated by a fleet.

Trains the network, lets worker processes stream the statistics of its activations and weights to calibd, asks for
quantization parameters by several methods, and prints the accuracy of the quantized network:

    calibd --store memory &
    python3 digits.py --workers 4

With --compare-workers 1 it is calibrated a second time by one worker, and the program fails if a single parameter
differs. (Entropy calibration is made for 8 bits: at 4 it clips away what matters, as the expected error says.) Needs
torch and scikit-learn, whose package brings the data.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, Tuple

import calibd
import calibd.torch
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

METHODS = ("minmax", "percentile", "mse", "entropy")
BATCH = 32


class SquaredReLU(nn.Module):
    """max(x, 0)^2 (So et al. 2021, Primer). Its outputs have long tails, as those of much larger networks have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x).square()


class DigitsNet(nn.Module):
    """8x8 pixels to 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Identity()  # so that the input is a layer, too
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.relu1 = SquaredReLU()
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.relu2 = SquaredReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(32 * 16, 64)
        self.relu3 = SquaredReLU()
        self.fc2 = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.conv1(self.image(pixels)))
        x = self.pool(self.relu2(self.conv2(x)))
        return self.fc2(self.relu3(self.fc1(x.flatten(1))))


# What is quantized: the inputs of every convolution and linear layer, and their weights.
ACTIVATIONS = ("image", "relu1", "relu2", "relu3")


def data() -> Dict[str, Tuple[torch.Tensor, torch.Tensor]]:
    """Images [n, 1, 8, 8] in [0, 1] and labels [n], split into train, calibration and test."""
    digits = load_digits()
    images = torch.from_numpy((digits.images / 16.0).astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    images, labels = images[order], labels[order]
    return {
        "train": (images[:800], labels[:800]),
        "calibration": (images[800:1056], labels[800:1056]),
        "test": (images[1056:], labels[1056:]),
    }


def train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Per cent of the images that are recognized."""
    with torch.no_grad():
        return 100.0 * float((model(images).argmax(1) == labels).double().mean())


def observe(server: str, session_name: str, model_file: str, worker: int, workers: int) -> None:
    """One worker: observes every workers-th batch. All hold the same weights, so the first alone sends them."""
    torch.set_num_threads(1)
    model = DigitsNet().eval()
    model.load_state_dict(torch.load(model_file))
    images, _ = data()["calibration"]
    with calibd.connect(server) as client:
        session = client.session(session_name)
        with calibd.torch.watch(model, session, weights=worker == 0), torch.no_grad():
            for batch in images.split(BATCH)[worker::workers]:
                model(batch)
        session.flush()


def calibrate(client: calibd.Client, server: str, model_file: str, workers: int) -> calibd.Session:
    """Runs `workers` processes to their end; what they saw is durable then."""
    name = f"digits-{workers}-{os.getpid()}-{int(time.time())}"
    session = client.create_session(name, rules=calibd.torch.rules())
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--server", server] + ["--observe", name, model_file, str(worker), str(workers)]
        )
        for worker in range(workers)
    ]
    for process in processes:
        if process.wait() != 0:
            raise SystemExit(f"worker process {process.pid} failed with exit code {process.returncode}")
    return session


def parameters(session: calibd.Session, method: str, bits: int) -> Dict[str, calibd.LayerQParams]:
    """Activations: unsigned and affine, one scale each. Weights: signed and symmetric, one scale a channel."""
    activations = session.qparams(method=method, dtype=f"uint{bits}", scheme="affine")
    # Entropy calibration is made for activations: it drops a weight's few large values, which matter.
    weights = session.qparams(
        "*.weight", method="minmax" if method == "entropy" else method, dtype=f"int{bits}", per_channel=True
    )
    layers = {layer.layer: layer for layer in activations if layer.layer in ACTIVATIONS}
    layers.update({layer.layer: layer for layer in weights})
    for layer in layers.values():
        if layer.error is not None:
            raise layer.error
    return layers


def quantize(model: nn.Module, layers: Dict[str, calibd.LayerQParams]) -> nn.Module:
    """A copy of the network that computes with quantized weights and activations."""
    quantized = DigitsNet().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, q in layers.items():
        if name in state:
            scale, zero_point = torch.from_numpy(q.scale), torch.from_numpy(q.zero_point.astype(np.int32))
            state[name] = torch.fake_quantize_per_channel_affine(state[name], scale, zero_point, 0, q.qmin, q.qmax)
    quantized.load_state_dict(state)

    def hook(q: calibd.LayerQParams):  # type: ignore[no-untyped-def]
        scale, zero_point = float(q.scale[0]), int(q.zero_point[0])
        return lambda _module, _inputs, output: torch.fake_quantize_per_tensor_affine(
            output, scale, zero_point, q.qmin, q.qmax
        )

    for name in ACTIVATIONS:
        quantized.get_submodule(name).register_forward_hook(hook(layers[name]))
    return quantized


def same(a: Dict[str, calibd.LayerQParams], b: Dict[str, calibd.LayerQParams]) -> bool:
    """Whether all parameters are equal, bit for bit."""
    return a.keys() == b.keys() and all(
        a[name].scale.tobytes() == b[name].scale.tobytes()
        and a[name].zero_point.tobytes() == b[name].zero_point.tobytes()
        for name in a
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=os.environ.get("CALIBD_SERVER", "127.0.0.1:7070"), metavar="HOST:PORT")
    parser.add_argument("--workers", type=int, default=4, help="worker processes (default 4)")
    parser.add_argument("--compare-workers", type=int, metavar="N", help="calibrate by N workers too, and compare")
    parser.add_argument("--epochs", type=int, default=12, help="of training (default 12)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--observe", nargs=4, help=argparse.SUPPRESS)  # what the worker processes are given
    options = parser.parse_args()
    if options.observe:
        session_name, model_file, worker, workers = options.observe
        observe(options.server, session_name, model_file, int(worker), int(workers))
        return 0

    torch.manual_seed(0)
    torch.set_num_threads(1)
    sets = data()
    model = DigitsNet()
    train(model, *sets["train"], epochs=options.epochs)
    model.eval()
    result: Dict[str, object] = {"float": accuracy(model, *sets["test"]), "workers": options.workers}

    with tempfile.TemporaryDirectory() as folder, calibd.connect(options.server) as client:
        model_file = os.path.join(folder, "digits.pt")
        torch.save(model.state_dict(), model_file)
        session = calibrate(client, options.server, model_file, options.workers)
        other = None
        if options.compare_workers:
            other = calibrate(client, options.server, model_file, options.compare_workers)

        rows: List[Tuple[str, str, float]] = []
        for bits in (8, 4):
            for method in METHODS:
                layers = parameters(session, method, bits)
                if other is not None and not same(layers, parameters(other, method, bits)):
                    print(f"{options.compare_workers} workers give other parameters by {method}", file=sys.stderr)
                    return 1
                rows.append((f"int{bits}", method, accuracy(quantize(model, layers), *sets["test"])))
    result["quantized"] = [{"dtype": dtype, "method": method, "accuracy": value} for dtype, method, value in rows]
    result["identical_to_workers"] = options.compare_workers
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{'dtype':8} {'method':12} {'accuracy':>9}")
    print(f"{'float32':8} {'':12} {result['float']:8.2f} %")
    for dtype, method, value in rows:
        print(f"{dtype:8} {method:12} {value:8.2f} %")
    if options.compare_workers:
        print(f"{options.workers} workers and {options.compare_workers} give the same parameters, bit for bit.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
