"""Counts of 16-bit patterns as statistics.

A float16 or bfloat16 tensor is known, but for its order, by how often it holds each of the 65,536 patterns. Of a
float32 tensor the patterns are the upper halves of its elements, and beside them stand its extremes and whether any
lower half had a bit set.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import numpy.typing as npt

from calibd.histogram import Bfloat16Histogram
from calibd.statistics import TensorStatistics

PATTERNS = 1 << 16
_INFINITY = 0x7F80
_SIGN = 0x8000
_PAGE = 1 << 7
_HALF = np.arange(PATTERNS, dtype=np.uint32).astype(np.uint16)


def bfloat16_statistics(counts: npt.NDArray[np.int64], mantissa_bits: Optional[int]) -> TensorStatistics:
    """Of counts[channels, 65536] by the bits of bfloat16 numbers, which min and max are taken from.

    mantissa_bits: of the histogram; None: there is none.
    """
    return _statistics_of(counts, mantissa_bits, True)


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
    statistics = _statistics_of(counts, mantissa_bits, lossless)
    set_extremes(statistics, least, greatest)
    return statistics


def float16_statistics(counts: npt.NDArray[np.int64], mantissa_bits: Optional[int]) -> TensorStatistics:
    """Of counts[channels, 65536] by the bits of float16 numbers."""
    bits = _HALF.view(np.float16).astype(np.float32).view(np.uint32)
    finite = (_HALF & 0x7C00) != 0x7C00
    infinite = (_HALF & 0x7FFF) == 0x7C00
    upper = np.where(finite | infinite, bits >> 16, 0x7FC0).astype(np.int64)
    lossy = finite & ((bits & 0xFFFF) != 0)
    widened = np.zeros_like(counts)
    least, greatest = np.zeros((2, len(counts)), np.float32)
    lossless = np.ones(len(counts), bool)
    for channel, row in enumerate(counts):
        present = _present(row)
        np.add.at(widened[channel], upper[present], row[present])
        lossless[channel] = not lossy[present].any()
        values = bits.view(np.float32)[present[finite[present]]]
        if len(values):  # none is subnormal: float16's subnormal numbers are normal float32 ones
            least[channel], greatest[channel] = values.min(), values.max()
    return float32_statistics(widened, least, greatest, lossless, mantissa_bits)


def histogram(counts: npt.NDArray[np.int64], lossless: npt.ArrayLike, mantissa_bits: int) -> Bfloat16Histogram:
    """Of counts[channels, 65536] by the upper halves of float32 numbers; non-finite ones are left out."""
    pages = _touched_pages(counts)
    return Bfloat16Histogram.from_pages(pages, _by_page(counts)[:, pages], lossless, mantissa_bits)


def set_extremes(
    statistics: TensorStatistics, least: npt.NDArray[np.float32], greatest: npt.NDArray[np.float32]
) -> None:
    """Sets min and max of the channels that have a finite value. -0 becomes 0."""
    some = statistics.count > 0
    for extreme, exact in ((statistics.min, least), (statistics.max, greatest)):
        extreme[some] = exact[some]
        extreme[extreme.view(np.uint32) == 0x80000000] = 0  # told by its bits: -0 == 0


def _statistics_of(
    counts: npt.NDArray[np.int64], mantissa_bits: Optional[int], lossless: npt.ArrayLike
) -> TensorStatistics:
    statistics = TensorStatistics(len(counts), mantissa_bits)
    for channel, row in enumerate(counts):
        finite = _finite_keys(row)
        statistics.count[channel] = row[finite].sum()
        statistics.positive_infinity[channel] = row[_INFINITY]
        statistics.negative_infinity[channel] = row[_SIGN + _INFINITY]
        statistics.nan[channel] = row[_INFINITY + 1 : _SIGN].sum() + row[_SIGN + _INFINITY + 1 :].sum()
        if len(finite):
            statistics.min[channel], statistics.max[channel] = _extremes(finite)
    if mantissa_bits is not None:
        statistics.histogram = histogram(counts, lossless, mantissa_bits)
    return statistics


def _by_page(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return counts.reshape(*counts.shape[:-1], PATTERNS // _PAGE, _PAGE)


def _touched_pages(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of counts[..., 65536]: pages that any of the channels has counts in, rising."""
    most = _by_page(counts).max(axis=-1)
    return np.flatnonzero(most.any(axis=0) if most.ndim > 1 else most)


def _present(row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Patterns that are counted, rising."""
    pages = _touched_pages(row)
    page, place = np.nonzero(_by_page(row)[pages])
    return pages[page] * _PAGE + place


def _finite_keys(row: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    keys = _present(row)
    return keys[(keys & (_SIGN - 1)) < _INFINITY]


def _extremes(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Least and greatest of bfloat16 numbers, given by their bits, rising; -0 is 0."""
    first_negative = int(np.searchsorted(keys, _SIGN))
    least = keys[-1] if first_negative < len(keys) else keys[0]
    greatest = keys[first_negative - 1] if first_negative else keys[0]
    bits = np.array([0 if key == _SIGN else key for key in (least, greatest)], np.uint32)
    return (bits << 16).view(np.float32)
