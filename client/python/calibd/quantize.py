"""What to ask for, and what comes back: methods, specs and the quantization parameters of layers."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt

from calibd import arguments
from calibd.errors import CalibdError, InvalidArgumentError, from_detail
from calibd.rpc import quantization_pb2 as pb
from calibd.words import to_number, to_word


@dataclasses.dataclass(frozen=True)
class Method:
    """How the clip range is chosen from statistics.

    Attributes:
        method: minmax, percentile, coverage, mse, entropy, l2_greedy, lsq or lsq_plus.
        percentile: of percentile: per cent of the values inside, in (0, 100]; None: 99.99.
        coverage: of coverage: share of the values kept, in (0, 1]; None: 0.9999.
        one_sided: of percentile with an affine scheme: cut above only.
        norm: of mse: the power of the error that is least, in [1, 8]; None: 2.
        entropy_variant: of entropy: mxnet (None) or tensorrt.
    """

    method: str = "minmax"
    percentile: Optional[float] = None
    coverage: Optional[float] = None
    one_sided: bool = False
    norm: Optional[float] = None
    entropy_variant: Optional[str] = None

    def to_proto(self) -> pb.MethodSpec:
        """The message. Raises InvalidArgumentError for a word that there is not, and for what is no number."""
        message = pb.MethodSpec(
            method=to_number(pb.CalibrationMethod, self.method), one_sided=arguments.flag("one_sided", self.one_sided)
        )
        for name in ("percentile", "coverage", "norm"):
            if getattr(self, name) is not None:
                setattr(message, name, arguments.number(name, getattr(self, name)))
        if self.entropy_variant is not None:
            message.entropy_variant = to_number(pb.EntropyVariant, self.entropy_variant)
        return message

    @staticmethod
    def from_proto(message: pb.MethodSpec) -> Method:
        """The method of a message; one that is not set is minmax."""
        return Method(
            method=to_word(pb.CalibrationMethod, message.method) if message.method else "minmax",
            percentile=message.percentile if message.HasField("percentile") else None,
            coverage=message.coverage if message.HasField("coverage") else None,
            one_sided=message.one_sided,
            norm=message.norm if message.HasField("norm") else None,
            entropy_variant=to_word(pb.EntropyVariant, message.entropy_variant) if message.entropy_variant else None,
        )


@dataclasses.dataclass(frozen=True)
class QuantSpec:
    """The quantized type and the conventions of its parameters.

    Attributes:
        dtype: int1 to int32, uint1 to uint32, fp8_e4m3, fp8_e5m2, or auto8: uint8 for a layer without a negative
            value, else int8. NumPy's integer types stand for their names.
        scheme: symmetric (the real range is mirrored around zero) or affine.
        narrow_range: leave out the least code; None: as the preset does.
        preset: a framework's conventions: pytorch, tensorrt, megengine, onnxruntime, mxnet, aimet or mmrazor.
        per_channel: one scale a channel; the layer must be observed per channel.
        codes: (qmin, qmax), only these codes of an integer type; not together with narrow_range.
        reduce_range: half of the codes, for CPUs whose int8 products saturate.
        power_of_two: the scale is rounded up to a power of two; mse takes the best one.
    """

    dtype: str = "int8"
    scheme: str = "symmetric"
    narrow_range: Optional[bool] = None
    preset: str = "pytorch"
    per_channel: bool = False
    codes: Optional[Tuple[int, int]] = None
    reduce_range: bool = False
    power_of_two: bool = False

    def to_proto(self) -> pb.QuantSpec:
        """The message. Raises InvalidArgumentError for a word that there is not."""
        return _spec_message({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @staticmethod
    def from_proto(message: pb.QuantSpec) -> QuantSpec:
        """The spec of a message, what is not set by its default."""
        return QuantSpec(
            dtype=to_word(pb.QuantType, message.type) if message.type else "int8",
            scheme=to_word(pb.QuantScheme, message.scheme) if message.scheme else "symmetric",
            narrow_range=message.narrow_range if message.HasField("narrow_range") else None,
            preset=to_word(pb.QuantPreset, message.preset) if message.preset else "pytorch",
            per_channel=message.granularity == pb.QUANT_GRANULARITY_PER_CHANNEL,
            codes=(message.codes.qmin, message.codes.qmax) if message.HasField("codes") else None,
            reduce_range=message.reduce_range,
            power_of_two=message.power_of_two_scale,
        )


def to_method(method: Union[str, Method], **parameters: Any) -> Method:
    """A method by its name, with its parameters; None and False are left at their defaults."""
    given = {name: value for name, value in parameters.items() if value is not None and value is not False}
    if isinstance(method, str):
        return Method(method, **given)
    if not isinstance(method, Method):
        raise arguments.refusal("method", method, 'give a name, such as "mse", or a calibd.Method')
    if given:
        raise InvalidArgumentError(f"{', '.join(given)} given beside a Method, which has them itself")
    return method


def to_spec(dtype: Union[str, QuantSpec, None], **options: Any) -> Optional[pb.QuantSpec]:
    """The message for a type and options, in which what is None is not set; None where nothing is said."""
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(dtype, QuantSpec):
        if given:
            raise InvalidArgumentError(f"{', '.join(given)} given beside a QuantSpec, which has them itself")
        return dtype.to_proto()
    if dtype is not None:
        given["dtype"] = dtype
    return _spec_message(given) if given else None


def _spec_message(options: Mapping[str, Any]) -> pb.QuantSpec:
    message = pb.QuantSpec()
    for name, value in options.items():
        if value is None:
            continue
        if name == "dtype":
            message.type = to_number(pb.QuantType, _type_name(value))
        elif name == "scheme":
            message.scheme = to_number(pb.QuantScheme, value)
        elif name == "preset":
            message.preset = to_number(pb.QuantPreset, value)
        elif name == "per_channel":
            per_channel = arguments.flag(name, value)
            message.granularity = pb.QUANT_GRANULARITY_PER_CHANNEL if per_channel else pb.QUANT_GRANULARITY_PER_TENSOR
        elif name == "codes":
            message.codes.qmin, message.codes.qmax = _codes(value)
        elif name == "power_of_two":
            message.power_of_two_scale = arguments.flag(name, value)
        else:
            setattr(message, name, arguments.flag(name, value))
    return message


def _type_name(dtype: Any) -> str:
    if isinstance(dtype, np.dtype) or (isinstance(dtype, type) and issubclass(dtype, np.generic)):
        return str(np.dtype(dtype).name)
    return arguments.text("dtype", dtype, 'give a name, such as "int8", or a calibd.QuantSpec')


def _codes(value: Any) -> Tuple[int, int]:
    try:
        qmin, qmax = value
    except (TypeError, ValueError):
        raise arguments.refusal("codes", value, "it must be a pair (qmin, qmax)") from None
    least, greatest = -(1 << 63), (1 << 63) - 1
    return arguments.whole_number("qmin", qmin, least, greatest), arguments.whole_number("qmax", qmax, least, greatest)


@dataclasses.dataclass(frozen=True, eq=False)
class LayerQParams:
    """Quantization parameters of one layer, or why there are none. Arrays have one entry, or one a channel.

    Attributes:
        layer: the layer's name.
        method: the method that chose the range.
        spec: the spec that was used, with defaults filled in.
        error: why this layer has no qparams, or None; arrays are empty then, and what follows them 0.
        scale: float32; x is about scale * (q - zero_point).
        zero_point: int64; the code of real zero.
        qmin, qmax: least and greatest code.
        min, max: least and greatest finite value seen in the whole layer.
        clip_min, clip_max: float64; the range that the method chose, which has zero in it.
        count, nan, inf: finite, NaN and infinite values seen.
        workers: workers that contributed.
        mse: expected mean squared error; None without a histogram.
        sqnr_db: signal to quantization noise in decibels, +infinity when mse is 0; None without a histogram.
        clipped: share of the values that saturate, 0 to 1; None without a histogram.
        channel_axis: axis of the channels, negative counts from the end; None when per tensor.
    """

    layer: str
    method: Method
    spec: QuantSpec
    error: Optional[CalibdError]
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int64]
    qmin: int
    qmax: int
    min: float
    max: float
    clip_min: npt.NDArray[np.float64]
    clip_max: npt.NDArray[np.float64]
    count: int
    nan: int
    inf: int
    workers: int
    mse: Optional[float]
    sqnr_db: Optional[float]
    clipped: Optional[float]
    channel_axis: Optional[int]

    @staticmethod
    def from_proto(message: pb.LayerQParams) -> LayerQParams:
        """The qparams of a message."""
        return LayerQParams(
            layer=message.layer,
            method=Method.from_proto(message.method),
            spec=QuantSpec.from_proto(message.spec),
            error=from_detail(message.error) if message.HasField("error") else None,
            scale=np.array(message.scale, np.float32),
            zero_point=np.array(message.zero_point, np.int64),
            qmin=message.qmin,
            qmax=message.qmax,
            min=message.min,
            max=message.max,
            clip_min=np.array(message.clip_min, np.float64),
            clip_max=np.array(message.clip_max, np.float64),
            count=message.count,
            nan=message.nan,
            inf=message.inf,
            workers=message.workers,
            mse=message.mse if message.HasField("mse") else None,
            sqnr_db=message.sqnr_db if message.HasField("sqnr_db") else None,
            clipped=message.clipped if message.HasField("clipped") else None,
            channel_axis=message.channel_axis if message.HasField("channel_axis") else None,
        )
