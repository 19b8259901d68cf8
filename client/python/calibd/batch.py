"""Statistics to StatisticsBatch messages (statistics.proto) and back."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, List, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from calibd.histogram import PAGES, Bfloat16Histogram
from calibd.rpc import statistics_pb2 as pb
from calibd.statistics import TensorStatistics

#: Most bytes of statistics in a message, by an upper bound of their encoded size: well below the server's message limit
#: of 4 MiB. Real histograms take about a third of the bound.
MAX_BATCH_BYTES = 5 << 19

# Upper bounds of encoded sizes: of a row without values, of the fixed part of a row with values, of a page's key,
# encoding and number of pairs, of a layer's handle and channel count.
_EMPTY_ROW_BYTES = 16
_ROW_BYTES = 96
_PAGE_BYTES = 4
_LAYER_BYTES = 16

_SPARSE = 0x10
_WIDTHS = (1, 2, 4, 8)


def encode(layers: Iterable[Tuple[int, TensorStatistics]]) -> pb.StatisticsBatch:
    """The message of (handle, statistics) pairs, whose handles rise. Layers without channels are left out.

    Equal layers give equal messages, whatever their history: those of the C++ writer, byte for byte.
    """
    present = [(handle, statistics) for handle, statistics in layers if statistics.channels > 0]
    batch = pb.StatisticsBatch(layer=[handle for handle, _ in present])
    channels = [statistics.channels for _, statistics in present]
    if any(count != 1 for count in channels):
        batch.channels.extend(channels)
    if not present:
        return batch
    for name in ("count", "min", "max", "nan", "positive_infinity", "negative_infinity"):
        column = np.concatenate([getattr(statistics, name) for _, statistics in present])
        if name in ("count", "min", "max") or column.any():
            getattr(batch, name).extend(column.tolist())
    for _, statistics in present:
        if statistics.histogram is not None:
            _encode_histogram(statistics.histogram, batch)
    return batch


def _encode_histogram(histogram: Bfloat16Histogram, batch: pb.StatisticsBatch) -> None:
    pages, counts = histogram.rows()
    form, pairs, ends, data = _pack(counts)
    first_page, first_pair, first_byte = 0, 0, 0
    for lossless, end in zip(histogram.lossless.tolist(), np.cumsum(histogram.pages_by_channel()).tolist()):
        last_pair = first_pair + int(np.count_nonzero(form[first_page:end] & _SPARSE))
        last_byte = int(ends[end - 1]) if end > 0 else 0
        batch.histogram.add(
            mantissa_bits=histogram.mantissa_bits,
            lossless=lossless,
            page=(pages[first_page:end] & (PAGES - 1)).tolist(),
            encoding=form[first_page:end].tobytes(),
            sparse_pairs=pairs[first_pair:last_pair].tobytes(),
            counts=data[first_byte:last_byte].tobytes(),
        )
        first_page, first_pair, first_byte = end, last_pair, last_byte


_Bytes = npt.NDArray[np.uint8]


def _pack(counts: npt.NDArray[np.uint64]) -> Tuple[_Bytes, _Bytes, npt.NDArray[np.int64], _Bytes]:
    """Of pages [pages, counters]: encodings, pairs less one of sparse pages, where each page ends, and the bytes."""
    size = counts.shape[1]
    bits = np.bitwise_or.reduce(counts, axis=1)
    width = _width(bits)
    pairs = np.count_nonzero(counts, axis=1)
    sparse = 1 + pairs * (width + 1) < size * width
    sizes = np.where(sparse, pairs * (width + 1), size * width)
    ends = np.cumsum(sizes)
    begins = ends - sizes
    data = np.empty(int(sizes.sum()), np.uint8)
    for w in _WIDTHS:
        chosen = np.flatnonzero(~sparse & (width == w))
        if len(chosen):
            data[begins[chosen, np.newaxis] + np.arange(size * w)] = _to_bytes(counts[chosen], w).reshape(-1, size * w)
        chosen = np.flatnonzero(sparse & (width == w))
        if len(chosen):
            row, index = np.nonzero(counts[chosen])
            in_page = np.arange(len(row)) - np.repeat(np.cumsum(pairs[chosen]) - pairs[chosen], pairs[chosen])
            at = begins[chosen][row] + in_page * (w + 1)
            data[at] = index
            data[at[:, np.newaxis] + np.arange(1, w + 1)] = _to_bytes(counts[chosen][row, index], w).reshape(-1, w)
    form = np.where(sparse, _SPARSE + width, width).astype(np.uint8)
    return form, (pairs[sparse] - 1).astype(np.uint8), ends, data


def _width(counts: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Bytes of the narrowest counter that holds each count."""
    over = [(counts >> np.uint64(8 * width) != 0).astype(np.int64) for width in (1, 2, 4)]
    widths: npt.NDArray[np.int64] = np.left_shift(1, over[0] + over[1] + over[2])
    return widths


def _to_bytes(counts: npt.NDArray[np.uint64], width: int) -> _Bytes:
    return np.ascontiguousarray(counts.astype(f"<u{width}")).view(np.uint8)


