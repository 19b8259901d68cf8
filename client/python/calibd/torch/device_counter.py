"""Histograms of tensors, counted on the device where these are, without waiting for it."""

from __future__ import annotations

import math
import sys
from typing import Optional

import numpy as np
import numpy.typing as npt
import torch

from calibd.statistics import TensorStatistics
from calibd.torch import patterns
from calibd.torch.device_range import DeviceExtremes, row_parts

_UPPER, _LOWER = (1, 0) if sys.byteorder == "little" else (0, 1)


class DeviceCounter:
    """Counts the elements of tensors of one dtype (float32, float16, bfloat16) and device. Not thread-safe.

    add only enqueues work on the current stream; no value is read back. All calls of a counter are to come from one
    stream. Half a megabyte a channel.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, channels: int) -> None:
        self.device = device
        self.channels = channels
        self._dtype = dtype
        with torch.inference_mode(False):
            self._counts = torch.zeros(channels * patterns.PATTERNS, dtype=torch.int64, device=device)
            self._one = torch.ones(1, dtype=torch.int64, device=device)
            self._first = torch.arange(channels, dtype=torch.int64, device=device).mul_(patterns.PATTERNS).view(-1, 1)
            self._extremes = DeviceExtremes(channels, device)
            self._lossy = torch.zeros(channels, dtype=torch.bool, device=device)

    @staticmethod
    def elements_of(channels: int) -> int:
        """int64 numbers that pack() makes of a counter of so many channels."""
        return channels * (patterns.PATTERNS + 3)

    @property
    def elements_held(self) -> int:
        """int64 numbers that pack() makes of it."""
        return self.elements_of(self.channels)

    @torch.no_grad()
    def add(self, tensor: torch.Tensor, channel_axis: Optional[int]) -> None:
        """Counts all elements. channel_axis: None when there is one channel."""
        for rows in row_parts(tensor.detach(), channel_axis):
            self._add(rows)

    def _add(self, rows: torch.Tensor) -> None:
        if self._dtype is not torch.float32:
            self._count(rows.view(torch.int16))
            return
        # One NaN for all of them: some differ from an infinity in the lower half alone.
        rows = torch.nan_to_num(rows, nan=math.nan, posinf=math.inf, neginf=-math.inf)
        halves = rows.view(torch.int16)
        self._count(halves[:, _UPPER::2])
        self._lossy.logical_or_(halves[:, _LOWER::2].ne(0).any(dim=1))
        self._extremes.add(rows)

    def _count(self, keys: torch.Tensor) -> None:
        index = keys.to(torch.int64).bitwise_and_(0xFFFF)
        if self.channels > 1:
            index.add_(self._first)
        self._counts.scatter_add_(0, index.view(-1), self._one.expand(index.numel()))

    def pack(self) -> torch.Tensor:
        """All of it as int64[elements_held] on the device, for `unpack`."""
        return torch.cat((self._counts, self._extremes.pack(), self._lossy.to(torch.int64)))

    def unpack(self, packed: npt.NDArray[np.int64], mantissa_bits: int) -> TensorStatistics:
        """What was counted, of pack()'s numbers on the host."""
        table = self.channels * patterns.PATTERNS
        counts = packed[:table].reshape(self.channels, patterns.PATTERNS)
        if self._dtype is torch.float16:
            return patterns.float16_statistics(counts, mantissa_bits)
        if self._dtype is torch.bfloat16:
            return patterns.bfloat16_statistics(counts, mantissa_bits)
        least, greatest = DeviceExtremes.unpack(packed[table : -self.channels])
        return patterns.float32_statistics(counts, least, greatest, packed[-self.channels :] == 0, mantissa_bits)
