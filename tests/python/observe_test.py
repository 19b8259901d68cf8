"""Observing an array gives what counting its elements one by one gives."""

from __future__ import annotations

import struct
from typing import Iterable, List

import numpy as np
import pytest
from calibd.config import Observer
from calibd.errors import InvalidArgumentError
from calibd.observe import observe
from calibd.statistics import TensorStatistics

SPECIAL = [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x0000FFFF, 0x8000FFFF, 0x00010000, 0x80010000, 0x007FFFFF]
SPECIAL += [0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF, 0x3F800000]


def one_by_one(channels: Iterable[Iterable[int]], mantissa_bits: int) -> List[dict]:
    """Of float32 bits, by the definitions alone."""
    result = []
    for channel in channels:
        seen: dict = {"nan": 0, "positive": 0, "negative": 0, "values": [], "keys": {}, "lossless": True}
        for bits in channel:
            magnitude = bits & 0x7FFFFFFF
            if magnitude > 0x7F800000:
                seen["nan"] += 1
            elif magnitude == 0x7F800000:
                seen["negative" if bits >> 31 else "positive"] += 1
            else:
                seen["values"].append(struct.unpack("<f", struct.pack("<I", bits))[0] + 0.0)
                key = bits >> 16
                key = (0 if key == 0x8000 else key) >> (7 - mantissa_bits)
                seen["keys"][key] = seen["keys"].get(key, 0) + 1
                seen["lossless"] &= bits % (1 << (23 - mantissa_bits)) == 0
        result.append(seen)
    return result


def check(statistics: TensorStatistics, channels: List[List[int]], mantissa_bits: int = 7) -> None:
    assert statistics.channels == len(channels)
    for i, seen in enumerate(one_by_one(channels, mantissa_bits)):
        assert int(statistics.count[i]) == len(seen["values"])
        assert int(statistics.nan[i]) == seen["nan"]
        assert int(statistics.positive_infinity[i]) == seen["positive"]
        assert int(statistics.negative_infinity[i]) == seen["negative"]
        # Bytes tell -0 from 0.
        for column, extreme in ((statistics.min, min), (statistics.max, max)):
            assert column[i].tobytes() == np.float32(extreme(seen["values"], default=0.0)).tobytes()
        if statistics.histogram is not None:
            pages, counts = statistics.histogram.select(slice(i, i + 1)).rows()
            place, index = np.nonzero(counts)
            keys = (pages[place] << mantissa_bits) + index
            assert dict(zip(keys.tolist(), counts[place, index].tolist())) == seen["keys"]
            assert bool(statistics.histogram.lossless[i]) == seen["lossless"]


def float32_of(array: np.ndarray) -> np.ndarray:
    """The float32 bits of the elements."""
    if array.dtype.kind == "u":
        return array.astype(np.uint32) << 16
    return array.astype(np.float32).view(np.uint32)


def random_bits(seed: int, size: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    bits = generator.integers(0, 2**32, size, dtype=np.uint32)
    bits[generator.integers(0, size, size // 4)] = generator.choice(np.array(SPECIAL, np.uint32), size // 4)
    return bits


@pytest.mark.parametrize("mantissa_bits", [4, 5, 6, 7])
@pytest.mark.parametrize("bits", [[b] for b in SPECIAL] + [SPECIAL, [0x80000000, 0xBF800000], [0x7FC00000, 1]])
def test_special_values(bits: List[int], mantissa_bits: int) -> None:
    array = np.array(bits, np.uint32).view(np.float32)
    check(observe(array, Observer(), mantissa_bits), [bits], mantissa_bits)
    check(observe(array, Observer("minmax"), mantissa_bits), [bits], mantissa_bits)


@pytest.mark.parametrize("size", [1, 2, 15, 1000, 16383, 16384, 20000])
def test_random_bits(size: int) -> None:
    bits = random_bits(size, size)
    for kind in ("histogram", "minmax"):
        statistics = observe(bits.view(np.float32), Observer(kind))
        check(statistics, [bits.tolist()])
        assert (statistics.histogram is not None) == (kind == "histogram")


def test_more_than_a_block() -> None:
    values = np.random.default_rng(1).normal(size=300_000).astype(np.float32)
    values[[5, 200_000, 299_999]] = [np.nan, np.inf, -1e30]
    whole = observe(values, Observer())
    parts = observe(values[:100_001], Observer())
    parts.merge(observe(values[100_001:], Observer()))
    assert whole == parts
    assert (whole.count[0], whole.nan[0], whole.positive_infinity[0]) == (299_998, 1, 1)
    assert whole.min[0] == np.float32(-1e30) and whole.max[0] == np.nanmax(values[np.isfinite(values)])
    assert whole.histogram is not None
    finite = values[np.isfinite(values)].view(np.uint32) >> 16
    assert np.array_equal(
        whole.histogram.dense()[0], np.bincount(np.where(finite == 0x8000, 0, finite), minlength=65536)
    )


@pytest.mark.parametrize("bits", range(4, 8))
def test_every_float16(bits: int) -> None:
    array = np.arange(65536, dtype=np.uint16).view(np.float16)
    check(observe(array, Observer(), bits), [float32_of(array).tolist()], bits)


def test_every_bfloat16() -> None:
    words = np.arange(65536, dtype=np.uint16)
    statistics = observe(words, Observer(), dtype="bfloat16")
    check(statistics, [(words.astype(np.uint32) << 16).tolist()])
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert observe(words.view(ml_dtypes.bfloat16), Observer()) == statistics


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7,), (4, 5, 6), (1, 1, 1, 1, 5), (40, 500)])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_shapes(shape: tuple, kind: str) -> None:
    bits = random_bits(len(shape), int(np.prod(shape)) + 4)[: int(np.prod(shape))]
    array = bits.view(np.float32) if kind == "float32" else (bits >> 16).astype(np.uint16)
    array = (array.view(np.float16) if kind == "float16" else array).reshape(shape)
    check(observe(array, Observer(), dtype=kind), [float32_of(array.ravel()).tolist()])
    for axis in range(-len(shape), len(shape)):
        rows = np.moveaxis(array, axis, 0)
        rows = rows.reshape(len(rows), -1) if array.size else rows.reshape(len(rows), 0)
        check(observe(array, Observer("histogram", axis), dtype=kind), [float32_of(row).tolist() for row in rows])


