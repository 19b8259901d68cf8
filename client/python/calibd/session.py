"""One session: observe into it, ask it for qparams."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type, Union

import numpy as np

from calibd import batch
from calibd.channel import Connection
from calibd.config import SessionConfig
from calibd.contribution import Contribution
from calibd.errors import AbortedError, FailedPreconditionError, InvalidArgumentError
from calibd.export import ExportSummary, Input, Path, export, format_number
from calibd.info import SessionInfo, SynchronousInfo
from calibd.observer import Observer
from calibd.quantize import LayerQParams, Method, QuantSpec, to_method, to_spec
from calibd.rank import PendingStep, Rank, StepData, StepResult
from calibd.rpc import calibration_service_pb2 as pb
from calibd.rpc import export_pb2
from calibd.statistics import TensorStatistics
from calibd.step import World


class Session:
    """A session by its name; made by Client. Thread-safe.

    What is observed goes through a worker that is opened on first use, with a rank through a Rank. A process that is
    forked opens a worker of its own; a rank that is open stays the parent's. As a context manager it closes at the end.
    """

    def __init__(self, connection: Connection, contribution: Contribution) -> None:
        self._connection = connection
        self._name = contribution.session
        self._contribution = contribution
        self._config: Optional[SessionConfig] = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def rank(self) -> Optional[int]:
        """The rank as which it takes part in synchronous steps, or None."""
        return self._contribution.rank

    @property
    def config(self) -> SessionConfig:
        """What the session collects; it never changes. Asks the server once."""
        if self._config is None:
            request = pb.GetSessionRequest(session=self._name, page_size=1)
            self._config = SessionConfig.from_proto(self._connection.unary("GetSession", request).session.config)
        return self._config

    # --- Contributing.

    def open(self) -> None:
        """Opens the worker or rank now, not on first use, and waits for the server's answer. Can be repeated.

        Its threads are there then, which from Python 3.12 on can't be started while the process exits; and functions
        that are registered with atexit after this can still observe, as it is closed after them.

        Raises UnavailableError when the server can't be reached, and what ended the worker or rank.
        """
        self._contribution.open()

    def observe(self, layer: str, array: Any, dtype: Optional[str] = None) -> None:
        """Counts an array into a layer's statistics, here; it is sent later, and its values count exactly once.

        Args:
            layer: UTF-8, up to 512 bytes. A layer that the session's rules skip is passed over.
            array: float32, float16 or bfloat16, of any shape and strides.
            dtype: "bfloat16" for an array of uint16 that holds such; else None.

        Raises InvalidArgumentError for what can't be observed, and what ended the worker or had the layer refused.
        """
        self._contribution.worker().observe(layer, array, dtype)

    def observe_statistics(self, layer: str, statistics: TensorStatistics) -> None:
        """Merges what was counted elsewhere, such as on a GPU, as `observe` does."""
        self._contribution.worker().observe_statistics(layer, statistics)

    def step(
        self, layers: Mapping[str, StepData], *, step: Optional[int] = None, timeout: Optional[float] = None
    ) -> StepResult:
        """Contributes to a synchronous step and waits until all ranks have; see Rank.step. Needs a rank."""
        return self._contribution.as_rank().step(layers, step=step, timeout=timeout)

    def start_step(
        self, layers: Mapping[str, StepData], *, step: Optional[int] = None, timeout: Optional[float] = None
    ) -> PendingStep:
        """Contributes to a synchronous step; its result by `wait` of what is returned. See Rank.start_step."""
        return self._contribution.as_rank().start_step(layers, step=step, timeout=timeout)

    @property
    def next_step(self) -> int:
        """The synchronous step that this rank contributes to next; until it has, the server is asked.

        Raises FailedPreconditionError without a rank.
        """
        rank = self._contribution.contributor
        if isinstance(rank, Rank):
            return rank.next_step
        if self.rank is None:
            raise self._contribution.needs_rank()
        return self._synchronous().folded_step + 1

    @property
    def world(self) -> World:
        """The ranks of synchronous steps: as this rank last heard of them; until it contributes, or without a rank, as
        the server has them."""
        rank = self._contribution.contributor
        return rank.world if isinstance(rank, Rank) else self._synchronous().world

    def flush(self, timeout: float = 300.0) -> None:
        """Returns once everything that this process observed is durable.

        Raises DeadlineExceededError after `timeout` seconds (nothing is lost; call again), what ended the worker, or
        the first refusal, when everything else is durable.
        """
        contributor = self._contribution.contributor
        if contributor is not None:
            contributor.flush(timeout)

    def close(self, timeout: float = 300.0) -> None:
        """flush, then ends the worker; observing again opens another. After DeadlineExceededError it is still open."""
        self._contribution.close(timeout)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """close(); after an exception what was observed is left to the process's exit."""
        if kind is None:
            self.close()

    # --- The session on the server.

    def describe(self) -> SessionInfo:
        """The session, all its layers and workers."""
        request = pb.GetSessionRequest(session=self._name)
        first = answer = self._connection.unary("GetSession", request)
        layers = list(first.layer)
        while answer.next_page_token:
            request.page_token = answer.next_page_token
            answer = self._connection.unary("GetSession", request)
            layers.extend(answer.layer)
        return SessionInfo.from_proto(first.session, layers, first.worker)

    def seal(self) -> None:
        """Ends collection: later updates are refused, results are final and durable. Can be repeated."""
        self._connection.unary("SealSession", pb.SealSessionRequest(session=self._name))

    def delete(self) -> None:
        """Removes the session and everything that it collected."""
        self._connection.unary("DeleteSession", pb.DeleteSessionRequest(session=self._name))

    def set_enabled(self, pattern: str, enabled: bool) -> int:
        """Switches observers on or off by layer glob, also of layers not seen yet; how many seen so far match."""
        request = pb.SetObserversEnabledRequest(session=self._name, pattern=pattern, enabled=enabled)
        return int(self._connection.unary("SetObserversEnabled", request).layers)

    def set_qparams(self, layer: str, scale: Any, zero_point: Any = ()) -> None:
        """Sets the qparams of a layer with a passive observer.

        Args:
            layer: its name.
            scale: one, or one a channel: finite and above 0. Numbers, an array or a tensor.
            zero_point: of each scale; empty: 0 everywhere.
        """
        request = pb.SetQParamsRequest(
            session=self._name, layer=layer, scale=_list(scale), zero_point=[int(value) for value in _list(zero_point)]
        )
        self._connection.unary("SetQParams", request)

    def set_world(self, world_size: int) -> World:
        """Changes the number of ranks from the lowest open step on; what was given for open steps is dropped.

        Raises AbortedError (WORLD_EPOCH_STALE) when somebody else changed it to another size at the same time.
        """
        before = self._synchronous().world
        request = pb.SetWorldRequest(session=self._name, expected_epoch=before.epoch, world_size=world_size)
        try:
            world = self._connection.unary("SetWorld", request).world
            return World(world.epoch, world.size)
        except AbortedError:
            # An earlier try, whose answer was lost, may have done it.
            now = self._synchronous().world
            if now != (before.epoch + 1, world_size):
                raise
            return now

    # --- Results.

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
        timeout: Optional[float] = None,
    ) -> List[LayerQParams]:
        """Quantization parameters of the layers that match a glob (empty: all), from what is collected now.

        A layer that can't be answered carries its own `error`. Parameters are those of Method and QuantSpec; when
        nothing is said of the type each layer's rule decides. Raises NotFoundError when no layer matches.
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
        request = pb.ComputeQParamsRequest(session=self._name, pattern=pattern, method=chosen.to_proto(), spec=spec)
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
        timeout: Optional[float] = None,
    ) -> List[LayerQParams]:
        """The same layers under several methods and types: by layer, then type, then method, in the order given.

        At most 64 combinations.
        """
        request = pb.CompareMethodsRequest(
            session=self._name,
            pattern=pattern,
            method=[to_method(method).to_proto() for method in methods],
            spec=[spec for spec in map(to_spec, dtypes) if spec is not None],
        )
        answer = self._connection.unary("CompareMethods", request, timeout)
        return [LayerQParams.from_proto(layer) for layer in answer.layer]

    def statistics(self, pattern: str = "") -> Dict[str, TensorStatistics]:
        """The statistics of the layers that match a glob (empty: all), as collected, by name."""
        found: Dict[str, TensorStatistics] = {}
        request = pb.GetStatisticsRequest(session=self._name, pattern=pattern)
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
        timeout: float = 300.0,
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
            timeout: seconds for all of it.
        """
        if model is not None and table is not None:
            raise InvalidArgumentError("give a model or a table, not both")
        options = export_pb2.ExportOptions(
            session=self._name,
            pattern=pattern,
            format=format_number(format),
            method=to_method(method).to_proto(),
            spec=to_spec(dtype, scheme=scheme, preset=preset, per_channel=per_channel),
            weight_pattern=weights,
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

    def _synchronous(self) -> SynchronousInfo:
        """Where the server is with synchronous steps; without the layers, of which there may be many."""
        request = pb.GetSessionRequest(session=self._name, page_size=1)
        synchronous = SessionInfo.from_proto(self._connection.unary("GetSession", request).session).synchronous
        if synchronous is None:
            raise FailedPreconditionError(
                f"session {self._name} has no synchronous steps", reason="SESSION_NOT_SYNCHRONOUS"
            )
        return synchronous

    def _warn_incomplete(self) -> None:
        warnings.warn(
            f"session {self._name} is incomplete: the server's store lost values that it had called durable",
            RuntimeWarning,
            stacklevel=3,
        )


def _list(value: Any) -> List[Any]:
    """One number or several; of arrays and tensors, on any device and also of no dimension."""
    values: List[Any] = np.atleast_1d(value.tolist() if hasattr(value, "tolist") else value).tolist()
    return values