def decode(batch: pb.StatisticsBatch, collects_histogram: Callable[[int], bool]) -> List[Tuple[int, TensorStatistics]]:
    """The layers of a message as (handle, statistics) pairs. REQUIRES: the message is valid, as the server's are.

    collects_histogram: whether the observer of the layer with this place in `batch.layer` has histograms.
    """
    rows = len(batch.count)
    columns: Dict[str, npt.NDArray[Any]] = {}
    for name in ("count", "nan", "positive_infinity", "negative_infinity"):
        column = getattr(batch, name)
        columns[name] = np.fromiter(column, np.uint64, rows) if column else np.zeros(rows, np.uint64)
    for name in ("min", "max"):
        columns[name] = np.fromiter(getattr(batch, name), np.float32, rows)
    layers = []
    first, histograms = 0, 0
    for place, handle in enumerate(batch.layer):
        channels = batch.channels[place] if batch.channels else 1
        statistics = TensorStatistics(0)
        for name, column in columns.items():
            setattr(statistics, name, column[first : first + channels].copy())
        if collects_histogram(place):
            statistics.histogram = _decode_histograms(batch.histogram[histograms : histograms + channels])
            histograms += channels
        layers.append((handle, statistics))
        first += channels
    return layers


def _decode_histograms(messages: Sequence[pb.Bfloat16Histogram]) -> Bfloat16Histogram:
    """The histograms of a layer's channels, as one."""
    mantissa_bits = messages[0].mantissa_bits
    form = np.frombuffer(b"".join(message.encoding for message in messages), np.uint8)
    data = np.frombuffer(b"".join(message.counts for message in messages), np.uint8)
    pairs = np.zeros(len(form), np.int64)
    sparse = (form & _SPARSE) != 0
    pairs[sparse] = np.frombuffer(b"".join(message.sparse_pairs for message in messages), np.uint8)
    pairs[sparse] += 1
    width = (form & ~np.uint8(_SPARSE)).astype(np.int64)
    counts = _unpack(1 << mantissa_bits, sparse, width, pairs, data)
    rows = [channel * PAGES + page for channel, message in enumerate(messages) for page in message.page]
    lossless = np.array([message.lossless or not message.page for message in messages], bool)
    return Bfloat16Histogram.from_rows(np.array(rows, np.int64), counts, lossless, mantissa_bits)


def _unpack(
    size: int,
    sparse: npt.NDArray[np.bool_],
    width: npt.NDArray[np.int64],
    pairs: npt.NDArray[np.int64],
    data: _Bytes,
) -> npt.NDArray[np.uint64]:
    """The counters of pages [pages, size], the inverse of _pack."""
    sizes = np.where(sparse, pairs * (width + 1), size * width)
    begins = np.cumsum(sizes) - sizes
    counts = np.zeros((len(sizes), size), np.uint64)
    for w in _WIDTHS:
        chosen = np.flatnonzero(~sparse & (width == w))
        if len(chosen):
            dense = np.ascontiguousarray(data[begins[chosen, np.newaxis] + np.arange(size * w)])
            counts[chosen] = dense.view(f"<u{w}")
        chosen = np.flatnonzero(sparse & (width == w))
        if len(chosen):
            row = np.repeat(chosen, pairs[chosen])
            in_page = np.arange(len(row)) - np.repeat(np.cumsum(pairs[chosen]) - pairs[chosen], pairs[chosen])
            at = begins[row] + in_page * (w + 1)
            values = np.ascontiguousarray(data[at[:, np.newaxis] + np.arange(1, w + 1)])
            counts[row, data[at]] = values.view(f"<u{w}")[:, 0]
    return counts


def take(layers: Dict[int, TensorStatistics], max_bytes: int = MAX_BATCH_BYTES) -> List[Tuple[int, TensorStatistics]]:
    """Moves layers out of `layers`, in the order of their numbers, until a message is full or none is left.

    At least one row is moved. A layer that is too large for one message is spread over several: each has all its
    channels, and each channel's values are in one of them.
    """
    taken: List[Tuple[int, TensorStatistics]] = []
    used = 0
    for number in sorted(layers):
        statistics = layers[number]
        empty = _LAYER_BYTES + statistics.channels * _EMPTY_ROW_BYTES
        bounds = _bound_of_values(statistics)
        bound = empty + int(bounds.sum())
        if used > 0 and used + bound > max_bytes:
            break
        if bound <= max_bytes:
            taken.append((number, layers.pop(number)))
            used += bound
            continue
        fitting = int(np.searchsorted(np.cumsum(bounds), max(max_bytes - empty, 0), side="right"))
        with_values = np.flatnonzero(bounds)
        end = max(fitting, int(with_values[0]) + 1 if len(with_values) else statistics.channels)
        taken.append((number, _only(statistics, 0, end)))
        if len(with_values) and with_values[-1] >= end:
            layers[number] = _only(statistics, end, statistics.channels)
        else:
            del layers[number]
        break
    return taken


def _bound_of_values(statistics: TensorStatistics) -> npt.NDArray[np.int64]:
    """Upper bounds of the encoded sizes of the channels with values; 0 of the others."""
    bounds = np.full(statistics.channels, _ROW_BYTES, np.int64)
    if statistics.histogram is not None:
        # The writer takes the shorter of dense and sparse page by page, so at most the shorter of the two for all.
        pages = statistics.histogram.pages_by_channel()
        counters = pages << statistics.histogram.mantissa_bits
        pairs = np.minimum(statistics.count, counters.astype(np.uint64)).astype(np.int64)
        width = _width(statistics.count)
        bounds += pages * _PAGE_BYTES + np.minimum(counters * width, pairs * (1 + width))
    bounds[statistics.values_by_channel() == 0] = 0
    return bounds


def _only(statistics: TensorStatistics, first: int, end: int) -> TensorStatistics:
    """The values of channels [first, end) alone, with the others empty."""
    bits = None if statistics.histogram is None else statistics.histogram.mantissa_bits
    empty_before = TensorStatistics(first, bits)
    empty_behind = TensorStatistics(statistics.channels - end, bits)
    return TensorStatistics.concatenate([empty_before, statistics.select(slice(first, end)), empty_behind])
