"""ONNX models: the names of their tensors, and observing those by running the float model with ONNX Runtime.

Needs `pip install calibd[onnx]`.
"""

from __future__ import annotations

import ast
import os
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple, Union

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from calibd.config import matches
from calibd.errors import InvalidArgumentError

if TYPE_CHECKING:
    from calibd.session import Session

__all__ = ["observe", "tensor_names", "tensors", "weights"]

Model = Union[str, "os.PathLike[str]", onnx.ModelProto]
Batch = Union[np.ndarray, Mapping[str, np.ndarray]]
Patterns = Union[str, Sequence[str], None]

# Operators whose constant operands are weights, and which inputs those can be: as the server's export has them.
_WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1)}
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_SCOPES = "pkg.torch.onnx.name_scopes"


def tensor_names(model: Model, layers: Optional[Iterable[str]] = None) -> Dict[str, str]:
    """Names in an ONNX model of what the modules of the PyTorch model put out: `names` of `Session.export`.

    model: what torch.onnx.export made of a PyTorch model (1.13 or newer, by tracing or with dynamo=True).
    layers: the modules wanted, such as the layers of a session; None: all that can be told.

    Returns module path -> tensor: `layer1.0.conv1` -> `/layer1/layer1.0/conv1/Conv_output_0`. An output of the model
    has the name that it was exported with. The second call of a module `relu` is `relu_1`, as the tracing exporter
    writes it. Parameters that have their own names in ONNX are never in the result. Nor are modules
    - without an operator of their own, such as Identity and, in evaluation, Dropout;
    - with more than one output, or whose output is no operator's, such as a constant;
    - convolutions into which the exporter folded a batch normalization: their output in ONNX is the normalization's.

    Raises InvalidArgumentError: a layer that was asked for is neither in the result nor such a parameter; the message
    lists all of them.
    """
    graph = _load(model).graph
    found = _module_outputs(graph)
    if layers is None:
        return found
    wanted = list(layers)
    known = {tensor.name for tensor in graph.initializer}
    missing = [layer for layer in wanted if layer not in found and layer not in known]
    if missing:
        raise InvalidArgumentError(
            f"the model has no tensor that is the output of {', '.join(missing)}: folded into another, without an "
            "operator, or of another name; name those tensors yourself, or leave the layers out of the export"
        )
    return {layer: found[layer] for layer in wanted if layer in found}


def observe(
    model: Model,
    session: Session,
    batches: Iterable[Batch],
    *,
    include: Patterns = None,
    exclude: Patterns = None,
    weight_pattern: str = "*.weight",
    providers: Sequence[str] = ("CPUExecutionProvider",),
) -> List[str]:
    """Runs the float model on batches and observes its tensors, each as a layer of the tensor's name.

    So `session.export("onnx-qdq", path, model=model)` needs no names. Every float32 and float16 input, intermediate and
    output of the main graph is observed once a batch, every weight once in all. Tensors inside If, Loop and Scan are
    not. The export quantizes those of float32: where the model has float16 too, ask it for skip_unexportable.

    session: one that takes the layers; its rules decide what is collected of each, such as the channel axis.
    batches: the model's inputs by name, or the array alone where the model has one input. Memory holds all tensors of
        one batch at a time.
    include, exclude: globs over tensor names (`*`, `?`), one or several; None: all, none.
    weight_pattern: the weights that are observed, by the glob that the export has for them. It quantizes others, such
        as `onnx::MatMul_78`, by their own values.
    providers: ONNX Runtime's execution providers.

    Returns the layers, in the order in which they were first observed. Raises InvalidArgumentError for batches that do
    not fit the model, and what Session.observe raises.
    """
    chosen = _Choice(include, exclude)
    layers: Dict[str, None] = {}
    for name, array in weights(model):
        if matches(weight_pattern, name) and chosen(name):
            session.observe(name, array)
            layers[name] = None
    for batch in tensors(model, batches, providers=providers):
        for name, array in batch:
            if chosen(name):
                session.observe(name, array)
                layers[name] = None
    return list(layers)


def weights(model: Model) -> Iterator[Tuple[str, np.ndarray]]:
    """Name and values of the float initializers that Conv, ConvTranspose, Gemm or MatMul read, each once, in the
    order of their first reader: of Gemm the second input alone, of MatMul either."""
    loaded = _load(model)
    initializers = {tensor.name: tensor for tensor in loaded.graph.initializer}
    for node in loaded.graph.node:
        for position in _WEIGHTS.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ():
            tensor = initializers.pop(node.input[position], None)
            if tensor is not None and tensor.data_type in _FLOATS:
                yield tensor.name, numpy_helper.to_array(tensor, _folder(model))


