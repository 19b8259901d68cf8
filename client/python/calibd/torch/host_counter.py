"""Counting tensors that lie in the host's memory: exact, per tensor, as fast as PyTorch's and NumPy's own loops allow."""

from __future__ import annotations

import math
import sys
import threading
from typing import Optional, Tuple

import numpy as np
import torch

from calibd.statistics import TensorStatistics
from calibd.torch import patterns

_BLOCK = 1 << 15  # elements that are read several times while they are in the cache
_UPPER, _LOWER = (1, 0) if sys.byteorder == "little" else (0, 1)
_LEAST_DOUBLE = 5e-324


def flushes_denormals() -> bool:
    """Whether this thread takes subnormal numbers for zero, as torch.set_flush_denormal makes it."""
    return _LEAST_DOUBLE == 0.0


class HostCounter:
    """Counts the elements of CPU tensors of one dtype: float32, float16 or bfloat16. Not thread-safe.

    Every element counts, of any shape and strides. REQUIRES: not flushes_denormals() in the threads that call add.
    """

    def __init__(self, dtype: torch.dtype, histogram: bool) -> None:
        """histogram: whether a histogram is wanted, and not just the range."""
        self._dtype = dtype
        self._histogram = histogram
        self._counts: Optional[torch.Tensor] = None
        if histogram or dtype is not torch.float32:
            # Memory of patterns that never come is never touched. Not for inference alone: it is added to later.
            with torch.inference_mode(False):
                self._counts = torch.zeros(patterns.PATTERNS, dtype=torch.int64)
        self._least, self._greatest = math.inf, -math.inf
        self._extremes = np.zeros(2, np.float32)  # as they are, where a double would have to be converted back
        self._lossless = True
        self._finite = 0
        self._nan = self._positive_infinity = self._negative_infinity = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Counts all elements."""
        flat = flatten(tensor.detach())
        if self._dtype is not torch.float32:
            self._count(flat.view(torch.int16).numpy().view(np.uint16))
            return
        halves = flat.numpy().view(np.uint16) if self._counts is not None else None
        for begin in range(0, len(flat), _BLOCK):
            block = flat[begin : begin + _BLOCK]
            least, greatest = torch.aminmax(block)
            if least.item() > -math.inf and greatest.item() < math.inf:
                self._finite += len(block)
                self._widen(least, greatest)
                if halves is not None:
                    self._add_halves(halves[2 * begin : 2 * (begin + _BLOCK)])
            else:
                self._add_with_non_finite(block.numpy())

    def _add_halves(self, halves: np.ndarray) -> None:
        if self._lossless and halves[_LOWER::2].any():
            self._lossless = False
        self._count(halves[_UPPER::2])

    def _add_with_non_finite(self, block: np.ndarray) -> None:
        nan = np.isnan(block)
        finite = block[np.isfinite(block)]
        self._nan += int(np.count_nonzero(nan))
        self._positive_infinity += int(np.count_nonzero(block == np.inf))
        self._negative_infinity += int(np.count_nonzero(block == -np.inf))
        self._finite += len(finite)
        if len(finite):
            self._widen(*torch.aminmax(torch.from_numpy(finite)))
        if self._counts is not None:
            self._add_halves(np.where(nan, np.float32(np.nan), block).view(np.uint16))

    def _widen(self, least: torch.Tensor, greatest: torch.Tensor) -> None:
        if least.item() < self._least:
            self._least, self._extremes[0] = least.item(), least.numpy()
        if greatest.item() > self._greatest:
            self._greatest, self._extremes[1] = greatest.item(), greatest.numpy()

    def _count(self, keys: np.ndarray) -> None:
        assert self._counts is not None
        index, index_array, ones = _scratch()
        for begin in range(0, len(keys), _BLOCK):
            block = keys[begin : begin + _BLOCK]
            np.copyto(index_array[: len(block)], block)
            self._counts.scatter_add_(0, index[: len(block)], ones[: len(block)])

    def statistics(self, mantissa_bits: int) -> TensorStatistics:
        """What was counted, as one channel."""
        bits = mantissa_bits if self._histogram else None
        counts = None if self._counts is None else self._counts.numpy().reshape(1, -1)
        if self._dtype is torch.float16:
            return patterns.float16_statistics(counts, bits)
        if self._dtype is torch.bfloat16:
            return patterns.bfloat16_statistics(counts, bits)
        if counts is not None:
            least, greatest = self._extremes[:1], self._extremes[1:]
            return patterns.float32_statistics(counts, least, greatest, self._lossless, bits)
        statistics = TensorStatistics(1)
        statistics.count[0], statistics.nan[0] = self._finite, self._nan
        statistics.positive_infinity[0], statistics.negative_infinity[0] = self._positive_infinity, self._negative_infinity
        if self._finite:
            extremes = np.where(self._extremes.view(np.uint32) == 0x80000000, np.float32(0), self._extremes)
            statistics.min[0], statistics.max[0] = extremes
        return statistics


def flatten(tensor: torch.Tensor) -> torch.Tensor:
    """All elements, in one dimension without gaps and in whatever order needs no copy, if one does."""
    if not tensor.is_contiguous():
        dense = tensor.permute(sorted(range(tensor.dim()), key=lambda axis: -tensor.stride(axis)))
        tensor = dense if dense.is_contiguous() else tensor
    return tensor.reshape(-1).contiguous()


class _Scratch(threading.local):
    arrays: Optional[Tuple[torch.Tensor, np.ndarray, torch.Tensor]] = None


_OF_THREAD = _Scratch()


def _scratch() -> Tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Of this thread: room for a block's indices, the same memory as an array, and as many ones."""
    if _OF_THREAD.arrays is None:
        with torch.inference_mode(False):
            index = torch.empty(_BLOCK, dtype=torch.int64)
            _OF_THREAD.arrays = index, index.numpy(), torch.ones(_BLOCK, dtype=torch.int64)
    return _OF_THREAD.arrays
