"""Names of an ONNX model's tensors by module, and observing them with ONNX Runtime."""

from __future__ import annotations

import pathlib
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from calibd.errors import InvalidArgumentError  # noqa: E402  after the checks that the extra is there
from calibd.onnx import observe, tensor_names, tensors, weights  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


class Recorder:
    """In place of a session: what was observed."""

    def __init__(self) -> None:
        self.calls: List[Tuple[str, np.ndarray]] = []

    def observe(self, layer: str, array: np.ndarray) -> None:
        self.calls.append((layer, array))


def make_model(*nodes: Any, outputs: Tuple[str, ...] = ("y",), constants: Any = None, inputs: Any = ("x",)) -> Any:
    """A model of float vectors."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 4]) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(values, name) for name, values in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def node(operator: str, inputs: List[str], output: str, name: str = "", scopes: str = "") -> Any:
    made = helper.make_node(operator, inputs, [output], name=name)
    if scopes:
        made.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    return made


# A module `fc` inside `block`, a module `relu` that is called twice, and an operator of the model itself.
LINEAR = {"fc.weight": np.eye(4, dtype=np.float32), "fc.bias": np.ones(4, np.float32)}


def traced() -> Any:
    return make_model(
        node("MatMul", ["x", "onnx::MatMul_9"], "/block/block.0/fc/MatMul_output_0", "/block/block.0/fc/MatMul"),
        node(
            "Add",
            ["/block/block.0/fc/MatMul_output_0", "fc.bias"],
            "/block/block.0/fc/Add_output_0",
            "/block/block.0/fc/Add",
        ),
        node("Relu", ["/block/block.0/fc/Add_output_0"], "/relu/Relu_output_0", "/relu/Relu"),
        node("Neg", ["/relu/Relu_output_0"], "/Neg_output_0", "/Neg"),
        node("Relu", ["/Neg_output_0"], "y", "/relu_1/Relu"),
        constants={"onnx::MatMul_9": np.eye(4, dtype=np.float32), "fc.bias": np.ones(4, np.float32)},
    )


def test_names_of_a_traced_model() -> None:
    assert tensor_names(traced()) == {
        "block": "/block/block.0/fc/Add_output_0",
        "block.0": "/block/block.0/fc/Add_output_0",
        "block.0.fc": "/block/block.0/fc/Add_output_0",
        "relu": "/relu/Relu_output_0",
        "relu_1": "y",
    }


def test_names_of_a_model_of_the_newer_exporter() -> None:
    if "metadata_props" not in onnx.NodeProto.DESCRIPTOR.fields_by_name:
        pytest.skip("this onnx is older than the metadata of nodes")
    model = make_model(
        node("Gemm", ["x", "fc.weight", "fc.bias"], "linear", "node_linear", "['', 'block', 'block.fc', 'linear']"),
        node("Relu", ["linear"], "relu", "node_relu", "['', 'act', 'relu']"),
        node("Neg", ["relu"], "y", "node_neg", "['', 'neg']"),
        constants=LINEAR,
    )
    assert tensor_names(model) == {"block": "linear", "block.fc": "linear", "act": "relu"}


def test_a_module_with_two_outputs_has_no_name() -> None:
    model = make_model(
        node("Relu", ["x"], "/pair/Relu_output_0", "/pair/Relu"),
        node("Neg", ["/pair/Relu_output_0"], "/pair/Neg_output_0", "/pair/Neg"),
        node("Add", ["/pair/Relu_output_0", "/pair/Neg_output_0"], "y", "/Add"),
    )
    assert tensor_names(model) == {}


def test_a_convolution_with_a_folded_normalization_has_no_name() -> None:
    weight = np.ones((1, 1, 1), np.float32)
    for name, expected in (("onnx::Conv_7", {"block": "y"}), ("block.conv.weight", {"block": "y", "block.conv": "y"})):
        model = make_model(node("Conv", ["x", name], "y", "/block/conv/Conv"), constants={name: weight})
        assert tensor_names(model) == expected


def test_asked_for_layers_are_there_or_named_in_the_error() -> None:
    assert tensor_names(traced(), ["relu", "fc.bias"]) == {"relu": "/relu/Relu_output_0"}
    with pytest.raises(InvalidArgumentError, match="of dropout, norm:"):
        tensor_names(traced(), ["relu", "dropout", "norm"])


def test_names_of_what_torch_exports(tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    network.add_module("body", nn.Sequential(nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU())))
    network.add_module("flat", nn.Flatten())
    network.add_module("head", nn.Linear(32, 3))
    network.eval()
    path = str(tmp_path / "model.onnx")
    example = torch.randn(2, 1, 8, 8)
    torch.onnx.export(network, example, path, opset_version=13, input_names=["images"], output_names=["logits"])
    names = tensor_names(path)
    outputs: Dict[str, np.ndarray] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda _m, _i, output, name=name: outputs.update({name: output.detach().numpy()}))
    network(example)
    assert {"stem", "stem.0", "stem.1", "body", "body.0", "body.0.2", "flat", "head"} == set(names)
    observed = dict(next(tensors(path, [example.numpy()])))
    for module, tensor in names.items():
        np.testing.assert_allclose(observed[tensor], outputs[module], rtol=1e-4, atol=1e-5, err_msg=module)


LINEAR_WEIGHT = np.arange(8, dtype=np.float32).reshape(4, 2)


def branched() -> Any:
    """x -> MatMul by w.weight -> h; shape of x; y = h + constant."""
    return make_model(
        node("MatMul", ["x", "w.weight"], "h"),
        node("Shape", ["x"], "shape"),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.float32([2]))),
        node("Add", ["h", "two"], "y"),
        constants={"w.weight": LINEAR_WEIGHT},
    )


def test_float_tensors_are_observed_once_a_batch_and_weights_once() -> None:
    session = Recorder()
    batches = [np.float32([[1, 0, 0, 0]]), np.float32([[0, 1, 0, 0]])]
    layers = observe(branched(), session, batches)  # type: ignore[arg-type]
    assert layers == ["w.weight", "x", "y", "h"]
    assert [layer for layer, _ in session.calls] == ["w.weight", "x", "y", "h", "x", "y", "h"]
    seen = {layer: array for layer, array in session.calls[4:]}
    np.testing.assert_array_equal(seen["h"], [[2, 3]])
    np.testing.assert_array_equal(seen["y"], [[4, 5]])


def test_include_and_exclude_choose_tensors() -> None:
    for options, expected in (
        ({"include": ["h", "w*"]}, ["w.weight", "h"]),
        ({"exclude": "?"}, ["w.weight"]),
        ({"include": "*", "exclude": ["w*", "x"]}, ["y", "h"]),
        ({"weight_pattern": "*.kernel"}, ["x", "y", "h"]),
    ):
        chosen = observe(branched(), Recorder(), [np.ones((1, 4), np.float32)], **options)  # type: ignore[arg-type]
        assert chosen == expected, options


def test_weights_in_files_beside_the_model_are_found(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save_model(
        branched(),
        str(path),
        save_as_external_data=True,
        location="model.data",
        size_threshold=0,
        convert_attribute=False,
    )
    assert (tmp_path / "model.data").stat().st_size >= 32
    assert [name for name, _ in weights(path)] == ["w.weight"]
    np.testing.assert_array_equal(dict(weights(path))["w.weight"], LINEAR_WEIGHT)
    observed = dict(next(tensors(path, [np.float32([[1, 0, 0, 0]])])))
    np.testing.assert_array_equal(observed["h"], [[0, 1]])


def test_batches_must_fit_the_model() -> None:
    two_inputs = make_model(node("Add", ["x", "z"], "y"), inputs=("x", "z"))
    with pytest.raises(InvalidArgumentError, match="x, z"):
        observe(two_inputs, Recorder(), [np.ones((1, 4), np.float32)])  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="other"):
        observe(two_inputs, Recorder(), [{"x": np.ones((1, 4)), "other": np.ones(1)}])  # type: ignore[arg-type]
    both = {"x": np.ones((1, 4), np.float32), "z": np.ones((1, 4), np.float32)}
    assert observe(two_inputs, Recorder(), [both]) == ["x", "z", "y"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "given"),
    [
        (np.ones((2, 4)), "float64 of shape [2, 4]"),
        (np.ones((2, 4), np.int64), "int64 of shape [2, 4]"),
        (np.ones((2, 5), np.float32), "float32 of shape [2, 5]"),
        (np.ones(4, np.float32), "float32 of shape [4]"),
        (np.array([["a", object()]]), "object of shape [1, 2]"),
    ],
)
def test_a_batch_of_another_type_or_shape_is_named(batch: np.ndarray, given: str) -> None:
    session = Recorder()
    with pytest.raises(InvalidArgumentError, match=r"x takes tensor\(float\) of shape \[.+, 4\], and") as raised:
        observe(branched(), session, [batch])  # type: ignore[arg-type]
    assert f"was given {given}; " in str(raised.value)
    assert [layer for layer, _ in session.calls] == ["w.weight"]


def test_a_batch_that_fits_the_inputs_but_no_operator_is_refused() -> None:
    model = make_model(node("MatMul", ["x", "w.weight"], "y"), constants={"w.weight": np.ones((3, 2), np.float32)})
    del model.graph.input[0].type.tensor_type.shape.dim[:]
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(InvalidArgumentError, match="does not fit the model"):
        next(tensors(model, [np.ones((1, 4), np.float32)]))


def test_weights_are_those_of_the_export() -> None:
    def names(*nodes: Any) -> List[str]:
        return [name for name, _ in weights(make_model(*nodes, constants={"w": LINEAR_WEIGHT, "bias": LINEAR_WEIGHT}))]

    assert names(node("Gemm", ["w", "x"], "y")) == []
    assert names(node("Gemm", ["x", "w", "bias"], "y")) == ["w"]
    assert names(node("MatMul", ["w", "x"], "y")) == ["w"]
    assert names(helper.make_node("MatMul", ["x", "w"], ["y"], domain="elsewhere")) == []


def test_a_session_of_a_model_s_tensors_is_exported_without_names(client: Any, tmp_path: pathlib.Path) -> None:
    batches = [np.random.default_rng(seed).normal(size=(32, 4)).astype(np.float32) for seed in range(3)]
    session = client.create_session("by-tensor")
    layers = observe(branched(), session, batches)
    session.flush()
    summary = session.export("onnx-qdq", tmp_path / "quantized.onnx", model=branched())
    assert sorted(summary.layers) == sorted(layers)
    found = dict(next(tensors(tmp_path / "quantized.onnx", batches[:1])))["y"]
    # Each tensor is off by half a step at most, of 255 in its range and of 254 in a weight's.
    half = {name: (max(a.max(), 0) - min(a.min(), 0)) / 255 / 2 for name, a in all_values(batches).items()}
    weight = np.abs(LINEAR_WEIGHT)
    of_product = (
        half["x"] * weight.sum(axis=0) + weight.max() / 254 * (np.abs(batches[0]) + half["x"]).sum(axis=1).max()
    )
    error = np.abs(found - (batches[0] @ LINEAR_WEIGHT + 2))
    assert 0 < error.max() <= (of_product + half["h"] + half["y"]).max() * 1.001  # float32 adds a little


def all_values(batches: List[np.ndarray]) -> Dict[str, np.ndarray]:
    """What the session has seen of each tensor of `branched`."""
    observed = [dict(batch) for batch in tensors(branched(), batches)]
    return {name: np.concatenate([batch[name] for batch in observed]) for name in observed[0]}


def test_layers_of_modules_are_exported_by_their_names(client: Any, tmp_path: pathlib.Path) -> None:
    session = client.create_session("by-module")
    for layer in ("block.0.fc", "relu", "relu_1"):
        session.observe(layer, np.linspace(-1, 2, 100, dtype=np.float32))
    session.flush()
    names = tensor_names(traced(), ["block.0.fc", "relu", "relu_1"])
    summary = session.export("onnx-qdq", tmp_path / "quantized.onnx", model=traced(), names=names)
    assert sorted(summary.layers) == ["block.0.fc", "relu", "relu_1"]
    nodes = onnx.load(str(tmp_path / "quantized.onnx")).graph.node
    quantized = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    assert quantized == {"/block/block.0/fc/Add_output_0", "/relu/Relu_output_0", "y_QuantizeLinear_Input"}
