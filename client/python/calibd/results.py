"""What a session answers: qparams, statistics, files."""

from __future__ import annotations

import warnings
from typing import Dict, List, Mapping, Optional, Sequence, Tuple, Union

from calibd import arguments, batch
from calibd.channel import Connection
from calibd.deadline import Default, Timeout
from calibd.errors import InvalidArgumentError
from calibd.export import ExportSummary, Input, Path, export, format_number
from calibd.observer import Observer
from calibd.quantize import LayerQParams, Method, QuantSpec, to_method, to_spec
from calibd.rpc import calibration_service_pb2 as pb
from calibd.rpc import export_pb2
from calibd.statistics import TensorStatistics


class SessionResults:
    """The results of a session by its name; a Session has them. Thread-safe."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def qparams(
        self,
        pattern: str = "",
        method: Union[str, Method] = "minmax",
        dtype: Union[str, QuantSpec, None] = None,
        *,
        percentile: Optional[float] = None,
        one_sided: bool = False,
        coverage: Optional[float] = None,
        norm: Optional[float] = None,
        entropy_variant: Optional[str] = None,
        scheme: Optional[str] = None,
        narrow_range: Optional[bool] = None,
        preset: Optional[str] = None,
        per_channel: Optional[bool] = None,
        codes: Optional[Tuple[int, int]] = None,
        reduce_range: Optional[bool] = None,
        power_of_two: Optional[bool] = None,
        timeout: Timeout = Default.CONNECTION,
    ) -> List[LayerQParams]:
        """Quantization parameters of the layers that match a glob (empty: all), from what is collected now.

        A layer that can't be answered carries its own `error`. Parameters are those of Method and QuantSpec; when
        nothing is said of the type each layer's rule decides. `timeout` in seconds; None: no limit; the default is the
        one given to connect. Raises NotFoundError when no layer matches.
        """
        chosen = to_method(
            method,
            percentile=percentile,
            one_sided=one_sided,
            coverage=coverage,
            norm=norm,
            entropy_variant=entropy_variant,
        )
        spec = to_spec(
            dtype,
            scheme=scheme,
            narrow_range=narrow_range,
            preset=preset,
            per_channel=per_channel,
            codes=codes,
            reduce_range=reduce_range,
            power_of_two=power_of_two,
        )
        request = pb.ComputeQParamsRequest(
            session=self._name, pattern=_glob(pattern), method=chosen.to_proto(), spec=spec
        )
        answer = self._connection.unary("ComputeQParams", request, timeout)
        if answer.incomplete:
            self._warn_incomplete()
        return [LayerQParams.from_proto(layer) for layer in answer.layer]

    def compare(
        self,
        pattern: str = "",
        methods: Sequence[Union[str, Method]] = ("minmax", "mse", "entropy", "percentile"),
        dtypes: Sequence[Union[str, QuantSpec]] = ("int8",),
        *,
        timeout: Timeout = Default.CONNECTION,
    ) -> List[LayerQParams]:
        """The same layers under several methods and types: by layer, then type, then method, in the order given.

        At most 64 combinations. `timeout` as of qparams.
        """
        for name, several in (("methods", methods), ("dtypes", dtypes)):
            if isinstance(several, (str, Method, QuantSpec)):
                raise arguments.refusal(name, several, "it must be a sequence, such as a list")
        request = pb.CompareMethodsRequest(
            session=self._name,
            pattern=_glob(pattern),
            method=[to_method(method).to_proto() for method in methods],
            spec=[spec for spec in map(to_spec, dtypes) if spec is not None],
        )
        answer = self._connection.unary("CompareMethods", request, timeout)
        return [LayerQParams.from_proto(layer) for layer in answer.layer]

    def statistics(self, pattern: str = "") -> Dict[str, TensorStatistics]:
        """The statistics of the layers that match a glob (empty: all), as collected, by name."""
        found: Dict[str, TensorStatistics] = {}
        request = pb.GetStatisticsRequest(session=self._name, pattern=_glob(pattern))
        while True:
            answer = self._connection.unary("GetStatistics", request)
            observers = [Observer.from_proto(observer) for observer in answer.observer]
            for handle, statistics in batch.decode(answer.statistics, lambda i: observers[i].collects_histogram):
                layer = answer.layer[handle]
                if layer in found:
                    found[layer].merge(statistics)
                else:
                    found[layer] = statistics
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    def export(
        self,
        format: str,
        path: Optional[Path] = None,
        *,
        pattern: str = "",
        method: Union[str, Method] = "minmax",
        dtype: Union[str, QuantSpec, None] = None,
        scheme: Optional[str] = None,
        preset: Optional[str] = None,
        per_channel: Optional[bool] = None,
        weights: str = "",
        weight_method: Union[str, Method] = "minmax",
        weight_dtype: Union[str, QuantSpec, None] = None,
        names: Optional[Mapping[str, str]] = None,
        skip_unexportable: bool = False,
        model: Optional[Input] = None,
        table: Optional[Input] = None,
        tensorrt_version: str = "",
        tensorrt_algorithm: str = "",
        activations_only: bool = False,
        float_weights: bool = False,
        least_kv_scale: float = 0.0,
        timeout: Optional[float] = 300.0,
    ) -> ExportSummary:
        """Makes a file that a deployment toolchain loads.

        Args:
            format: json, csv, onnx-qdq, tensorrt-cache, onnxruntime-table, onnxruntime-overrides, aimet-0.6.1,
                aimet-1.0.0, aimet-2.0.0, safetensors, ncnn or mxnet.
            path: where it goes, whole or not at all, over what was there; None: into the summary's `data`.
            pattern: glob over layer names; empty: all.
            method, dtype, scheme, preset, per_channel: of activations; what is not said is as the format's consumers
                expect. A QuantSpec says everything. TensorRT takes an ONNX model of dtype="int8", scheme="symmetric".
            weights: glob of the layers that are weights; empty: `*.weight`.
            weight_method, weight_dtype: of weights.
            names: names in the file, by layer.
            skip_unexportable: leave out layers that the file can't have, and list them; False: they are an error.
            model: for onnx-qdq, the float model: a path, bytes, or an onnx.ModelProto.
            table: for ncnn, the table whose activations are replaced: a path, or bytes.
            tensorrt_version, tensorrt_algorithm: for tensorrt-cache; empty: 10.3.0 and EntropyCalibration2.
            activations_only: for onnx-qdq: leave weights alone.
            float_weights: for onnx-qdq: keep float weights before QuantizeLinear.
            least_kv_scale: for safetensors: least scale of the KV cache; ModelOpt writes 1.
            timeout: seconds for all of it; None: no limit.
        """
        if model is not None and table is not None:
            raise InvalidArgumentError("give a model or a table, not both")
        options = export_pb2.ExportOptions(
            session=self._name,
            pattern=_glob(pattern),
            format=format_number(format),
            method=to_method(method).to_proto(),
            spec=to_spec(dtype, scheme=scheme, preset=preset, per_channel=per_channel),
            weight_pattern=_glob(weights, "weights"),
            weight_method=to_method(weight_method).to_proto(),
            weight_spec=to_spec(weight_dtype),
            name=names or {},
            skip_unexportable=skip_unexportable,
        )
        if tensorrt_version or tensorrt_algorithm:
            options.tensorrt_cache.version = tensorrt_version
            options.tensorrt_cache.algorithm = tensorrt_algorithm
        if activations_only or float_weights:
            options.onnx_qdq.activations_only = activations_only
            options.onnx_qdq.float_weights = float_weights
        if least_kv_scale:
            options.safetensors.least_kv_scale = least_kv_scale
        summary = export(self._connection, options, model if model is not None else table, path, timeout)
        if summary.incomplete:
            self._warn_incomplete()
        return summary

    def _warn_incomplete(self) -> None:
        warnings.warn(
            f"session {self._name} is incomplete: the server's store lost values that it had called durable",
            RuntimeWarning,
            stacklevel=3,
        )


def _glob(pattern: str, name: str = "pattern") -> str:
    return arguments.text(name, pattern, "it must be a glob over layer names; empty: all")
