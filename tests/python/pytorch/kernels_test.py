"""Every way to count a tensor gives what calibd.observe gives of the same elements, bit for bit."""

from __future__ import annotations

import concurrent.futures
import sys
import tracemalloc

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


def part_of_interrupted(value, size, dtype):
    """Elements that tell of themselves how many of them were counted."""
    part = torch.full((size,), float(value))
    part.view(torch.int32)[::50] = 0x7F800001  # NaN, of whose upper half alone the table says infinity
    return part.to(dtype)


class Interrupt:
    """Raises KeyboardInterrupt before the instruction of host_counter.py that has this number; a context manager."""

    def __init__(self, instruction):
        self.left = instruction

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, kind, *_):
        sys.settrace(self._before)
        return kind is KeyboardInterrupt

    def _trace(self, frame, event, _):
        if not frame.f_code.co_filename.endswith("host_counter.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self._trace


@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
def test_an_interrupt_counts_nothing_twice(dtype):
    """Whatever instruction it comes before, what was counted is whole parts, once each."""
    type_ = sample_tensors.DTYPES[dtype]
    sizes = [100, *[13_000] * 5, 13_001, 1 << 16, 20_000, 3, 65_000]
    parts = [part_of_interrupted((-2) ** place, size, type_) for place, size in enumerate(sizes)]
    alone = [reference(part, Observer()) for part in parts]
    keys = [int(one.histogram.dense()[0].argmax()) for one in alone]
    instruction, interrupted = 0, True
    while interrupted:
        instruction += 1
        counter = kernels.make_counter(parts[0], Observer())
        for part in parts[:6]:
            counter.add(part)
        interrupt = Interrupt(instruction)
        with interrupt:
            counter.add(parts[6])  # the five before it are counted
            counter.add(torch.cat(parts[7:9]))  # of two blocks
            counter.statistics(7)  # the seventh is counted
        interrupted = interrupt.left <= 0
        for part in parts[9:]:
            counter.add(part)
        found = counter.statistics(7)
        times = found.histogram.dense()[0, keys] / np.concatenate([one.count for one in alone])
        assert set(times.tolist()) <= {0, 1} and times[[0, 9, 10]].all(), (instruction, times)
        expected = alone[0].copy()
        for place in np.flatnonzero(times)[1:]:
            expected.merge(alone[place])
        assert_same(found, expected)
    assert instruction > 100 and times.all()


def test_a_counter_of_ranges_takes_little_memory():
    tensor = torch.ones(10)
    kernels.observe(tensor, OBSERVERS["minmax"])
    tracemalloc.start()
    try:
        counters = [kernels.make_counter(tensor, OBSERVERS["minmax"]) for _ in range(20)]
        for counter in counters * 3:
            counter.add(tensor)
        assert tracemalloc.get_traced_memory()[0] < 20 * 40_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
def test_a_negative_view_counts_as_its_values(dtype, observer):
    """Of conjugates PyTorch keeps imaginary parts with a bit that says that all are to be negated."""
    positive = sample_tensors.strided(sample_tensors.DTYPES[dtype])["contiguous"].abs()
    for tensor in (positive, positive.transpose(0, 1), positive[:, 1], positive[1:, ::2]):
        for count in (kernels.observe, on_device):
            found = count(torch._neg_view(tensor), OBSERVERS[observer])
            assert_same(found, reference(tensor.neg(), OBSERVERS[observer]))


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("dtype", sample_tensors.DTYPES)
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_dtype_changes_nothing(default, dtype, observer):
    tensor = sample_tensors.strided(sample_tensors.DTYPES[dtype])["edges"]
    expected = reference(tensor, OBSERVERS[observer])
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = [count(tensor, OBSERVERS[observer]) for count in (kernels.observe, on_device)]
    finally:
        torch.set_default_dtype(before)
    for statistics in found:
        assert_same(statistics, expected)


@pytest.mark.skipif(not hasattr(torch, "set_default_device"), reason="this PyTorch has no default device")
def test_the_default_device_changes_nothing():
    tensor = sample_tensors.strided(torch.float32)["edges"]

    def count():
        torch.set_default_device("meta")  # of this thread, which has counted nothing before
        return kernels.observe(tensor, Observer())

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        assert_same(thread.submit(count).result(60), reference(tensor, Observer()))


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
