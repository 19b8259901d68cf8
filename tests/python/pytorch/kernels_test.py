"""Every way to count a tensor gives what calibd.observe gives of the same elements, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import sample_tensors  # noqa: E402
from calibd.errors import InvalidArgumentError  # noqa: E402
from calibd.observe import observe as observe_array  # noqa: E402
from calibd.observer import Observer  # noqa: E402
from calibd.torch import kernels  # noqa: E402

CASES = [(dtype, name) for dtype, type_ in sample_tensors.DTYPES.items() for name in sample_tensors.strided(type_)]
MOST_DENSE_CHANNELS = 100
OBSERVERS = {
    "histogram": Observer("histogram"),
    "histogram, first axis": Observer("histogram", channel_axis=0),
    "histogram, last axis": Observer("histogram", channel_axis=-1),
    "minmax": Observer("minmax"),
    "minmax, first axis": Observer("minmax", channel_axis=0),
    "minmax, last axis": Observer("minmax", channel_axis=-1),
}


def reference(tensor, observer, mantissa_bits=7):
    array, dtype = kernels.host_array(tensor)
    return observe_array(np.ascontiguousarray(array).reshape(array.shape), observer, mantissa_bits, dtype)


def assert_same(found, expected):
    """Equal, also in the signs of zeros and in every byte of the counts."""
    assert found == expected
    for name in ("count", "nan", "positive_infinity", "negative_infinity", "min", "max"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes(), name
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name
    if expected.histogram is not None and 0 < expected.channels <= MOST_DENSE_CHANNELS:
        assert found.histogram.dense().tobytes() == expected.histogram.dense().tobytes()
        assert found.histogram.lossless.tolist() == expected.histogram.lossless.tolist()


def on_device(tensor, observer, mantissa_bits=7):
    counter = kernels.make_counter(tensor, observer, on_device=True)
    if counter is None:
        assert kernels.channels_of(tensor, observer) > kernels.MOST_DEVICE_CHANNELS
        return kernels.observe_on_host(tensor, observer, mantissa_bits)
    assert not isinstance(counter, kernels.HostCounter)
    kernels.add(counter, tensor, observer)
    return kernels.collect([counter], mantissa_bits)[0]


@pytest.mark.parametrize("how", ["by its device", "as on a device"])
@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("dtype, name", CASES)
def test_equals_numpy(dtype, name, observer, how):
    tensor = sample_tensors.strided(sample_tensors.DTYPES[dtype])[name]
    collects = OBSERVERS[observer]
    count = kernels.observe if how == "by its device" else on_device
    assert_same(count(tensor, collects), reference(tensor, collects))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
def test_equals_numpy_on_cuda(dtype):
    for name, tensor in sample_tensors.strided(sample_tensors.DTYPES[dtype]).items():
        for what, observer in OBSERVERS.items():
            found, expected = kernels.observe(tensor.cuda(), observer), reference(tensor, observer)
            assert found == expected, (name, what)


@pytest.mark.parametrize("forced", [None, True])
@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
def test_tensors_add_up(dtype, forced):
    parts = [tensor for tensor in sample_tensors.strided(sample_tensors.DTYPES[dtype]).values()]
    counter = kernels.make_counter(parts[0], Observer(), on_device=forced)
    for part in parts:
        kernels.add(counter, part, Observer())
    expected = reference(parts[0], Observer(), 5)
    for part in parts[1:]:
        expected.merge(reference(part, Observer(), 5))
    assert_same(kernels.collect([counter], 5)[0], expected)


@pytest.mark.parametrize("observer", ["histogram", "minmax"])
@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
def test_small_and_large_tensors_add_up_on_the_host(dtype, observer):
    """Small ones wait for others, and the statistics can be asked for at any time."""
    torch.manual_seed(3)
    collects = OBSERVERS[observer]
    for sizes in ([1, 70_000, 0, 16_384, 16_385, 9_999], [16_384] * 5 + [3], [5_000] * 30, [65_536, 1, 131_073]):
        parts = [(torch.randn(size) - 2).to(sample_tensors.DTYPES[dtype]) for size in sizes]
        counter = kernels.make_counter(parts[0], collects)
        assert isinstance(counter, kernels.HostCounter)
        for seen, part in enumerate(parts, 1):
            kernels.add(counter, part, collects)
            if seen in (len(parts) // 2, len(parts)):
                expected = reference(torch.cat(parts[:seen]), collects)
                assert_same(kernels.collect([counter], 7)[0], expected)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
def test_adding_reads_nothing_back(dtype, observer):
    """Tensors of the meta device have no data: whatever would wait for a device to read a value fails."""
    tensor = torch.empty(6, 40, 5, dtype=sample_tensors.DTYPES[dtype], device="meta")
    counter = kernels.make_counter(tensor, OBSERVERS[observer])
    kernels.add(counter, tensor, OBSERVERS[observer])
    with pytest.raises((NotImplementedError, RuntimeError)):
        tensor.sum().item()


def test_counters_of_several_layers_come_together():
    values = [torch.randn(50, 3), torch.randn(7).half(), torch.randn(4, 4).bfloat16(), torch.randn(9, 2)]
    observers = [Observer("minmax", channel_axis=1), Observer(), Observer(), Observer("histogram", channel_axis=0)]
    counters = []
    for tensor, observer in zip(values, observers):
        counters.append(kernels.make_counter(tensor, observer, on_device=True))
        kernels.add(counters[-1], tensor, observer)
    for tensor, observer, found in zip(values, observers, kernels.collect(counters, 4)):
        assert_same(found, reference(tensor, observer, 4))


def test_more_channels_than_a_device_takes():
    tensor = torch.randn(kernels.MOST_DEVICE_CHANNELS + 1, 3)
    observer = Observer("histogram", channel_axis=0)
    assert kernels.make_counter(tensor, observer, on_device=True) is None
    assert_same(kernels.observe(tensor, observer), reference(tensor, observer))


def test_subnormals_count_where_they_are_flushed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush subnormals")
    try:
        subnormal = torch.from_numpy(np.array([1, 0x80000001, 0x7FFFFF, 0, 0x3F800000], np.uint32).view(np.float32))
        found = kernels.observe(subnormal, Observer())
    finally:
        torch.set_flush_denormal(False)
    assert found.min.view(np.uint32).tolist() == [0x80000001]
    assert_same(found, reference(subnormal, Observer()))


def test_inference_mode_before_and_after():
    for forced in (None, True):
        with torch.inference_mode():
            first = torch.randn(100)
            counter = kernels.make_counter(first, Observer(), on_device=forced)
            kernels.add(counter, first, Observer())
        second = torch.randn(100)
        kernels.add(counter, second, Observer())
        expected = reference(torch.cat((first, second)), Observer())
        assert_same(kernels.collect([counter], 7)[0], expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.bool])
def test_other_types_are_refused(dtype):
    with pytest.raises(InvalidArgumentError, match=f"{dtype}.*float32, float16 or bfloat16"):
        kernels.observe(torch.ones(3, dtype=dtype))


@pytest.mark.parametrize("given", [np.ones(3, np.float32), np.ones(3), [1.0], None])
def test_what_is_no_tensor_is_refused(given):
    with pytest.raises(InvalidArgumentError, match=r"a torch\.Tensor.*(ndarray|list|NoneType): .*session's observe"):
        kernels.observe(given)


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(InvalidArgumentError, match=r"\[3\].*axis 1"):
        kernels.observe(torch.ones(3), Observer(channel_axis=1))
