"""Counts of values on equal-width bins, as the frameworks whose histograms are reproduced make them.

The same counts as quant/reference_grid.h, value for value: NumPy's and PyTorch's own functions have changed between
releases, so their arithmetic is written out here.
"""

from __future__ import annotations

import math
from typing import Any, Callable

import numpy as np
import numpy.typing as npt

_Bins = npt.NDArray[np.int64]

_FLOAT_MAX = float(np.finfo(np.float32).max)
_BLOCK = 1 << 20  # values at a time, so that temporary arrays stay small


def count_on_grid(rule: str, low: float, high: float, bins: int, values: npt.NDArray[np.float32]) -> _Bins:
    """Counts the finite values on `bins` equal bins from `low` to `high`: numpy.histogram's edges and fix-ups for the
    rules "megengine" and "mxnet", torch.histc's float32 arithmetic for "pytorch" and "pytorch_current". Values outside
    are dropped; the last bin is closed.

    values: float32, of any shape. Returns int64 [bins]. Raises ValueError when the ends are not finite or cross."""
    if not low <= high or not math.isfinite(high - low):
        raise ValueError(f"no bins can lie from {low} to {high}")
    counts = np.zeros(bins, np.int64)
    if bins == 0:
        return counts
    bin_of = _numpy_bins(low, high, bins) if rule in ("megengine", "mxnet") else _histc_bins(rule, low, high, bins)
    values = values.reshape(-1)
    with np.errstate(all="ignore"):
        for begin in range(0, values.size, _BLOCK):
            block = values[begin : begin + _BLOCK]
            counts += np.bincount(bin_of(block[np.isfinite(block)]), minlength=bins)
    return counts


def _numpy_bins(low: float, high: float, bins: int) -> Callable[[npt.NDArray[np.float32]], _Bins]:
    """numpy.histogram (1.24, numpy/lib/histograms.py) of a float32 array on a range of doubles: the edges are float32,
    the first guess is float32 arithmetic, and the two edges beside it decide. In double where float32 would
    overflow."""
    real: Any = np.float32 if _fits_float32(low, high) else np.float64
    with np.errstate(all="ignore"):
        norm = np.float64(bins) / (np.float64(high) - np.float64(low))
        edges = np.arange(bins + 1, dtype=np.float64) * (np.float64(high - low) / bins) + low
        edges[bins] = high
        edges = edges.astype(real)
    first, last = real(low), real(high)

    def bin_of(values: npt.NDArray[np.float32]) -> _Bins:
        x = values.astype(real, copy=False)
        x = x[(x >= first) & (x <= last)]
        distance = x - first
        # NumPy keeps a factor beyond float32 as a double.
        guess = distance * norm if norm > _FLOAT_MAX else (distance * real(norm)).astype(np.float64)
        # Of a width that rounds to nothing NumPy makes a NaN and fails.
        guess = np.where(np.isnan(guess), 0, np.minimum(guess, bins - 1))
        index = guess.astype(np.int64)
        index -= x < edges[index]
        index += (index != bins - 1) & (x >= edges[index + 1])
        return np.maximum(index, 0)

    return bin_of


def _histc_bins(rule: str, low: float, high: float, bins: int) -> Callable[[npt.NDArray[np.float32]], _Bins]:
    """torch.histc of a float32 tensor (aten/src/ATen/native/cpu/HistogramKernel.cpp): no edges. PyTorch 1.13 divides by
    the width, then multiplies with the number of bins; since 2.1 at the latest it is the other way round. In double
    where float32 would overflow."""
    fits = _fits_float32(low, high) and (high - low) * bins <= _FLOAT_MAX
    real: Any = np.float32 if fits else np.float64
    first, last = real(low), real(high)
    width = last - first

    def bin_of(values: npt.NDArray[np.float32]) -> _Bins:
        x = values.astype(real, copy=False)
        x = x[(x >= first) & (x <= last)]
        if width == 0:
            return np.zeros(x.size, np.int64)
        distance = x - first
        scaled = distance / width * real(bins) if rule == "pytorch" else distance * real(bins) / width
        index: _Bins = np.minimum(scaled.astype(np.int64), bins - 1)
        return index

    return bin_of


def _fits_float32(low: float, high: float) -> bool:
    return low >= -_FLOAT_MAX and high <= _FLOAT_MAX and high - low <= _FLOAT_MAX
