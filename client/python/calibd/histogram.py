"""Counts of finite float32 values by the bfloat16 number that their upper bits spell."""

from __future__ import annotations

from typing import Sequence, Tuple

import numpy as np
import numpy.typing as npt

from calibd.errors import InvalidArgumentError, OutOfRangeError

PAGES = 512
MIN_MANTISSA_BITS = 4
MAX_MANTISSA_BITS = 7

_PAGE_BITS = 9
_MAX_COUNT = np.uint64(2**64 - 1)


def check_mantissa_bits(mantissa_bits: int) -> None:
    """Raises InvalidArgumentError unless `mantissa_bits` is 4 to 7."""
    if not MIN_MANTISSA_BITS <= mantissa_bits <= MAX_MANTISSA_BITS:
        raise InvalidArgumentError(
            f"mantissa_bits is {mantissa_bits}; it must be {MIN_MANTISSA_BITS} to {MAX_MANTISSA_BITS}"
        )


def check_sum(counts: npt.NDArray[np.uint64], added: npt.NDArray[np.uint64]) -> None:
    """Raises OutOfRangeError (COUNT_OVERFLOW) when any counts[i] + added[i] would pass 2^64 - 1."""
    if bool(np.any(added > _MAX_COUNT - counts)):
        raise OutOfRangeError(
            "a channel would count more than 2^64 - 1 values; start another session", reason="COUNT_OVERFLOW"
        )


