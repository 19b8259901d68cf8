"""Counting tensors that lie in the host's memory: exact, per tensor, with little to do for each call.

calibd.observe makes statistics of every array anew. Here a table is kept from one tensor to the next, and PyTorch's
scatter_add_ counts into it, which np.bincount cannot.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
import torch

from calibd.statistics import TensorStatistics, from_ordered
from calibd.torch import patterns

_BLOCK = 1 << 16  # elements that are read several times while they are in the cache
_UPPER, _LOWER = (1, 0) if sys.byteorder == "little" else (0, 1)
_SIGN = 0x80000000
_INFINITY = 0x7F800000
_NONE = 1 << 40  # beyond every ordered number

_Words = npt.NDArray[Any]  # the elements' bits: uint32, or uint16 of the halves and of other types


class HostCounter:
    """Counts the elements of CPU tensors of one dtype: float32, float16 or bfloat16. Not thread-safe.

    Every element counts, of any shape and strides. Works on bits alone, so that it counts subnormal numbers also in
    threads that flush them to zero.
    """

    def __init__(self, dtype: torch.dtype, histogram: bool) -> None:
        """histogram: whether a histogram is wanted, and not just the range."""
        self._dtype = dtype
        self._histogram = histogram
        self._counts: Optional[torch.Tensor] = None
        if histogram or dtype is not torch.float32:
            self._table = np.zeros(patterns.PATTERNS, np.int64)  # memory of patterns that never come is never touched
            with torch.inference_mode(False):  # it is added to later, too
                self._counts = torch.from_numpy(self._table)
        # Of float32: the finite extremes, as integers in the order of the numbers (calibd.statistics.ordered_bits).
        self._least, self._greatest = _NONE, -_NONE
        self._lossless = True
        # Counted where there is no table.
        self._finite = self._nan = self._positive_infinity = self._negative_infinity = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Counts all elements."""
        words = words_of(tensor)
        if self._dtype is not torch.float32:
            for begin in range(0, len(words), _BLOCK):
                self._count(words[begin : begin + _BLOCK])
            return
        for begin in range(0, len(words), _BLOCK):
            block = words[begin : begin + _BLOCK]
            greatest, farthest = _ends(block)
            if greatest >= _INFINITY or farthest >= _SIGN + _INFINITY:
                self._add_with_non_finite(block)
            else:
                self._add_finite(block, greatest, farthest)

    def _add_finite(self, block: _Words, greatest: int, farthest: int) -> None:
        self._finite += len(block)
        one_sided = greatest < 0 or farthest < _SIGN
        if one_sided and (self._greatest < 0 if greatest < 0 else self._least > 0):
            nearest = int(block.min())  # that end of the range is the word nearest to zero
        else:
            nearest = 0
        if greatest >= 0 or nearest:
            self._greatest = max(self._greatest, greatest if greatest >= 0 else _SIGN - nearest)
        if farthest >= _SIGN or one_sided:
            self._least = min(self._least, _SIGN - farthest if farthest >= _SIGN else nearest)
        if self._counts is not None:
            halves = block.view(np.uint16)
            if self._lossless and halves[_LOWER::2].any():
                self._lossless = False
            self._count(halves[_UPPER::2])

    def _add_with_non_finite(self, block: _Words) -> None:
        magnitudes = block & (_SIGN - 1)
        nan, positive, negative = magnitudes > _INFINITY, block == _INFINITY, block == _SIGN + _INFINITY
        counts = [int(np.count_nonzero(kind)) for kind in (nan, positive, negative)]
        self._nan += counts[0]
        self._positive_infinity += counts[1]
        self._negative_infinity += counts[2]
        finite = block[magnitudes < _INFINITY]
        if len(finite):
            self._add_finite(finite, *_ends(finite))

    def _count(self, keys: _Words) -> None:
        scratch = _SCRATCH.get()
        np.copyto(scratch.index_array[: len(keys)], keys)
        index, ones = scratch.index, scratch.ones
        if len(keys) < _BLOCK:
            index, ones = index[: len(keys)], ones[: len(keys)]
        self._counts.scatter_add_(0, index, ones)  # type: ignore[union-attr]

    def statistics(self, mantissa_bits: int) -> TensorStatistics:
        """What was counted, as one channel."""
        bits = mantissa_bits if self._histogram else None
        if self._dtype is not torch.float32:
            of = patterns.float16_statistics if self._dtype is torch.float16 else patterns.bfloat16_statistics
            return of(self._table[np.newaxis], bits)
        statistics = TensorStatistics(1, bits)
        statistics.count[0], statistics.nan[0] = self._finite, self._nan
        statistics.positive_infinity[0] = self._positive_infinity
        statistics.negative_infinity[0] = self._negative_infinity
        if self._finite:
            statistics.min[0], statistics.max[0] = from_ordered(np.array([self._least, self._greatest], np.int64))
        if bits is not None:
            statistics.histogram = patterns.histogram(self._table[np.newaxis], self._lossless, bits)
        return statistics


def _ends(words: _Words) -> Tuple[int, int]:
    """The greatest signed word, which the greatest number has, and the greatest unsigned one, which the least has."""
    signed: npt.NDArray[Any] = words.view(np.int32)
    return int(signed.max()), int(words.max())


def words_of(tensor: torch.Tensor) -> _Words:
    """The bits of all elements, one-dimensional and contiguous, in whatever order needs no copy, if one does."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not tensor.is_contiguous():
        dense = tensor.permute(sorted(range(tensor.dim()), key=lambda axis: -tensor.stride(axis)))
        tensor = dense if dense.is_contiguous() else tensor.contiguous()
    if tensor.dtype is torch.float32:
        array: npt.NDArray[np.float32] = tensor.numpy()
        return array.reshape(-1).view(np.uint32)
    halves: npt.NDArray[np.int16] = tensor.view(torch.int16).numpy()
    return halves.reshape(-1).view(np.uint16)


class _Buffers(NamedTuple):
    index: torch.Tensor  # room for a block's indices
    index_array: npt.NDArray[np.int64]  # the same memory
    ones: torch.Tensor


class _Scratch(threading.local):
    buffers: Optional[_Buffers] = None

    def get(self) -> _Buffers:
        """Of this thread."""
        if self.buffers is None:
            with torch.inference_mode(False):
                index = torch.empty(_BLOCK, dtype=torch.int64)
                self.buffers = _Buffers(index, index.numpy(), torch.ones(_BLOCK, dtype=torch.int64))
        return self.buffers


_SCRATCH = _Scratch()
