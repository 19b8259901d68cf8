"""What was observed of a tensor: ranges and bfloat16 histograms that merge exactly."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
import numpy.typing as npt

from calibd.errors import InvalidArgumentError
from calibd.histogram import Bfloat16Histogram, check_sum

__all__ = ["Bfloat16Histogram", "TensorStatistics"]


class TensorStatistics:
    """Statistics of a tensor's channels, or of a whole tensor as one channel.

    `count`, `nan`, `positive_infinity` and `negative_infinity` are uint64[channels]: finite values, and the others,
    which are part of nothing else. `min` and `max` are float32[channels]: the exact extremes of the finite values,
    never -0, and 0 where count is 0. `histogram`, where there is one, counts as many values of each channel as `count`
    says.

    Merging is exact, associative and commutative. Not thread-safe.
    """

    __slots__ = ("count", "nan", "positive_infinity", "negative_infinity", "min", "max", "histogram")

    count: npt.NDArray[np.uint64]
    nan: npt.NDArray[np.uint64]
    positive_infinity: npt.NDArray[np.uint64]
    negative_infinity: npt.NDArray[np.uint64]
    min: npt.NDArray[np.float32]
    max: npt.NDArray[np.float32]
    histogram: Optional[Bfloat16Histogram]

    def __init__(self, channels: int, mantissa_bits: Optional[int] = None) -> None:
        """Empty, with a histogram when `mantissa_bits` (4 to 7) are given."""
        self.count = np.zeros(channels, np.uint64)
        self.nan = np.zeros(channels, np.uint64)
        self.positive_infinity = np.zeros(channels, np.uint64)
        self.negative_infinity = np.zeros(channels, np.uint64)
        self.min = np.zeros(channels, np.float32)
        self.max = np.zeros(channels, np.float32)
        self.histogram = None if mantissa_bits is None else Bfloat16Histogram(channels, mantissa_bits)

    @classmethod
    def concatenate(cls, parts: Sequence[TensorStatistics]) -> TensorStatistics:
        """The channels of all parts, of the same kind, one after the other. Takes over the parts."""
        if len(parts) == 1:
            return parts[0]
        all_channels = cls(0)
        for name in ("count", "nan", "positive_infinity", "negative_infinity", "min", "max"):
            if parts:
                setattr(all_channels, name, np.concatenate([getattr(part, name) for part in parts]))
        histograms = [part.histogram for part in parts if part.histogram is not None]
        all_channels.histogram = Bfloat16Histogram.concatenate(histograms) if histograms else None
        return all_channels

    @property
    def channels(self) -> int:
        return len(self.count)

    @property
    def nbytes(self) -> int:
        """Bytes of memory of the arrays."""
        return 40 * self.channels + (0 if self.histogram is None else self.histogram.nbytes)

    def values_by_channel(self) -> npt.NDArray[np.uint64]:
        """All values of each channel, finite or not."""
        return self.count + self.nan + self.positive_infinity + self.negative_infinity

    def values(self) -> int:
        """All values of all channels, finite or not."""
        return sum(self.values_by_channel().tolist())

    def copy(self) -> TensorStatistics:
        return self.select(slice(0, self.channels))

    def select(self, channels: slice) -> TensorStatistics:
        """A copy of a run of channels; the slice has no step."""
        selected = TensorStatistics(0)
        for name in ("count", "nan", "positive_infinity", "negative_infinity", "min", "max"):
            setattr(selected, name, getattr(self, name)[channels].copy())
        selected.histogram = None if self.histogram is None else self.histogram.select(channels)
        return selected

    def check_merge(self, other: TensorStatistics) -> None:
        """Whether `merge` would raise, and what.

        InvalidArgumentError when the channels differ, one has a histogram and the other none, or that of `other` is
        coarser; OutOfRangeError (COUNT_OVERFLOW) when a channel would have more than 2^64 - 1 values.
        """
        if other.channels != self.channels:
            raise InvalidArgumentError(
                f"the layer has {self.channels} channels and was now given {other.channels}; "
                "a layer's channel count cannot change, use another layer name"
            )
        if (self.histogram is None) != (other.histogram is None):
            raise InvalidArgumentError(
                "statistics without a histogram cannot be added to a histogram observer"
                if other.histogram is None
                else "statistics with a histogram cannot be added to a minmax observer"
            )
        if self.histogram is not None and other.histogram is not None:
            self.histogram.check_kind(other.histogram)
        check_sum(self.values_by_channel(), other.values_by_channel())

    def merge(self, other: TensorStatistics) -> None:
        """Adds `other`. Errors as check_merge; nothing is added then."""
        self.check_merge(other)
        for name, better in (("min", np.less), ("max", np.greater)):
            mine, theirs = getattr(self, name), getattr(other, name)
            take = (other.count > 0) & ((self.count == 0) | better(ordered_bits(theirs), ordered_bits(mine)))
            mine[take] = theirs[take]
        self.count += other.count
        self.nan += other.nan
        self.positive_infinity += other.positive_infinity
        self.negative_infinity += other.negative_infinity
        if self.histogram is not None and other.histogram is not None:
            self.histogram.add(other.histogram)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorStatistics):
            return NotImplemented
        columns = ("count", "nan", "positive_infinity", "negative_infinity", "min", "max")
        return (
            all(np.array_equal(getattr(self, name), getattr(other, name)) for name in columns)
            and self.histogram == other.histogram
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TensorStatistics(channels={self.channels}, values={self.values()}, histogram={self.histogram})"


def ordered_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Integers in the order of the finite floats that they stand for, both zeros 0.

    Comparisons of floats take subnormals for zero in threads that denormals-are-zero mode is set in, as deep learning
    frameworks can.
    """
    bits = values.view(np.int32)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def from_ordered(ordered: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """The floats that ordered_bits gave these integers for."""
    bits = np.where(ordered < 0, 0x80000000 - ordered, ordered)
    return bits.astype(np.uint32).view(np.float32)