class Bfloat16Histogram:
    """The histograms of a tensor's channels.

    The key of x is bits(x) >> 16; key 0x8000 (-0 and the negative subnormals above -2^-133) counts as key 0. With
    m < 7 mantissa bits the low 7 - m bits of the key are dropped after that. NaN and infinities are not counted here.
    A page is one sign and exponent: the 2^m counters whose keys share the upper 9 bits. A page of a channel takes
    memory once a value of that channel fell into it.

    Merging and coarsening are exact and commute; merging is associative and commutative. Not thread-safe.
    """

    __slots__ = ("mantissa_bits", "lossless", "_rows", "_counts")

    mantissa_bits: int
    #: Of each channel: every value counted was itself the first number of its bin (all dropped bits zero).
    lossless: npt.NDArray[np.bool_]
    # Touched pages as channel * 512 + page, rising, and their counters: uint64[pages, 2^m]. None is all zero.
    _rows: npt.NDArray[np.int64]
    _counts: npt.NDArray[np.uint64]

    def __init__(self, channels: int, mantissa_bits: int = MAX_MANTISSA_BITS) -> None:
        """Empty. Raises InvalidArgumentError unless mantissa_bits is 4 to 7."""
        check_mantissa_bits(mantissa_bits)
        self.mantissa_bits = mantissa_bits
        self.lossless = np.ones(channels, bool)
        self._rows = np.empty(0, np.int64)
        self._counts = np.empty((0, 1 << mantissa_bits), np.uint64)

    @classmethod
    def from_pages(
        cls,
        pages: npt.ArrayLike,
        counts: npt.NDArray[np.integer],
        lossless: npt.ArrayLike,
        mantissa_bits: int = MAX_MANTISSA_BITS,
    ) -> Bfloat16Histogram:
        """Of the pages with these keys (rising): counts[channels, len(pages), 128], by all 7 bits of mantissa.

        Counters of key 0x8000 are folded into key 0, those of NaN and infinities (pages 255 and 511) left out, and the
        result coarsened to `mantissa_bits`. lossless: one for all channels, or one each.
        """
        keys = np.asarray(pages, np.int64)
        channels = counts.shape[0]
        counted = counts.any(axis=2) & ((keys & 255) != 255)
        negative_zeros = counts[:, keys == 256, 0]
        if negative_zeros.any():
            return cls._from_folded(keys, counts, negative_zeros[:, 0], lossless, mantissa_bits)
        channel, place = np.nonzero(counted)
        histogram = cls(channels)
        histogram.lossless[:] = lossless
        histogram._rows = channel * PAGES + keys[place]
        histogram._counts = counts[channel, place].astype(np.uint64)
        return histogram.coarsen(mantissa_bits)

    @classmethod
    def _from_folded(
        cls,
        keys: npt.NDArray[np.int64],
        counts: npt.NDArray[np.integer],
        negative_zeros: npt.NDArray[np.integer],
        lossless: npt.ArrayLike,
        mantissa_bits: int,
    ) -> Bfloat16Histogram:
        if 0 in keys:
            counts = counts.copy()
        else:
            keys = np.concatenate(([0], keys))
            counts = np.concatenate((np.zeros_like(counts[:, :1]), counts), axis=1)
        counts[:, 0, 0] += negative_zeros
        counts[:, keys == 256, 0] = 0
        return cls.from_pages(keys, counts, lossless, mantissa_bits)

    @classmethod
    def from_dense(
        cls,
        counts: npt.NDArray[np.integer],
        lossless: npt.ArrayLike,
        mantissa_bits: int = MAX_MANTISSA_BITS,
    ) -> Bfloat16Histogram:
        """Of counts[channels, 65536] by the raw upper halves bits(x) >> 16; what from_pages says of all 512 pages."""
        pages = counts.reshape(counts.shape[0], PAGES, 1 << MAX_MANTISSA_BITS)
        touched = np.flatnonzero(pages.any(axis=(0, 2)))
        return cls.from_pages(touched, pages[:, touched], lossless, mantissa_bits)

    @classmethod
    def from_keys(
        cls, keys: npt.NDArray[np.uint16], lossless: npt.ArrayLike, mantissa_bits: int = MAX_MANTISSA_BITS
    ) -> Bfloat16Histogram:
        """Of keys[channels, values], raw upper halves; as from_pages. For channels of few values."""
        histogram = cls(len(keys))
        histogram.lossless[:] = lossless
        places = np.arange(len(keys))[:, np.newaxis] * (PAGES << MAX_MANTISSA_BITS) + np.where(keys == 0x8000, 0, keys)
        places, counts = np.unique(places[(keys & 0x7F80) != 0x7F80], return_counts=True)
        histogram._rows, row = np.unique(places >> MAX_MANTISSA_BITS, return_inverse=True)
        histogram._counts = np.zeros((len(histogram._rows), 1 << MAX_MANTISSA_BITS), np.uint64)
        histogram._counts[row, places & ((1 << MAX_MANTISSA_BITS) - 1)] = counts
        return histogram.coarsen(mantissa_bits)

    @classmethod
    def from_rows(
        cls,
        rows: npt.NDArray[np.int64],
        counts: npt.NDArray[np.uint64],
        lossless: npt.NDArray[np.bool_],
        mantissa_bits: int,
    ) -> Bfloat16Histogram:
        """What rows() gave. Takes over the arrays. REQUIRES: rows rise, and no page is all zero."""
        histogram = cls(len(lossless), mantissa_bits)
        histogram.lossless, histogram._rows, histogram._counts = lossless, rows, counts
        return histogram

    @classmethod
    def concatenate(cls, parts: Sequence[Bfloat16Histogram]) -> Bfloat16Histogram:
        """The channels of all parts, which have the same mantissa_bits, one after the other. Takes over the parts."""
        if len(parts) == 1:
            return parts[0]
        firsts = np.cumsum([0] + [part.channels for part in parts])
        histogram = cls(int(firsts[-1]), parts[0].mantissa_bits if parts else MAX_MANTISSA_BITS)
        if parts:
            histogram.lossless = np.concatenate([part.lossless for part in parts])
            histogram._rows = np.concatenate([part._rows + PAGES * first for part, first in zip(parts, firsts)])
            histogram._counts = np.concatenate([part._counts for part in parts])
        return histogram

    @property
    def channels(self) -> int:
        return len(self.lossless)

    @property
    def pages(self) -> npt.NDArray[np.int64]:
        """Keys of the pages that any channel has counts in, rising."""
        return np.unique(self._rows & (PAGES - 1))

    @property
    def counts(self) -> npt.NDArray[np.uint64]:
        """Counters of these pages, a copy: uint64[channels, len(pages), 2^m]."""
        pages = self.pages
        counts = np.zeros((self.channels, len(pages), 1 << self.mantissa_bits), np.uint64)
        counts[self._rows >> _PAGE_BITS, np.searchsorted(pages, self._rows & (PAGES - 1))] = self._counts
        return counts

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the arrays."""
        return self.lossless.nbytes + self._rows.nbytes + self._counts.nbytes

    def rows(self) -> Tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        """The touched pages as channel * 512 + page, rising, and their counters [pages, 2^m]: views, not copies."""
        return self._rows, self._counts

    def pages_by_channel(self) -> npt.NDArray[np.int64]:
        """Number of pages that each channel has counts in."""
        return np.bincount(self._rows >> _PAGE_BITS, minlength=self.channels)

    def dense(self) -> npt.NDArray[np.uint64]:
        """Counters by key: uint64[channels, 512 << m]. Half a megabyte a channel at 7 bits."""
        dense = np.zeros((self.channels * PAGES, 1 << self.mantissa_bits), np.uint64)
        dense[self._rows] = self._counts
        return dense.reshape(self.channels, -1)

    def totals(self) -> npt.NDArray[np.uint64]:
        """Sum of each channel's counters."""
        totals = np.zeros(self.channels, np.uint64)
        np.add.at(totals, self._rows >> _PAGE_BITS, self._counts.sum(axis=1, dtype=np.uint64))
        return totals

    def copy(self) -> Bfloat16Histogram:
        return self.select(slice(0, self.channels))

    def select(self, channels: slice) -> Bfloat16Histogram:
        """A copy of a run of channels; the slice has no step."""
        first, end, _ = channels.indices(self.channels)
        selected = Bfloat16Histogram(max(end - first, 0), self.mantissa_bits)
        selected.lossless = self.lossless[first:end].copy()
        rows = slice(*np.searchsorted(self._rows, (first * PAGES, end * PAGES)))
        selected._rows = self._rows[rows] - first * PAGES
        selected._counts = self._counts[rows].copy()
        return selected

    def coarsen(self, mantissa_bits: int) -> Bfloat16Histogram:
        """The same values at a lower resolution; itself when it has that one.

        Raises InvalidArgumentError unless 4 <= mantissa_bits <= self.mantissa_bits.
        """
        check_mantissa_bits(mantissa_bits)
        drop = self.mantissa_bits - mantissa_bits
        if drop == 0:
            return self
        if drop < 0:
            raise InvalidArgumentError(f"a histogram of {self.mantissa_bits} mantissa bits has no {mantissa_bits}")
        coarse = Bfloat16Histogram(self.channels, mantissa_bits)
        runs = self._counts.reshape(len(self._rows), 1 << mantissa_bits, 1 << drop)
        coarse._rows = self._rows.copy()
        coarse._counts = runs.sum(axis=2, dtype=np.uint64)
        coarse.lossless = self.lossless.copy()
        coarse.lossless[self._rows[runs[:, :, 1:].any(axis=(1, 2))] >> _PAGE_BITS] = False
        return coarse

    def check_merge(self, other: Bfloat16Histogram) -> None:
        """Raises InvalidArgumentError when the channels differ or `other` is coarser, OutOfRangeError past 2^64 - 1."""
        self.check_kind(other)
        check_sum(self.totals(), other.totals())

    def check_kind(self, other: Bfloat16Histogram) -> None:
        """The part of check_merge that is not about counts."""
        if other.channels != self.channels:
            raise InvalidArgumentError(
                f"a histogram of {other.channels} channels cannot be added to one of {self.channels}"
            )
        if other.mantissa_bits < self.mantissa_bits:
            raise InvalidArgumentError(
                f"a histogram of {other.mantissa_bits} mantissa bits cannot be added to one of "
                f"{self.mantissa_bits}: observe with at least {self.mantissa_bits}"
            )

    def merge(self, other: Bfloat16Histogram) -> None:
        """Adds `other`, coarsening what is finer. Errors as check_merge; nothing is added then."""
        self.check_merge(other)
        self.add(other)

    def add(self, other: Bfloat16Histogram) -> None:
        """merge, for who has checked. REQUIRES: check_merge(other) would not raise."""
        other = other.coarsen(self.mantissa_bits)
        self.lossless &= other.lossless
        if np.array_equal(self._rows, other._rows):
            self._counts += other._counts
            return
        places = np.searchsorted(self._rows, other._rows)
        inside = places < len(self._rows)
        if not inside.all() or not np.array_equal(self._rows[places], other._rows):
            rows = np.union1d(self._rows, other._rows)
            counts = np.zeros((len(rows), 1 << self.mantissa_bits), np.uint64)
            counts[np.searchsorted(rows, self._rows)] = self._counts
            self._rows, self._counts = rows, counts
            places = np.searchsorted(rows, other._rows)
        self._counts[places] += other._counts

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bfloat16Histogram):
            return NotImplemented
        return (
            self.mantissa_bits == other.mantissa_bits
            and np.array_equal(self.lossless, other.lossless)
            and np.array_equal(self._rows, other._rows)
            and np.array_equal(self._counts, other._counts)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Bfloat16Histogram(channels={self.channels}, pages={len(self._rows)}, bits={self.mantissa_bits})"
