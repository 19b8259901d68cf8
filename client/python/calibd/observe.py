"""Arrays to statistics, on the calling thread, in blocks that stay in the cache."""

from __future__ import annotations

import sys
import threading
from typing import Any, Iterator, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from calibd.errors import InvalidArgumentError
from calibd.histogram import MAX_MANTISSA_BITS, PAGES, Bfloat16Histogram, check_mantissa_bits
from calibd.observer import Observer
from calibd.runs import BFLOAT16, FLOAT32, NOTHING, Words, observe_run, observe_runs, statistics_of
from calibd.statistics import TensorStatistics

#: The element types that can be observed, by the names that `dtype` takes.
DTYPES = ("float32", "float16", "bfloat16")

_Counts = npt.NDArray[np.int64]

_KEYS = PAGES << MAX_MANTISSA_BITS
# Elements that are counted at once: their keys, as int64, and the counters share the cache.
_BLOCK = 1 << 17
# A channel of this many elements is counted into all 65,536 counters; shorter ones share a table of the touched pages.
_LONG_RUN = 1 << 14
# Counters of such a table.
_TABLE = 1 << 17
# With more counters than this for each element sorting the keys takes less time than going over the table.
_SPARSE = 64
# Elements of channels that lie apart are brought together up to this many at a time.
_GATHERED = 1 << 20
# The upper half of a float32 word, among its uint16 halves.
_UPPER = 1 if sys.byteorder == "little" else 0


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.keys = np.empty(_BLOCK, np.int64)


_scratch = _Scratch()


