"""Float ONNX models, with data to calibrate and to try them on."""

from __future__ import annotations

import dataclasses
from typing import Any, List, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclasses.dataclass(frozen=True)
class FloatModel:
    """A model with one input, `input`, and one output, `output`."""

    proto: onnx.ModelProto
    calibration: List[np.ndarray]
    test: np.ndarray  # of the calibration's data, so that nothing saturates


class _Graph:
    """Nodes and initializers as they come."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.nodes: List[onnx.NodeProto] = []
        self.initializers: List[onnx.TensorProto] = []

    def constant(self, name: str, values: Any) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weight(self, name: str, shape: Sequence[int], fan_in: int, channel_axis: int) -> str:
        """Its output channels differ in size by up to 64."""
        values = self.generator.normal(0, (2 / fan_in) ** 0.5, shape)
        spread = [1] * len(shape)
        spread[channel_axis] = shape[channel_axis]
        return self.constant(name, (values * np.exp2(self.generator.uniform(-5, 1, spread))).astype(np.float32))

    def bias(self, name: str, size: int) -> str:
        return self.constant(name, self.generator.normal(0, 0.1, size).astype(np.float32))

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}_node", **attributes))
        return output

    def model(self, input_shape: Sequence[int], output_shape: Sequence[int], opset: int) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, output_shape)],
            self.initializers,
        )
        opsets = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def convolutional(opset: int = 13) -> FloatModel:
    """Convolutions, the second with a residual connection, pooling, and two linear layers."""
    g = _Graph(11)
    padded = {"pads": [1, 1, 1, 1]}
    g.node(
        "Conv", ["input", g.weight("conv1.weight", (16, 3, 3, 3), 27, 0), g.bias("conv1.bias", 16)], "conv1", **padded
    )
    g.node("Relu", ["conv1"], "relu1")
    weight = g.weight("conv2.weight", (16, 16, 3, 3), 144, 0)
    g.node("Conv", ["relu1", weight, g.bias("conv2.bias", 16)], "conv2", **padded)
    g.node("Add", ["conv2", "relu1"], "residual")
    g.node("Relu", ["residual"], "relu2")
    g.node("MaxPool", ["relu2"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    g.node("Flatten", ["pool"], "flat")
    g.node("Gemm", ["flat", g.weight("fc1.weight", (32, 256), 256, 0), g.bias("fc1.bias", 32)], "fc1", transB=1)
    g.node("Relu", ["fc1"], "relu3")
    g.node("Gemm", ["relu3", g.weight("fc2.weight", (10, 32), 32, 0), g.bias("fc2.bias", 10)], "output", transB=1)
    batches = [g.generator.normal(size=(64, 3, 8, 8)).astype(np.float32) for _ in range(2)]
    return FloatModel(g.model([64, 3, 8, 8], [64, 10], opset), batches, batches[0])


def transformer(opset: int = 17) -> FloatModel:
    """A block of a transformer: attention with products of activations, LayerNormalization, GELU by Erf."""
    batch, tokens, width, heads = 4, 12, 32, 4
    g = _Graph(12)
    split = g.constant("split", np.array([batch, tokens, heads, width // heads], np.int64))
    join = g.constant("join", np.array([batch, tokens, width], np.int64))

    def normalized(source: str, name: str) -> str:
        scale = g.constant(f"{name}.scale", g.generator.uniform(0.5, 2, width).astype(np.float32))
        return g.node("LayerNormalization", [source, scale, g.bias(f"{name}.bias", width)], name, axis=-1)

    def linear(source: str, name: str, outputs: int, inputs: int) -> str:
        g.node("MatMul", [source, g.weight(f"{name}.matrix", (inputs, outputs), inputs, 1)], f"{name}_product")
        return g.node("Add", [f"{name}_product", g.bias(f"{name}.bias", outputs)], name)

    def headed(source: str, permutation: List[int]) -> str:
        g.node("Reshape", [source, split], f"{source}_split")
        return g.node("Transpose", [f"{source}_split"], f"{source}_heads", perm=permutation)

    normalized("input", "norm1")
    queries = headed(linear("norm1", "q", width, width), [0, 2, 1, 3])
    keys = headed(linear("norm1", "k", width, width), [0, 2, 3, 1])
    values = headed(linear("norm1", "v", width, width), [0, 2, 1, 3])
    g.node("MatMul", [queries, keys], "scores")
    g.node("Mul", ["scores", g.constant("temperature", np.float32((width // heads) ** -0.5))], "scaled")
    g.node("Softmax", ["scaled"], "attention", axis=-1)
    g.node("MatMul", ["attention", values], "mixed")
    g.node("Transpose", ["mixed"], "mixed_tokens", perm=[0, 2, 1, 3])
    g.node("Reshape", ["mixed_tokens", join], "mixed_joined")
    g.node("Add", [linear("mixed_joined", "projection", width, width), "input"], "residual1")
    normalized("residual1", "norm2")
    linear("norm2", "up", 4 * width, width)
    g.node("Mul", ["up", g.constant("half_root", np.float32(0.5**0.5))], "up_scaled")
    g.node("Erf", ["up_scaled"], "up_erf")
    g.node("Add", ["up_erf", g.constant("one", np.float32(1))], "up_gate")
    g.node("Mul", ["up", "up_gate"], "up_gated")
    g.node("Mul", ["up_gated", g.constant("half", np.float32(0.5))], "gelu")
    g.node("Add", [linear("gelu", "down", width, 4 * width), "residual1"], "output")
    shape = (batch, tokens, width)
    batches = [g.generator.normal(size=shape).astype(np.float32) for _ in range(4)]
    return FloatModel(g.model(shape, shape, opset), batches, batches[0])


def matmul(first_shape: Sequence[int], second_shape: Sequence[int], first: bool) -> FloatModel:
    """One product of the input and a weight, the first or the second operand."""
    g = _Graph(14)
    weight_shape, input_shape = (first_shape, second_shape) if first else (second_shape, first_shape)
    weight = g.weight("matrix", weight_shape, 1, len(weight_shape) - (2 if first else 1))
    g.node("MatMul", [weight, "input"] if first else ["input", weight], "output")
    batches = [g.generator.normal(size=input_shape).astype(np.float32)]
    shape = np.matmul(np.empty(first_shape), np.empty(second_shape)).shape
    return FloatModel(g.model(input_shape, shape, 13), batches, batches[0])


def half_inside() -> FloatModel:
    """Float32 at its ends and float16 between, of which it declares nothing."""
    g = _Graph(15)
    g.node("Cast", ["input"], "half", to=TensorProto.FLOAT16)
    matrix = g.constant("matrix", g.generator.normal(size=(16, 4)).astype(np.float16))
    g.node("MatMul", ["half", matrix], "product")
    g.node("Cast", ["product"], "output", to=TensorProto.FLOAT)
    batches = [g.generator.normal(size=(8, 16)).astype(np.float32)]
    return FloatModel(g.model([8, 16], [8, 4], 13), batches, batches[0])


def exported_by_torch(torch: Any, path: Any) -> FloatModel:
    """What torch.onnx.export makes of a convolutional network with batch normalization and LayerNorm."""
    nn = torch.nn
    torch.manual_seed(13)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Hardswish(),
        nn.Flatten(),
        nn.Linear(288, 32),
        nn.LayerNorm(32),
        nn.GELU(),
        nn.Linear(32, 10),
    ).eval()
    generator = np.random.default_rng(13)
    batches = [generator.normal(size=(8, 3, 8, 8)).astype(np.float32) for _ in range(4)]
    names = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(network, torch.from_numpy(batches[0]), str(path), opset_version=13, **names)
    return FloatModel(onnx.load(str(path)), batches, batches[0])
