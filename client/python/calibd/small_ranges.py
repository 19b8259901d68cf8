"""Ranges of many small tensors at once: what NumPy takes for a call would otherwise be most of the time."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence

import numpy as np
import numpy.typing as npt

from calibd.statistics import TensorStatistics, from_ordered, ordered_bits

_MOST_ELEMENTS = 1 << 12
_FLOAT32 = np.dtype(np.float32)
_INFINITY = 0x7F800000


def is_small(data: Any) -> bool:
    """Whether it is a tensor that observe_small takes: float32 of the machine's byte order, a few elements."""
    return isinstance(data, np.ndarray) and data.dtype == _FLOAT32 and 0 < data.size <= _MOST_ELEMENTS


def observe_small(tensors: Sequence[Any]) -> List[Optional[TensorStatistics]]:
    """What `observe` says of each for a minmax observer per tensor; None of one that has values that are not finite."""
    if not tensors:
        return []
    flat = [tensor.reshape(-1) for tensor in tensors]
    sizes = np.array([tensor.size for tensor in flat])
    firsts = np.cumsum(sizes) - sizes
    values: npt.NDArray[np.float32] = np.concatenate(flat)
    finite = np.logical_and.reduceat((values.view(np.int32) & 0x7FFFFFFF) < _INFINITY, firsts)
    ordered = ordered_bits(values)
    least = from_ordered(np.minimum.reduceat(ordered, firsts).astype(np.int64))
    greatest = from_ordered(np.maximum.reduceat(ordered, firsts).astype(np.int64))
    count = sizes.astype(np.uint64)
    nan, positive, negative = np.zeros((3, len(flat)), np.uint64)  # not one for all: merging adds to each in place
    observed: List[Optional[TensorStatistics]] = []
    for i, is_finite in enumerate(finite.tolist()):
        if not is_finite:
            observed.append(None)
            continue
        statistics = TensorStatistics.__new__(TensorStatistics)
        row = slice(i, i + 1)
        statistics.count, statistics.min, statistics.max = count[row], least[row], greatest[row]
        statistics.nan = nan[row]
        statistics.positive_infinity, statistics.negative_infinity = positive[row], negative[row]
        statistics.histogram = None
        observed.append(statistics)
    return observed