def tensors(
    model: Model, batches: Iterable[Batch], *, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> Iterator[List[Tuple[str, np.ndarray]]]:
    """For each batch, name and values of the model's float inputs, intermediates and outputs, as `observe` has them.

    Raises InvalidArgumentError for batches that do not fit the model.
    """
    loaded = _load(model)
    inputs = _inputs(loaded.graph)
    runner, _borrowed = _runner(model, loaded, providers)
    wanted = [output.name for output in runner.get_outputs() if output.type in ("tensor(float)", "tensor(float16)")]
    for batch in batches:
        feed = _feed(batch, inputs)
        fed = [(name, array) for name, array in feed.items() if array.dtype in (np.float32, np.float16)]
        yield fed + list(zip(wanted, _run(runner, wanted, feed)))


class _Choice:
    """Whether a tensor is wanted."""

    def __init__(self, include: Patterns, exclude: Patterns) -> None:
        self._include = ["*"] if include is None else [include] if isinstance(include, str) else list(include)
        self._exclude = [] if exclude is None else [exclude] if isinstance(exclude, str) else list(exclude)

    def __call__(self, name: str) -> bool:
        return any(matches(p, name) for p in self._include) and not any(matches(p, name) for p in self._exclude)


def _load(model: Model) -> onnx.ModelProto:
    """Without the data that lies in files beside it."""
    return model if isinstance(model, onnx.ModelProto) else onnx.load(os.fspath(model), load_external_data=False)


def _folder(model: Model) -> str:
    """Where the files beside a model are; empty: it has none."""
    return "" if isinstance(model, onnx.ModelProto) else os.path.dirname(os.path.abspath(model))


def _inputs(graph: onnx.GraphProto) -> List[str]:
    constants = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in constants]


def _feed(batch: Batch, inputs: List[str]) -> Dict[str, np.ndarray]:
    if not isinstance(batch, Mapping):
        if len(inputs) != 1:
            raise InvalidArgumentError(f"the model has the inputs {', '.join(inputs)}; a batch must be a dict of them")
        return {inputs[0]: np.asarray(batch)}
    if set(batch) != set(inputs):
        raise InvalidArgumentError(f"a batch has {', '.join(batch)}; the model's inputs are {', '.join(inputs)}")
    return {name: np.asarray(array) for name, array in batch.items()}


def _run(runner: Any, wanted: List[str], feed: Dict[str, np.ndarray]) -> List[np.ndarray]:
    try:
        values: List[np.ndarray] = runner.run(wanted, feed)
    except Exception as error:  # ONNX Runtime's have no class of their own above them
        inputs = [
            f"{put.name} takes {put.type} of shape {_shape(put.shape)}, and was given {feed[put.name].dtype} of shape "
            f"{_shape(feed[put.name].shape)}"
            for put in runner.get_inputs()
            if put.name in feed
        ]
        raise InvalidArgumentError(f"a batch does not fit the model: {'; '.join(inputs)}; {error}") from error
    return values


def _shape(sizes: Iterable[Any]) -> str:
    """Sizes that the model leaves open have names in it, or none."""
    return f"[{', '.join('?' if size is None else str(size) for size in sizes)}]"


def _runner(model: Model, loaded: onnx.ModelProto, providers: Sequence[str]) -> Tuple[Any, List[np.ndarray]]:
    """The model with every tensor as an output, of whatever type ONNX Runtime finds that it has; and the weights that
    it borrows, to be kept as long."""
    extended = onnx.ModelProto()
    extended.CopyFrom(loaded)
    outputs = {value.name for value in loaded.graph.output}
    for node in loaded.graph.node:
        if node.op_type != "Constant":
            extended.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.output if n and n not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of outputs without a type
    # A model made of bytes does not know where files beside it are.
    external = [tensor for tensor in loaded.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    values = [numpy_helper.to_array(tensor, _folder(model)) for tensor in external]
    options.add_external_initializers(
        [tensor.name for tensor in external], [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in values]
    )
    session = onnxruntime.InferenceSession(extended.SerializeToString(), options, providers=list(providers))
    return session, values


def _module_outputs(graph: onnx.GraphProto) -> Dict[str, str]:
    """Of each module, the one tensor that leaves it."""
    modules = [_modules(node) for node in graph.node]
    readers: Dict[str, List[Set[str]]] = {value.name: [set()] for value in graph.output}  # a set for each reader
    for node, inside in zip(graph.node, modules):
        for name in node.input:
            readers.setdefault(name, []).append(set(inside))
    # A node's own module is the innermost; those around it have the folded normalization in them too.
    folded = {inside[-1] for node, inside in zip(graph.node, modules) if inside and _has_folded_normalization(node)}
    leaving: Dict[str, List[str]] = {}
    for node, inside in zip(graph.node, modules):
        for module in inside:
            outside = [name for name in node.output if any(module not in reader for reader in readers.get(name, ()))]
            leaving.setdefault(module, []).extend(outside)
    constants = {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    return {
        module: names[0]
        for module, names in leaving.items()
        if len(names) == 1 and names[0] not in constants and module not in folded
    }


def _modules(node: onnx.NodeProto) -> List[str]:
    """Paths of the modules that a node is of, outermost first, without the model itself."""
    for entry in getattr(node, "metadata_props", ()):
        if entry.key == _SCOPES:  # "['', 'layer1', 'layer1.conv1', 'conv2d']", the last is the operator's name
            return [scope for scope in ast.literal_eval(entry.value)[:-1] if scope]
    if not node.name.startswith("/"):
        return []
    # "/layer1/layer1.0/conv1/Conv": what a Sequential or ModuleList holds repeats its name.
    parts: List[str] = []
    paths: List[str] = []
    for scope in node.name.split("/")[1:-1]:
        if parts and scope.startswith(parts[-1] + "."):
            parts[-1] = scope
        else:
            parts.append(scope)
        paths.append(".".join(parts))
    return paths


def _has_folded_normalization(node: onnx.NodeProto) -> bool:
    """A parameter that the exporter computed has no name of a module: `onnx::Conv_70`."""
    return node.op_type in ("Conv", "ConvTranspose") and node.input[1].startswith("onnx::")
