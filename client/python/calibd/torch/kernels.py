"""Statistics of tensors, computed where the tensors are.

    tensor on the host, per tensor        host_counter.py
    tensor on the host, per channel       calibd.observe on the same memory
    tensor elsewhere                      device_counter.py, device_range.py

All give what calibd.observe gives of the same elements, bit for bit.
"""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt
import torch

from calibd.errors import InvalidArgumentError
from calibd.observe import observe as observe_array
from calibd.observer import Observer
from calibd.statistics import TensorStatistics
from calibd.torch.device_counter import DeviceCounter
from calibd.torch.device_range import DeviceRange
from calibd.torch.host_counter import HostCounter

#: The element types that can be observed.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: Histograms of more channels than this are counted on the host: each takes half a megabyte on the device.
MOST_DEVICE_CHANNELS = 512

#: What counts several tensors before their statistics are asked for.
Counter = Union[HostCounter, DeviceCounter, DeviceRange]


def observe(tensor: torch.Tensor, observer: Observer = Observer(), mantissa_bits: int = 7) -> TensorStatistics:
    """Counts the elements of a tensor as `observer` collects them: over its channel axis, or as one channel.

    tensor: float32, float16 or bfloat16, on any device, of any shape and strides; may require gradients.
    mantissa_bits: 4 to 7, those of the session.

    Waits for the tensor's device. InvalidArgumentError: no tensor, or of another element type; it has no such axis.
    """
    check(tensor, observer)
    counter = make_counter(tensor, observer)
    if counter is None:
        return observe_on_host(tensor, observer, mantissa_bits)
    add(counter, tensor, observer)
    return collect([counter], mantissa_bits)[0]


def check(tensor: torch.Tensor, observer: Observer) -> None:
    """InvalidArgumentError unless tensors like this can be observed so."""
    if not isinstance(tensor, torch.Tensor):
        kind = f"{type(tensor).__module__}.{type(tensor).__qualname__}"
        raise InvalidArgumentError(
            f"calibd.torch observes a torch.Tensor and was given a {kind}: arrays are for a session's observe"
        )
    if tensor.dtype not in DTYPES:
        raise InvalidArgumentError(
            f"a tensor of {tensor.dtype} cannot be observed: round it to float32, float16 or bfloat16 first, or leave "
            "its layer out"
        )
    axis = observer.channel_axis
    if axis is not None and not -tensor.dim() <= axis < tensor.dim():
        raise InvalidArgumentError(
            f"tensor of shape {list(tensor.shape)}: the layer is observed per channel along axis {axis}, which this "
            "shape does not have"
        )


def channels_of(tensor: torch.Tensor, observer: Observer) -> int:
    """Channels that a tensor is observed as. REQUIRES: check() raised nothing."""
    return 1 if observer.channel_axis is None else tensor.shape[observer.channel_axis]


def make_counter(tensor: torch.Tensor, observer: Observer, *, on_device: Optional[bool] = None) -> Optional[Counter]:
    """A counter for tensors of this one's dtype, device and channels; None: observe_on_host each of them.

    on_device: True takes a device's counter for tensors on the host too; None decides by the device.
    """
    if _is_for_device(tensor, on_device):
        channels = channels_of(tensor, observer)
        if not observer.collects_histogram:
            return DeviceRange(tensor.device, channels)
        return DeviceCounter(tensor.dtype, tensor.device, channels) if channels <= MOST_DEVICE_CHANNELS else None
    if observer.channel_axis is not None:
        return None
    return HostCounter(tensor.dtype, observer.collects_histogram)


def device_bytes(tensor: torch.Tensor, observer: Observer, *, on_device: Optional[bool] = None) -> int:
    """What the counts of a counter that make_counter makes take on a device; those of ranges, which are few, as 0."""
    channels = channels_of(tensor, observer)
    if not observer.collects_histogram or not _is_for_device(tensor, on_device) or channels > MOST_DEVICE_CHANNELS:
        return 0
    return 8 * DeviceCounter.elements_of(channels)


def _is_for_device(tensor: torch.Tensor, on_device: Optional[bool]) -> bool:
    return tensor.device.type != "cpu" if on_device is None else on_device


def add(counter: Counter, tensor: torch.Tensor, observer: Observer) -> None:
    """Counts a tensor like the one that the counter was made for."""
    if isinstance(counter, HostCounter):
        counter.add(tensor)
    else:
        counter.add(tensor, observer.channel_axis)


def observe_on_host(tensor: torch.Tensor, observer: Observer, mantissa_bits: int) -> TensorStatistics:
    """As observe, by calibd.observe; the elements are copied if they are not in the host's memory."""
    array, dtype = host_array(tensor)
    return observe_array(array, observer, mantissa_bits, dtype)


def host_array(tensor: torch.Tensor) -> Tuple[npt.NDArray[Any], Optional[str]]:
    """The elements as calibd.observe takes them: an array and its `dtype`. The same memory if that is the host's."""
    tensor = tensor.detach().resolve_neg().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16), "bfloat16"
    return tensor.numpy(), None


def collect(counters: Sequence[Counter], mantissa_bits: int) -> List[TensorStatistics]:
    """Statistics of counters, those of one device brought to the host in one transfer that this thread waits for."""
    found: List[Optional[TensorStatistics]] = [None] * len(counters)
    on_devices: Dict[torch.device, List[Tuple[int, Any]]] = {}
    for place, counter in enumerate(counters):
        if isinstance(counter, HostCounter):
            found[place] = counter.statistics(mantissa_bits)
        else:
            on_devices.setdefault(counter.device, []).append((place, counter))
    for group in on_devices.values():
        packed = torch.cat([counter.pack() for _, counter in group]).cpu().numpy()
        ends = np.cumsum([counter.elements_held for _, counter in group])
        for (place, counter), part in zip(group, np.split(packed, ends[:-1])):
            found[place] = counter.unpack(part, mantissa_bits)
    return found  # type: ignore[return-value]
