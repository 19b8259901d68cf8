"""Scales and zero points as torch.optim learns them in one process: reads JSON requests from standard input, one a
line, and prints the parameters after each step. The first line that it prints is PyTorch's version; none where there is
no PyTorch.

Started as a process of its own: PyTorch's kernels for AVX2 fuse multiplications and additions, and which ones it uses
is settled when it is imported."""

from __future__ import annotations

import json
import os
import sys

os.environ["ATEN_CPU_CAPABILITY"] = "default"

try:
    import torch
except ImportError:
    sys.exit()

SCALE_FLOOR = 2.0**-23  # of preset pytorch, as PyTorch's _LearnableFakeQuantize clamps


def learn(request):
    scale = torch.tensor(request["scale"], dtype=torch.float32, requires_grad=True)
    zero_point = torch.tensor(request["zero_point"], dtype=torch.float32, requires_grad=True)
    optimizer = getattr(torch.optim, request["optimizer"])([scale, zero_point], **request["options"])
    for of_scale, of_zero_point in request["gradients"]:
        scale.grad = torch.tensor(of_scale, dtype=torch.float64).to(torch.float32)
        zero_point.grad = torch.tensor(of_zero_point, dtype=torch.float64).to(torch.float32)
        if not request["affine"]:
            zero_point.grad = None
        optimizer.step()
        with torch.no_grad():
            scale.clamp_(min=SCALE_FLOOR)
            zero_point.clamp_(request["qmin"], request["qmax"])
        yield [scale.detach().double().tolist(), zero_point.detach().double().tolist()]


if __name__ == "__main__":
    print(torch.__version__, flush=True)
    for line in sys.stdin:
        print(json.dumps(list(learn(json.loads(line)))), flush=True)
