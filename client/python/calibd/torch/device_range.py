"""Ranges of tensors, taken on the device where these are, without waiting for it."""

from __future__ import annotations

import math
from typing import Iterator, Optional, Tuple

import numpy as np
import numpy.typing as npt
import torch

from calibd.statistics import TensorStatistics
from calibd.torch import patterns

_PART = 1 << 24  # elements that take working memory at a time


def row_parts(tensor: torch.Tensor, channel_axis: Optional[int]) -> Iterator[torch.Tensor]:
    """The tensor as [channels, elements], contiguous, in parts of the second dimension. None: one channel."""
    if tensor.numel() == 0:
        return
    channels = 1 if channel_axis is None else tensor.shape[channel_axis]
    tensor = tensor.resolve_neg()
    rows = (tensor if channel_axis is None else tensor.movedim(channel_axis, 0)).reshape(channels, -1)
    for part in rows.split(max(1, _PART // channels), dim=1):
        # contiguous() keeps any stride of a dimension of one element, which view() of another dtype refuses.
        yield part.contiguous().as_strided(part.shape, (part.shape[1], 1))


class DeviceExtremes:
    """Least and greatest finite float32 value of each channel, on the device."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self._least = torch.full((channels,), math.inf, dtype=torch.float32, device=device)
        self._greatest = torch.full((channels,), -math.inf, dtype=torch.float32, device=device)

    def add(self, rows: torch.Tensor) -> None:
        """Widens them to float32[channels, elements]."""
        least = torch.nan_to_num(rows, nan=math.inf, posinf=math.inf, neginf=math.inf).amin(dim=1)
        greatest = torch.nan_to_num(rows, nan=-math.inf, posinf=-math.inf, neginf=-math.inf).amax(dim=1)
        torch.minimum(self._least, least, out=self._least)
        torch.maximum(self._greatest, greatest, out=self._greatest)

    def pack(self) -> torch.Tensor:
        """int64[2 channels] on the device."""
        return torch.cat((self._least, self._greatest)).view(torch.int32).to(torch.int64)

    @staticmethod
    def unpack(packed: npt.NDArray[np.int64]) -> Tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Least and greatest of pack()'s numbers on the host; infinities where there was no value. -0 stays."""
        extremes = packed.astype(np.int32).view(np.float32)
        return extremes[: len(extremes) // 2], extremes[len(extremes) // 2 :]


class DeviceRange:
    """Extremes and counts of tensors of one device. Otherwise as DeviceCounter; some bytes a channel."""

    def __init__(self, device: torch.device, channels: int) -> None:
        self.device = device
        self.channels = channels
        self._values = 0  # of each channel
        with torch.inference_mode(False):
            self._extremes = DeviceExtremes(channels, device)
            self._non_finite = torch.zeros((3, channels), dtype=torch.int64, device=device)

    @property
    def elements_held(self) -> int:
        """int64 numbers that pack() makes of it."""
        return 5 * self.channels

    @torch.no_grad()
    def add(self, tensor: torch.Tensor, channel_axis: Optional[int]) -> None:
        """Counts all elements. channel_axis: None when there is one channel."""
        for rows in row_parts(tensor.detach(), channel_axis):
            rows = rows.to(torch.float32)
            self._values += rows.shape[1]
            self._extremes.add(rows)
            kinds = (rows.isnan(), rows.eq(math.inf), rows.eq(-math.inf))
            self._non_finite.add_(torch.stack([kind.sum(dim=1) for kind in kinds]))

    def pack(self) -> torch.Tensor:
        """All of it as int64[elements_held] on the device, for `unpack`."""
        return torch.cat((self._extremes.pack(), self._non_finite.view(-1)))

    def unpack(self, packed: npt.NDArray[np.int64], mantissa_bits: int) -> TensorStatistics:
        """What was counted, of pack()'s numbers on the host; without a histogram, whatever the bits."""
        least, greatest = DeviceExtremes.unpack(packed[: 2 * self.channels])
        statistics = TensorStatistics(self.channels)
        nan, positive, negative = packed[2 * self.channels :].reshape(3, -1).astype(np.uint64)
        statistics.nan, statistics.positive_infinity, statistics.negative_infinity = nan, positive, negative
        statistics.count[:] = np.uint64(self._values) - nan - positive - negative
        patterns.set_extremes(statistics, least, greatest)
        return statistics
