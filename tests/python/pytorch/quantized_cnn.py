"""A CNN that is quantized, and a worker process that has a part of its batches.

usage: quantized_cnn.py SERVER SESSION METHOD RANK WORKERS OUT      prints "flushed", waits for a line, converts
"""

from __future__ import annotations

import os
import sys
import warnings

import torch
from torch import nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

BATCHES = 6
torch.backends.quantized.engine = next(
    engine for engine in ("qnnpack", "fbgemm") if engine in torch.backends.quantized.supported_engines
)
torch.set_num_threads(1)
warnings.filterwarnings("ignore", "TypedStorage is deprecated")


class CNN(nn.Module):
    """With what prepare treats in its own way: fused modules, an addition, functions. The same numbers each time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.quant, self.dequant = quantization.QuantStub(), quantization.DeQuantStub()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.skip = nn.quantized.FloatFunctional()
        self.pool = nn.AvgPool2d(4)
        self.head = nn.Linear(32, 10)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(self.quant(x))
        x = self.skip.add_relu(x, self.body(x))
        return self.dequant(self.head(torch.flatten(self.pool(x), 1)))


def batches(count: int) -> list:
    """Images, the same each time."""
    generator = torch.Generator().manual_seed(13)
    return [torch.randn(5, 1, 8, 8, generator=generator) for _ in range(count)]


def prepare_eager(model, qconfig):
    """By modules: the prepared model, and what converts it."""
    model = quantization.fuse_modules(model, [["body.0", "body.1", "body.2"]])
    model.qconfig = qconfig
    return quantization.prepare(model), quantization.convert


def prepare_graph(model, qconfig):
    """By its graph."""
    mapping = quantization.QConfigMapping().set_global(qconfig)
    return quantize_fx.prepare_fx(model, mapping, batches(1)), quantize_fx.convert_fx


def converted_state(model) -> dict:
    """All numbers of a converted model."""
    state = {}
    for name, value in model.state_dict().items():
        if isinstance(value, tuple):  # packed weight and bias
            weight, bias = value
            value = weight
            state[f"{name}.bias"] = bias
        if isinstance(value, torch.Tensor) and value.is_quantized:
            state[f"{name}.codes"] = value.int_repr()
            per_tensor = value.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric)
            state[f"{name}.scale"] = value.q_scale() if per_tensor else value.q_per_channel_scales()
            state[f"{name}.zero_point"] = value.q_zero_point() if per_tensor else value.q_per_channel_zero_points()
        elif isinstance(value, (torch.Tensor, int, float)):
            state[name] = value
    return state


def main() -> None:
    """A worker: it has every WORKERS-th batch, and rank 0 the weights."""
    import calibd
    import calibd.torch

    address, session_name, method, rank, workers, out = sys.argv[1:]
    os.environ["RANK"], os.environ["WORLD_SIZE"] = rank, workers
    qconfig = calibd.torch.qconfig(activation={"method": method}, weight={"method": method})
    with calibd.connect(address) as client:
        session = client.session(session_name)
        prepared, convert = prepare_graph(CNN(), qconfig)
        attachment = calibd.torch.attach(prepared, session)
        for batch in batches(BATCHES)[int(rank) :: int(workers)]:
            prepared(batch)
        attachment.close()
        print("flushed", flush=True)
        sys.stdin.readline()
        torch.save(converted_state(convert(prepared)), out)
        session.close()


if __name__ == "__main__":
    main()