def observe(
    array: npt.ArrayLike, observer: Observer, mantissa_bits: int = MAX_MANTISSA_BITS, dtype: Optional[str] = None
) -> TensorStatistics:
    """Counts the elements of an array as `observer` collects them: over its channel axis, or as one channel.

    array: float32, float16, ml_dtypes.bfloat16, or uint16 with dtype="bfloat16"; any shape, strides and byte order.
    observer: of kind "histogram" and "learned" it gives a histogram, else ranges alone.
    mantissa_bits: those of the session.

    The result depends only on the multiset of (channel, value). Raises InvalidArgumentError for another element type
    (float64 and integers are for the caller to round) and when the array has no such axis. Thread-safe.
    """
    check_mantissa_bits(mantissa_bits)
    words, kind = _words_of(to_array(array), dtype)
    counting = observer.collects_histogram
    axis = observer.channel_axis
    if axis is None:
        channels = words[np.newaxis]
    elif -words.ndim <= axis < words.ndim:
        channels = np.moveaxis(words, axis, 0)
    else:
        raise InvalidArgumentError(
            f"{kind} array of shape {list(words.shape)}: the layer is observed per channel along axis {axis}, "
            "which this shape does not have"
        )
    if channels.size == 0:
        return TensorStatistics(len(channels), mantissa_bits if counting else None)
    elements = channels.size // len(channels)
    bits = mantissa_bits if counting else None
    at_once = max(_GATHERED // elements, 1)
    parts: List[TensorStatistics] = []
    for first in range(0, len(channels), at_once):
        group = channels[first : first + at_once]
        if elements >= _LONG_RUN:
            if axis is not None and elements <= _GATHERED:
                group = np.ascontiguousarray(group)
            parts.extend(_observe_long(channel, kind, bits) for channel in group)
        else:
            parts.append(_observe_short(_to_words(group.reshape(len(group), -1), kind), kind, bits))
    return TensorStatistics.concatenate(parts)


def to_array(array: npt.ArrayLike) -> npt.NDArray[Any]:
    """As np.asarray. Raises InvalidArgumentError for what NumPy makes no array of, such as some PyTorch tensors."""
    try:
        return np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(array)
        what = f"NumPy makes no array of this {kind.__module__}.{kind.__qualname__} ({error})"
        if kind.__module__.split(".")[0] == "torch":
            what += (
                ": watch its module with calibd.torch.watch, give observe_statistics what calibd.torch.observe counts, "
                "or give tensor.detach().cpu(), of float32 or float16"
            )
        raise InvalidArgumentError(what) from None


def little_endian(array: npt.NDArray[Any], dtype: Optional[str] = None) -> Tuple[bytes, str]:
    """The elements' bytes, row-major, as messages have them, and which of DTYPES they are. Raises as observe."""
    words, kind = _words_of(array, dtype)
    return words.astype(words.dtype.newbyteorder("<")).tobytes(), kind


def _words_of(array: npt.NDArray[Any], dtype: Optional[str]) -> Tuple[Words, str]:
    """The bits of the elements, as unsigned integers in the array's byte order, and which of DTYPES they are."""
    kind = array.dtype.name
    if dtype is not None and dtype != kind:
        if dtype != "bfloat16" or kind != "uint16":
            raise InvalidArgumentError(
                f'an array of {kind} cannot be observed as {dtype}; only uint16 can, as dtype="bfloat16"'
            )
        kind = dtype
    if kind not in DTYPES:
        raise InvalidArgumentError(
            f"an array of {kind} cannot be observed: round it to {', '.join(DTYPES[:-1])} or {DTYPES[-1]} first"
        )
    # The byte order of ml_dtypes.bfloat16, which is always the machine's, is not said in a way that newbyteorder knows.
    order = "=" if array.dtype.kind == "V" else array.dtype.byteorder
    return array.view(np.dtype(f"u{array.dtype.itemsize}").newbyteorder(order)), kind


def _to_words(words: Words, kind: str) -> Words:
    """Contiguous, of this machine's byte order, float16 as float32."""
    native = np.ascontiguousarray(words, words.dtype.newbyteorder("="))
    return _float16_table()[native] if kind == "float16" else native


_float16_words: List[npt.NDArray[np.uint32]] = []


def _float16_table() -> npt.NDArray[np.uint32]:
    """Of each float16 the bits of the same float32."""
    if not _float16_words:
        halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
        with np.errstate(invalid="ignore"):
            _float16_words.append(halves.astype(np.float32).view(np.uint32))
    return _float16_words[0]


def _blocks(words: Words, kind: str) -> Iterator[Words]:
    """The elements in one-dimensional contiguous blocks, in any order, without copying what lies together."""
    op_flags: Any = [["readonly", "contig", "aligned"]]
    blocks: Any = np.nditer(
        words,
        flags=["external_loop", "buffered", "zerosize_ok"],
        op_flags=op_flags,
        op_dtypes=[words.dtype.newbyteorder("=")],
        casting="equiv",
        order="K",
        buffersize=_BLOCK,
    )
    for block in blocks:
        yield _float16_table()[block] if kind == "float16" else block


def _observe_long(words: Words, kind: str, mantissa_bits: Optional[int]) -> TensorStatistics:
    """Of one channel."""
    counts = None if mantissa_bits is None else np.zeros(_KEYS, np.int64)
    form = BFLOAT16 if kind == "bfloat16" else FLOAT32
    run = NOTHING._replace(lossless=counts is not None)
    for block in _blocks(words, kind):
        run = observe_run(block, form, run)
        if counts is not None:
            counts += np.bincount(_wide_keys(block), minlength=_KEYS)
    statistics = statistics_of(np.array([run], np.int64), mantissa_bits)
    if counts is not None and mantissa_bits is not None:
        statistics.histogram = Bfloat16Histogram.from_dense(counts[np.newaxis], run.lossless, mantissa_bits)
    return statistics


def _observe_short(words: Words, kind: str, mantissa_bits: Optional[int]) -> TensorStatistics:
    """Of many channels [channels, elements], contiguous."""
    runs = observe_runs(words, BFLOAT16 if kind == "bfloat16" else FLOAT32)
    statistics = statistics_of(runs, mantissa_bits)
    if mantissa_bits is not None:
        statistics.histogram = _count_short(_keys(words), runs[:, -1] != 0, mantissa_bits)
    return statistics


def _count_short(
    keys: npt.NDArray[np.uint16], lossless: npt.NDArray[np.bool_], mantissa_bits: int
) -> Bfloat16Histogram:
    """Counts channels side by side in a table of the pages that any of them touches."""
    page_of = keys >> MAX_MANTISSA_BITS
    touched = np.zeros(PAGES, bool)
    touched[page_of] = True
    pages = np.flatnonzero(touched)
    slots = np.zeros(PAGES, np.int64)
    slots[pages] = np.arange(len(pages)) << MAX_MANTISSA_BITS
    counters = len(pages) << MAX_MANTISSA_BITS
    if counters > _SPARSE * keys.shape[1]:
        return Bfloat16Histogram.from_keys(keys, lossless, mantissa_bits)
    at_once = max(_TABLE // counters, 1)
    parts = []
    for first in range(0, len(keys), at_once):
        group = slice(first, first + at_once)
        places = slots[page_of[group]]
        places += keys[group] & ((1 << MAX_MANTISSA_BITS) - 1)
        places += counters * np.arange(len(places))[:, np.newaxis]
        table = np.bincount(places.ravel(), minlength=counters * len(places))
        counts = table.reshape(len(places), len(pages), -1)
        parts.append(Bfloat16Histogram.from_pages(pages, counts, lossless[group], mantissa_bits))
    return Bfloat16Histogram.concatenate(parts)


def _keys(words: Words) -> npt.NDArray[np.uint16]:
    """The upper halves of float32 bits, of the same shape; a view. `words` is contiguous in its last axis."""
    return words if words.dtype == np.uint16 else words.view(np.uint16)[..., _UPPER::2]


def _wide_keys(block: Words) -> _Counts:
    """The keys of a block as np.bincount takes them without a copy; valid until the next call on this thread."""
    keys = _scratch.keys[: len(block)]
    np.copyto(keys, _keys(block))
    return keys
