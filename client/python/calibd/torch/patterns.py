"""Counts of 16-bit patterns as statistics.

A float16 or bfloat16 tensor is known, but for its order, by how often it holds each of the 65,536 patterns. Of a float32
tensor the patterns are the upper halves of its elements, and beside them stand its extremes and whether any lower half
had a bit set.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import numpy.typing as npt

from calibd.histogram import Bfloat16Histogram
from calibd.statistics import TensorStatistics

PATTERNS = 1 << 16
_HALF = np.arange(PATTERNS, dtype=np.uint32).astype(np.uint16)


def bfloat16_statistics(
    counts: npt.NDArray[np.int64], mantissa_bits: Optional[int], *, lossless: npt.ArrayLike = True
) -> TensorStatistics:
    """Of counts[channels, 65536] by the bits of bfloat16 numbers, which min and max are taken from.

    mantissa_bits: of the histogram; None: there is none. Infinities are 0x7F80 and 0xFF80, every other pattern of their
    page is a NaN.
    """
    channels = len(counts)
    statistics = TensorStatistics(channels, mantissa_bits)
    statistics.positive_infinity[:] = counts[:, 0x7F80]
    statistics.negative_infinity[:] = counts[:, 0xFF80]
    non_finite = counts[:, 0x7F80:0x8000].sum(axis=1) + counts[:, 0xFF80:].sum(axis=1)
    statistics.nan[:] = non_finite.astype(np.uint64) - statistics.positive_infinity - statistics.negative_infinity
    statistics.count[:] = (counts.sum(axis=1) - non_finite).astype(np.uint64)
    for channel in range(channels):
        if statistics.count[channel]:
            statistics.min[channel], statistics.max[channel] = _extremes(counts[channel])
    if mantissa_bits is not None:
        statistics.histogram = Bfloat16Histogram.from_dense(counts, lossless, mantissa_bits)
    return statistics


def float32_statistics(
    counts: npt.NDArray[np.int64],
    least: npt.NDArray[np.float32],
    greatest: npt.NDArray[np.float32],
    lossless: npt.ArrayLike,
    mantissa_bits: Optional[int],
) -> TensorStatistics:
    """Of counts[channels, 65536] by the upper halves of float32 numbers.

    Every NaN must have been counted as one whose upper half tells it from an infinity. least and greatest: the finite
    extremes of each channel, not read where it has none. lossless: whether all lower halves were zero.
    """
    statistics = bfloat16_statistics(counts, mantissa_bits, lossless=lossless)
    some = statistics.count > 0
    for extreme, exact in ((statistics.min, least), (statistics.max, greatest)):
        extreme[some] = exact[some]
        extreme[extreme.view(np.uint32) == 0x80000000] = 0  # -0, told by its bits
    return statistics


def float16_statistics(counts: npt.NDArray[np.int64], mantissa_bits: Optional[int]) -> TensorStatistics:
    """Of counts[channels, 65536] by the bits of float16 numbers."""
    bits = _HALF.view(np.float16).astype(np.float32).view(np.uint32)
    nan = np.isnan(_HALF.view(np.float16))
    upper = np.where(nan, 0x7FC0, bits >> 16).astype(np.int64)
    finite = (_HALF & 0x7C00) != 0x7C00
    folded = np.zeros_like(counts)
    channels, seen = np.nonzero(counts)
    np.add.at(folded, (channels, upper[seen]), counts[channels, seen])
    lossy = ((bits & 0xFFFF) != 0) & finite
    least, greatest = np.zeros((2, len(counts)), np.float32)
    for channel, row in enumerate(counts):
        present = bits.view(np.float32)[(row > 0) & finite]
        if len(present):  # no subnormal numbers: float16's are normal float32 ones
            least[channel], greatest[channel] = present.min(), present.max()
    return float32_statistics(folded, least, greatest, ~(counts[:, lossy] > 0).any(axis=1), mantissa_bits)


def _extremes(row: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Least and greatest of the finite bfloat16 numbers that are counted, of which there is one; -0 is 0."""
    positive = np.flatnonzero(row[:0x7F80])
    negative = np.flatnonzero(row[0x8000:0xFF80])
    least = 0x8000 | negative[-1] if len(negative) else positive[0]
    greatest = positive[-1] if len(positive) else 0x8000 | negative[0]
    bits = np.array([0 if key == 0x8000 else key for key in (least, greatest)], np.uint32)
    return (bits << 16).view(np.float32)
