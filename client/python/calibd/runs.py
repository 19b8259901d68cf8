"""What a run of elements holds besides its histogram: how many of which kind, its extremes, the bits that are set.

Works on the bits of the elements alone, so that subnormal numbers count also in threads that flush them to zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from calibd.statistics import TensorStatistics, from_ordered

Words = npt.NDArray[Any]  # the elements' bits: uint32 of float32, uint16 of bfloat16


class Format(NamedTuple):
    """Of a floating-point type, or of one whose elements are the upper bits of another's."""

    infinity: int  # bits of +infinity
    sign: int  # bit of the sign
    shift: int  # to the bits of the same float32
    signed: Any  # the type of its words taken as signed integers


FLOAT32 = Format(infinity=0x7F800000, sign=0x80000000, shift=0, signed=np.dtype(np.int32))
BFLOAT16 = Format(infinity=0x7F80, sign=0x8000, shift=16, signed=np.dtype(np.int16))


class Run(NamedTuple):
    """What was seen of one channel's elements."""

    finite: int
    nan: int
    positive_infinity: int
    negative_infinity: int
    least: int  # as ordered_bits; 0 without finite values
    greatest: int
    lossless: bool  # whether no finite value had a bit beyond those of bfloat16


NOTHING = Run(0, 0, 0, 0, 0, 0, True)


def observe_run(words: Words, form: Format, before: Run = NOTHING) -> Run:
    """What `before` has, with one-dimensional contiguous words, not none, added.

    Words are not looked at for what `before` settles; so lossless=False in the first one, where it is of no interest,
    saves time.
    """
    # Words order as signed integers up to the greatest number, as unsigned ones up to the farthest negative one.
    greatest = int(np.maximum.reduce(words.view(form.signed)))
    farthest = int(np.maximum.reduce(words))
    if greatest >= form.infinity or farthest >= form.sign + form.infinity:
        return _observe_with_non_finite(words, form, before)
    if farthest >= form.sign:
        least = (form.sign - farthest) << form.shift
    elif before.finite and before.least <= 0:
        least = 0  # no word is below
    else:
        least = int(np.minimum.reduce(words)) << form.shift
    if greatest >= 0:
        most = greatest << form.shift
    elif before.finite and before.greatest >= 0:
        most = 0
    else:
        most = (form.sign - int(np.minimum.reduce(words))) << form.shift
    return Run(
        before.finite + len(words),
        before.nan,
        before.positive_infinity,
        before.negative_infinity,
        min(before.least, least) if before.finite else least,
        max(before.greatest, most) if before.finite else most,
        before.lossless and (int(np.bitwise_or.reduce(words)) << form.shift) & 0xFFFF == 0,
    )


def _observe_with_non_finite(words: Words, form: Format, before: Run) -> Run:
    others = np.flatnonzero((words & (form.sign - 1)) >= form.infinity)
    not_finite = words[others]
    positive = int(np.count_nonzero(not_finite == form.infinity))
    negative = int(np.count_nonzero(not_finite == form.sign + form.infinity))
    if len(others) == len(words):
        after = before
    else:
        # A finite element stands in for each of the others, so that none changes what is found.
        gaps = np.flatnonzero(others != np.arange(len(others)))
        words = words.copy()
        words[others] = words[gaps[0] if len(gaps) else len(others)]
        after = observe_run(words, form, before)
        after = after._replace(finite=after.finite - len(others))
    return after._replace(
        nan=before.nan + len(others) - positive - negative,
        positive_infinity=before.positive_infinity + positive,
        negative_infinity=before.negative_infinity + negative,
    )


def observe_runs(words: Words, form: Format) -> npt.NDArray[np.int64]:
    """observe_run of each row of words[channels, elements], contiguous, as rows of Run's fields."""
    greatest = words.view(form.signed).max(axis=1).astype(np.int64)
    farthest = words.max(axis=1).astype(np.int64)
    nearest = words.min(axis=1).astype(np.int64)
    runs = np.zeros((len(words), len(Run._fields)), np.int64)
    runs[:, 0] = words.shape[1]
    runs[:, 4] = np.where(farthest >= form.sign, form.sign - farthest, nearest) << form.shift
    runs[:, 5] = np.where(greatest >= 0, greatest, form.sign - nearest) << form.shift
    runs[:, 6] = (np.bitwise_or.reduce(words, axis=1).astype(np.int64) << form.shift) & 0xFFFF == 0
    for row in np.flatnonzero((greatest >= form.infinity) | (farthest >= form.sign + form.infinity)):
        runs[row] = observe_run(words[row], form)
    return runs


def statistics_of(runs: npt.NDArray[np.int64], mantissa_bits: Optional[int]) -> TensorStatistics:
    """Ranges of channels, one for each row of Run's fields, and histograms with nothing in them yet."""
    statistics = TensorStatistics(len(runs), mantissa_bits)
    columns = runs.T
    statistics.count = columns[0].astype(np.uint64)
    statistics.nan = columns[1].astype(np.uint64)
    statistics.positive_infinity = columns[2].astype(np.uint64)
    statistics.negative_infinity = columns[3].astype(np.uint64)
    statistics.min = from_ordered(columns[4])
    statistics.max = from_ordered(columns[5])
    return statistics
