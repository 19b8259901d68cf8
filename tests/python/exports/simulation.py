"""A float model run node by node, with chosen tensors rounded as quantization would, in numpy."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Mapping, Optional

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How a tensor is rounded: one scale and zero point, or one for each index along `axis`."""

    scale: np.ndarray  # float32
    zero_point: np.ndarray
    least: int  # codes
    greatest: int
    axis: Optional[int] = None

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Each value's code, as a value again."""
        shape = [1] * values.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        scale, zero_point = self.scale.reshape(shape), self.zero_point.reshape(shape)
        codes = np.clip(np.rint(values / scale) + zero_point, self.least, self.greatest)
        return ((codes - zero_point) * scale).astype(np.float32)


def from_qparams(layer: Mapping[str, Any], least: int, greatest: int) -> Quantization:
    """Of an answer of `calibctl qparams --json`; the codes are those of the type, which Q and DQ saturate to. Several
    scales are those of the first axis."""
    scale = np.array(layer["scale"], np.float32)
    return Quantization(
        scale, np.array(layer["zero_point"], np.float32), least, greatest, 0 if len(scale) > 1 else None
    )


class NodeByNode:
    """A float model that can be run with any of its tensors rounded."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._sessions: List[Any] = []

    def run(self, batch: np.ndarray, rounded: Mapping[str, Quantization]) -> np.ndarray:
        """The first output when everything that reads a tensor in `rounded` reads it rounded."""
        values: Dict[str, np.ndarray] = {}

        def put(name: str, array: np.ndarray) -> None:
            values[name] = rounded[name].apply(array) if name in rounded else array

        for name, array in [*self._constants.items(), (self._model.graph.input[0].name, batch)]:
            put(name, array)
        for number, node in enumerate(self._model.graph.node):
            feed = {name: values[name] for name in node.input if name}
            if number == len(self._sessions):
                self._sessions.append(self._session(node, feed))
            for name, array in zip(node.output, self._sessions[number].run(None, feed)):
                put(name, array)
        return values[self._model.graph.output[0].name]

    def _session(self, node: onnx.NodeProto, feed: Mapping[str, np.ndarray]) -> Any:
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
            for name, array in feed.items()
        ]
        graph = helper.make_graph([node], "node", inputs, [onnx.ValueInfoProto(name=name) for name in node.output])
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
