"""Counting tensors that lie in the host's memory: exact, per tensor, with little to do for each call.

calibd.observe makes statistics of every array anew. Here a table is kept from one tensor to the next, and PyTorch's
scatter_add_ counts into it, which np.bincount cannot; small tensors wait until there are enough of them to count.
"""

from __future__ import annotations

import sys
import threading
from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt
import torch

from calibd.runs import FLOAT32, NOTHING, Words, observe_run, statistics_of
from calibd.statistics import TensorStatistics
from calibd.torch import patterns

_BLOCK = 1 << 16  # elements that are read several times while they are in the cache
_BLOCK_OF_RANGES = _BLOCK // 8  # room for small tensors where there is no table, which would dwarf it
_UPPER = 1 if sys.byteorder == "little" else 0


class HostCounter:
    """Counts the elements of CPU tensors of one dtype: float32, float16 or bfloat16. Not thread-safe.

    Every element counts, of any shape and strides. Works on bits alone, so that it counts subnormal numbers also in
    threads that flush them to zero. Takes up to 768 KiB: a table of half a megabyte, of which memory for patterns that
    never come is never touched, and room for small tensors once one comes that is not the first. Of float32 without a
    histogram it has no table and takes up to 32 KiB.

    An exception that a signal handler raises in the middle of a call can lose tensors that were not counted before it.
    None counts twice, and the statistics agree with one another.
    """

    def __init__(self, dtype: torch.dtype, histogram: bool) -> None:
        """histogram: whether a histogram is wanted, and not just the range."""
        self._dtype = dtype
        self._histogram = histogram
        self._counts: Optional[torch.Tensor] = None
        if histogram or dtype is not torch.float32:
            self._table = np.zeros(patterns.PATTERNS, np.int64)
            with torch.inference_mode(False):  # it is added to later, too
                self._counts = torch.from_numpy(self._table)
        self._run = NOTHING._replace(lossless=histogram)  # of float32
        self._next_run = self._run  # another one only while it is added to the table
        self._begun = False
        self._room = _BLOCK if self._counts is not None else _BLOCK_OF_RANGES
        self._waiting: Optional[Words] = None
        self._waiting_words = 0

    def add(self, tensor: torch.Tensor) -> None:
        """Counts all elements."""
        words = words_of(tensor)
        if self._begun and len(words) <= self._room // 4:
            self._keep(words)
            return
        self._begun = True  # a counter of a single tensor needs no room for others
        for begin in range(0, len(words), _BLOCK):
            self._count(words[begin : begin + _BLOCK])

    def _keep(self, words: Words) -> None:
        if self._waiting is None:
            self._waiting = np.empty(self._room, words.dtype)
        if self._waiting_words + len(words) > self._room:
            self._count_waiting()
        end = self._waiting_words + len(words)
        self._waiting[end - len(words) : end] = words
        self._waiting_words = end

    def _count_waiting(self) -> None:
        if self._waiting is None or not self._waiting_words:
            return
        words = self._waiting[: self._waiting_words]
        self._waiting_words = 0  # before they are counted: an interrupt must not leave them to be counted again
        self._count(words)

    def _count(self, words: Words) -> None:
        """REQUIRES: 1 to _BLOCK words."""
        if self._counts is None:
            self._run = observe_run(words, FLOAT32, self._run)
            return
        keys = words
        if self._dtype is torch.float32:
            self._settle()
            self._next_run = observe_run(words, FLOAT32, self._run)
            keys = words.view(np.uint16)[_UPPER::2]
        index, index_array, ones = _SCRATCH.get()
        if len(keys) < _BLOCK:
            index, index_array, ones = index[: len(keys)], index_array[: len(keys)], ones[: len(keys)]
        np.copyto(index_array, keys)
        self._counts.scatter_add_(0, index, ones)
        self._run = self._next_run

    def _settle(self) -> None:
        """Makes the run that of what the table holds, where an interrupt left open whether it was added to."""
        if self._next_run is not self._run and self._table.sum() == sum(self._next_run[:4]):
            self._run = self._next_run
        self._next_run = self._run

    def statistics(self, mantissa_bits: int) -> TensorStatistics:
        """What was counted, as one channel."""
        self._count_waiting()
        bits = mantissa_bits if self._histogram else None
        if self._dtype is not torch.float32:
            of = patterns.float16_statistics if self._dtype is torch.float16 else patterns.bfloat16_statistics
            return of(self._table[np.newaxis], bits)
        if bits is not None:
            self._settle()
        statistics = statistics_of(np.array([self._run], np.int64), bits)
        if bits is not None:
            statistics.histogram = patterns.histogram(self._table[np.newaxis], self._run.lossless, bits)
        return statistics


def words_of(tensor: torch.Tensor) -> Words:
    """The bits of all elements, one-dimensional and contiguous, in whatever order needs no copy, if one does."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    tensor = tensor.resolve_neg()
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
    ones: torch.Tensor  # in full: scatter_add_ takes longer with one number expanded


class _Scratch(threading.local):
    buffers: Optional[_Buffers] = None

    def get(self) -> _Buffers:
        """Of this thread."""
        if self.buffers is None:
            with torch.inference_mode(False):
                index = torch.empty(_BLOCK, dtype=torch.int64, device="cpu")
                ones = torch.ones(_BLOCK, dtype=torch.int64, device="cpu")
                self.buffers = _Buffers(index, index.numpy(), ones)
        return self.buffers


_SCRATCH = _Scratch()
