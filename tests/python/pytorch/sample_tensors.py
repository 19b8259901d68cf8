"""Tensors that statistics are compared on: dtypes, shapes, strides and the values at the edges of float32."""

from __future__ import annotations

from typing import Dict

import numpy as np
import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_EDGES = np.array(
    [
        *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x8000FFFF, 0x80010000, 0x007FFFFF, 0x807FFFFF),  # subnormal
        *(0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF),  # NaN, inf
        *(0x3F800000, 0x3F800001, 0xBF810000, 0x40490FDB),
    ],
    np.uint32,
)


def edges(dtype: torch.dtype) -> torch.Tensor:
    """Zeros, subnormals, the greatest numbers, infinities and NaN of several payloads, as this type has them."""
    if dtype is torch.float32:
        return torch.from_numpy(_EDGES.view(np.float32).copy())
    halves = np.concatenate((_EDGES >> 16, [0x0001, 0x8001, 0x03FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0xFE00]))
    return torch.from_numpy(halves.astype(np.uint16).view(np.int16)).view(dtype)


def strided(dtype: torch.dtype) -> Dict[str, torch.Tensor]:
    """Tensors of at least one dimension by what is special about them."""
    generator = torch.Generator().manual_seed(5)
    images = (3 * torch.randn(4, 6, 10, 5, generator=generator)).to(dtype)
    mixed = torch.cat((images.flatten()[: 3 * len(edges(dtype))], edges(dtype)))
    return {
        "contiguous": images,
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "transposed": images.transpose(0, 1),
        "permuted": images.permute(2, 0, 3, 1),
        "sliced": images[1:, ::2, 3:, ::3],
        "offset": images[2],
        "expanded": images[:, :1].expand(4, 7, 10, 5),
        "one expanded": torch.ones(1, dtype=dtype).mul(0.3).expand(5, 4),
        "one dimension": images.flatten(),
        "one value": images.flatten()[:1],
        "one value a channel": images[:1, :, 0, 0],
        "one value a channel, last": images[:1, 0, 0, :1],
        "one element of a row": images.view(1, -1)[..., -1],
        "one column": images.view(-1, 10)[:, :1],
        "every seventh of three": images.flatten()[:3][::7],
        "negative bit": torch._neg_view(images),
        "negative bit, transposed": torch._neg_view(images.transpose(0, 1)),
        "negative bit, strided": torch._neg_view(images[1:, ::2]),
        "empty": images[:0],
        "no channels": images[:, :, :, :0],
        "zeros": torch.zeros(3, 40, dtype=dtype),
        "negative zeros": torch.zeros(3, 40, dtype=dtype).neg(),
        "negative": -images.abs() - 1,
        "edges": mixed.view(4, -1),
        "all not a number": torch.full((2, 3), float("nan"), dtype=dtype),
        "long": torch.randn(3, 1, 70000, 2, generator=generator).relu().to(dtype),
        "requires gradients": images.clone().requires_grad_(),
    }
