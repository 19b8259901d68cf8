"""Statistics come back from messages as they went in, and messages stay within their bounds."""

from __future__ import annotations

from typing import Dict, Optional

import numpy as np
import pytest
from calibd import batch
from calibd.config import Observer
from calibd.histogram import Bfloat16Histogram
from calibd.observe import observe
from calibd.statistics import TensorStatistics

MESSAGE_LIMIT = 4 << 20


def there_and_back(layers: Dict[int, TensorStatistics]) -> Dict[int, TensorStatistics]:
    message = batch.encode(sorted(layers.items()))
    present = [layers[handle] for handle in message.layer]
    return dict(batch.decode(message, lambda place: present[place].histogram is not None))


def random_statistics(seed: int, axis: Optional[int], kind: str, mantissa_bits: int = 7) -> TensorStatistics:
    generator = np.random.default_rng(seed)
    array = generator.integers(0, 2**32, (6, 1 << seed % 12), dtype=np.uint32).view(np.float32)
    if seed % 3 == 0:
        array = generator.normal(size=(5, 60_000 if seed % 2 else 3)).astype(np.float32)
    return observe(array, Observer(kind, axis), mantissa_bits)


@pytest.mark.parametrize("seed", range(24))
def test_statistics_come_back(seed: int) -> None:
    layers = {
        3 * i + seed: random_statistics(7 * seed + i, axis, kind, 4 + (seed + i) % 4)
        for i, (axis, kind) in enumerate([(None, "histogram"), (0, "histogram"), (None, "minmax"), (1, "minmax")])
    }
    assert there_and_back(layers) == layers


def with_counts(counts: Dict[int, int]) -> TensorStatistics:
    """Of channel 0, by 7-bit keys of positive numbers."""
    dense = np.zeros((1, 65536), np.uint64)
    for key, count in counts.items():
        dense[0, key] = count
    statistics = TensorStatistics(1, 7)
    statistics.histogram = Bfloat16Histogram.from_dense(dense, True)
    statistics.count[:] = statistics.histogram.totals()
    statistics.min[:] = np.array([min(counts) << 16], np.uint32).view(np.float32)
    statistics.max[:] = np.array([max(counts) << 16], np.uint32).view(np.float32)
    return statistics


@pytest.mark.parametrize(
    "counts, form, pairs, size",
    [
        ({128: 1}, 0x11, [0], 2),
        ({128: 255, 255: 1}, 0x11, [1], 4),
        ({128: 256}, 0x12, [0], 3),
        ({128: 65536}, 0x14, [0], 5),
        ({128: 2**32}, 0x18, [0], 9),
        ({key: 1 for key in range(128, 256)}, 1, [], 128),
        # Of equally short forms the dense one: 63 pairs and their number take 127 bytes, 64 pairs would take 129.
        ({key: 1 for key in range(128, 128 + 63)}, 0x11, [62], 126),
        ({key: 1 for key in range(128, 128 + 64)}, 1, [], 128),
        ({key: 300 for key in range(128, 128 + 85)}, 2, [], 256),
        ({key: 2**40 for key in range(128, 256)}, 8, [], 1024),
    ],
)
def test_the_shortest_form_is_chosen(counts: Dict[int, int], form: int, pairs: list, size: int) -> None:
    statistics = with_counts(counts)
    message = batch.encode([(0, statistics)])
    (histogram,) = message.histogram
    assert list(histogram.page) == [1]
    assert histogram.encoding == bytes([form]) and histogram.sparse_pairs == bytes(pairs)
    assert len(histogram.counts) == size
    assert there_and_back({0: statistics}) == {0: statistics}


def test_columns_of_usual_values_are_left_out() -> None:
    message = batch.encode([(0, with_counts({128: 1})), (5, TensorStatistics(0)), (7, TensorStatistics(1, 7))])
    assert list(message.layer) == [0, 7]
    assert not message.channels and not message.nan and not message.positive_infinity
    assert len(message.histogram) == 2 and message.histogram[1].lossless
    assert batch.encode([]) == type(message)()


def dense(channels: int, pages: int) -> TensorStatistics:
    """Large counts in every counter of the first `pages` pages: nothing packs worse."""
    counts = np.full((channels, pages, 128), 1 << 33, np.uint64)
    statistics = TensorStatistics(channels, 7)
    statistics.histogram = Bfloat16Histogram.from_pages(np.arange(pages), counts, True)
    statistics.count = statistics.histogram.totals()
    statistics.max[:] = np.array([(128 * pages - 1) << 16], np.uint32).view(np.float32)
    return statistics


@pytest.mark.parametrize(
    "layers, most_messages",
    [
        ({i: dense(1, 20) for i in range(50)}, 1),
        ({3 * i: dense(1, 255) for i in range(20)}, 4),
        ({1: dense(1, 1), 2: dense(40, 255), 3: dense(1, 1)}, 8),
        ({1: TensorStatistics(4, 7), 2: TensorStatistics(200_000, 7)}, 2),
    ],
)
def test_messages_are_bounded(layers: Dict[int, TensorStatistics], most_messages: int) -> None:
    rest = {number: statistics.copy() for number, statistics in layers.items()}
    together: Dict[int, TensorStatistics] = {}
    messages = 0
    while rest:
        taken = batch.take(rest)
        assert taken
        message = batch.encode(taken)
        messages += 1
        assert message.ByteSize() < MESSAGE_LIMIT
        for number, statistics in batch.decode(message, lambda place: True):
            if number in together:
                together[number].merge(statistics)
            else:
                together[number] = statistics
    assert together == layers
    assert messages <= most_messages


def test_one_row_is_taken_even_if_it_is_too_large() -> None:
    layers = {4: dense(3, 10)}
    parts = []
    while layers:
        ((number, part),) = batch.take(layers, max_bytes=100)
        assert number == 4 and part.channels == 3 and np.count_nonzero(part.count) == 1
        parts.append(part)
    assert len(parts) == 3
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0] == dense(3, 10)