@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_strides_and_byte_orders(axis: int) -> None:
    array = random_bits(3, 24 * 30 * 28).view(np.float32).reshape(24, 30, 28)
    views = [
        array[::2],
        array[:, ::-3, 1::2],
        array.T,
        array.swapaxes(0, 1)[::-1],
        np.broadcast_to(array[:1], (9, 30, 28)),
    ]
    for view in views:
        expected = observe(np.ascontiguousarray(view), Observer("histogram", axis))
        assert observe(view, Observer("histogram", axis)) == expected
        swapped = view.astype(view.dtype.newbyteorder(">"))
        swapped.flags.writeable = False
        assert observe(swapped, Observer("histogram", axis)) == expected
    unaligned = np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(np.float32).reshape(array.shape)
    assert observe(unaligned, Observer("histogram", axis)) == observe(array, Observer("histogram", axis))


@pytest.mark.parametrize("shape", [(3, 40_000), (40_000, 3), (2, 20_000, 2)])
def test_long_channels(shape: tuple) -> None:
    array = random_bits(5, int(np.prod(shape))).view(np.float32).reshape(shape)
    for axis in range(len(shape)):
        statistics = observe(array, Observer("histogram", axis))
        rows = np.moveaxis(array, axis, 0)
        for channel in {0, len(rows) // 2, len(rows) - 1}:
            assert statistics.select(slice(channel, channel + 1)) == observe(rows[channel], Observer())


def test_many_channels_stay_small() -> None:
    array = np.random.default_rng(2).normal(size=(4096, 9)).astype(np.float32)
    assert observe(array, Observer("histogram", 0)).nbytes < 4096 * 10 * 1100


def test_the_array_is_left_alone() -> None:
    array = np.array([1.0, np.nan, -np.inf, 2.0], np.float32)
    before = array.tobytes()
    observe(array, Observer())
    assert array.tobytes() == before


@pytest.mark.parametrize("dtype", ["float64", "int8", "int32", "bool", "complex64", "object", "uint16"])
def test_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(InvalidArgumentError, match="cannot be observed"):
        observe(np.zeros(3, dtype), Observer())


def test_wrong_claims_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="float32 cannot be observed as bfloat16"):
        observe(np.zeros(3, np.float32), Observer(), dtype="bfloat16")
    with pytest.raises(InvalidArgumentError, match="along axis 2"):
        observe(np.zeros((3, 4), np.float32), Observer("histogram", 2))
    with pytest.raises(InvalidArgumentError, match="along axis -1"):
        observe(np.float32(1), Observer("histogram", -1))
    with pytest.raises(InvalidArgumentError, match="mantissa_bits is 3"):
        observe(np.zeros(3, np.float32), Observer(), 3)


def test_what_numpy_makes_no_array_of_is_refused() -> None:
    class Unreadable:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("it is elsewhere")

    with pytest.raises(InvalidArgumentError, match=r"no array of this .*Unreadable \(it is elsewhere\)$"):
        observe(Unreadable(), Observer())


def test_tensors_that_numpy_can_not_read_are_told_where_to_go() -> None:
    torch = pytest.importorskip("torch")
    for tensor in (torch.ones(3, dtype=torch.bfloat16), torch.nn.Parameter(torch.ones(3))):
        with pytest.raises(InvalidArgumentError, match="torch.*calibd.torch.watch.*calibd.torch.observe.*detach"):
            observe(tensor, Observer())
    assert observe(torch.ones(3), Observer()) == observe(np.ones(3, np.float32), Observer())
