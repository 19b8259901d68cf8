"""Merging is exact, commutes, associates, and refuses what would overflow."""

from __future__ import annotations

import numpy as np
import pytest
from calibd.config import Observer
from calibd.errors import InvalidArgumentError, OutOfRangeError
from calibd.histogram import Bfloat16Histogram
from calibd.observe import observe
from calibd.statistics import TensorStatistics


def counted(values: np.ndarray, mantissa_bits: int = 7) -> TensorStatistics:
    return observe(np.asarray(values, np.float32), Observer("histogram"), mantissa_bits)


def random_values(seed: int, size: int = 200) -> np.ndarray:
    bits = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    return bits.view(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_merging_commutes_and_associates(seed: int) -> None:
    a, b, c = (counted(random_values(3 * seed + i)) for i in range(3))
    left, right = a.copy(), b.copy()
    left.merge(b)
    left.merge(c)
    right.merge(c)
    right.merge(a)
    assert left == right == counted(np.concatenate([random_values(3 * seed + i) for i in range(3)]))


@pytest.mark.parametrize("mantissa_bits", [4, 5, 6, 7])
def test_finer_statistics_merge_into_coarser_ones(mantissa_bits: int) -> None:
    coarse = counted(random_values(1), mantissa_bits)
    coarse.merge(counted(random_values(2)))
    assert coarse == counted(np.concatenate([random_values(1), random_values(2)]), mantissa_bits)


def test_coarser_statistics_do_not_merge_into_finer_ones() -> None:
    fine = counted(random_values(1))
    before = fine.copy()
    with pytest.raises(InvalidArgumentError, match="4 mantissa bits"):
        fine.merge(counted(random_values(2), 4))
    assert fine == before


def test_an_empty_histogram_is_the_identity() -> None:
    statistics = counted(np.array([-1.5, 0.0, 3.0]))
    before = statistics.copy()
    statistics.merge(TensorStatistics(1, 7))
    assert statistics == before
    empty = TensorStatistics(1, 7)
    empty.merge(before)
    assert empty == before


def test_zero_does_not_count_as_a_range_before_the_first_value() -> None:
    statistics = TensorStatistics(1, 7)
    statistics.merge(counted(np.array([5.0, 7.0])))
    assert (statistics.min[0], statistics.max[0]) == (5.0, 7.0)
    statistics.merge(counted(np.array([np.nan, -np.inf])))
    assert (statistics.min[0], statistics.max[0]) == (5.0, 7.0)
    assert (statistics.count[0], statistics.nan[0], statistics.negative_infinity[0]) == (2, 1, 1)


def test_counts_never_wrap() -> None:
    counts = np.zeros((1, 65536), np.uint64)
    counts[0, 0x3F80] = 2**64 - 2
    full = TensorStatistics(1, 7)
    full.count[:] = 2**64 - 2
    full.min[:] = full.max[:] = 1.0
    full.histogram = Bfloat16Histogram.from_dense(counts, True)
    one = counted(np.array([1.0]))
    full.merge(one)
    assert int(full.count[0]) == 2**64 - 1
    before = full.copy()
    for more in (one, counted(np.array([np.nan]))):
        with pytest.raises(OutOfRangeError):
            full.merge(more)
        assert full == before
    assert full.histogram is not None and one.histogram is not None
    with pytest.raises(OutOfRangeError):
        full.histogram.merge(one.histogram)


def test_other_channel_counts_and_kinds_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="now given 2"):
        TensorStatistics(1, 7).merge(TensorStatistics(2, 7))
    with pytest.raises(InvalidArgumentError, match="without a histogram"):
        TensorStatistics(1, 7).merge(TensorStatistics(1))
    with pytest.raises(InvalidArgumentError, match="with a histogram"):
        TensorStatistics(1).merge(TensorStatistics(1, 7))
    with pytest.raises(InvalidArgumentError, match="mantissa_bits is 8"):
        TensorStatistics(1, 8)


def test_negative_zero_folds_into_key_0() -> None:
    counts = np.zeros((2, 65536), np.int64)
    counts[0, 0x8000] = 3
    counts[1, [0, 0x8000, 0x8001, 0x7F80, 0xFFFF]] = [1, 2, 4, 8, 16]
    histogram = Bfloat16Histogram.from_dense(counts, [True, False])
    dense = histogram.dense()
    assert dense[0].sum() == 3 and dense[0, 0] == 3
    assert dense[1].sum() == 7 and dense[1, 0] == 3 and dense[1, 0x8001] == 4
    assert histogram.totals().tolist() == [3, 7]
    assert histogram.coarsen(4).dense()[1, [0, 0x8000 >> 3]].tolist() == [3, 4]
    assert counts[1, 0x8000] == 2, "the caller's counts stay"


def test_coarsening_tells_what_it_drops() -> None:
    exact = counted(np.array([1.0, 2.0])).histogram  # the first numbers of their bins at any resolution
    dropped = counted(np.array([1.0078125])).histogram  # its lowest bit of mantissa is set
    assert exact is not None and dropped is not None
    assert exact.coarsen(4).lossless.tolist() == [True]
    assert dropped.lossless.tolist() == [True] and dropped.coarsen(6).lossless.tolist() == [False]
    with pytest.raises(InvalidArgumentError):
        exact.coarsen(4).coarsen(5)


def test_pages_take_memory_where_values_fell() -> None:
    channels = np.exp2(np.arange(-60, 60, dtype=np.float32))[:, np.newaxis]
    histogram = observe(channels, Observer("histogram", 0)).histogram
    assert histogram is not None
    assert histogram.pages_by_channel().tolist() == [1] * 120
    assert histogram.nbytes < 120 * 1200
    assert histogram.counts.shape == (120, 120, 128) and histogram.counts.sum() == 120


def test_channels_come_apart_and_together() -> None:
    statistics = observe(random_values(9, 300).reshape(10, 30), Observer("histogram", 0))
    parts = [statistics.select(slice(first, first + 3)) for first in range(0, 10, 3)]
    assert TensorStatistics.concatenate(parts) == statistics
    assert statistics.select(slice(4, 5)) == counted(random_values(9, 300)[120:150])
