"""Connecting the observers of a prepared model with a session: their layers' names, and the fleet's parameters."""

from __future__ import annotations

import threading
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch import fx, nn
from torch.ao.quantization import QConfig

from calibd.errors import FailedPreconditionError, InvalidArgumentError
from calibd.quantize import LayerQParams, Method, QuantSpec
from calibd.session import Session
from calibd.torch import modules
from calibd.torch.collector import Collector
from calibd.torch.distributed import is_first_rank
from calibd.torch.observer import FleetObserver

_SUFFIX = "activation_post_process"


def attach(model: nn.Module, session: Session, *, weights: bool = True) -> Attachment:
    """Gives each FleetObserver of a prepared model its layer in the session. Then run batches, and convert.

    Layers are called as by `watch`: an observer behind a module has its path, one behind a function in a graph the name
    of its node, weights PATH.weight. In convert the session is asked for the parameters of all layers at once; wait
    until all workers have flushed before (with torch.distributed: a barrier).

    weights: observe the weights now, once. Under torch.distributed rank 0 alone does; other fleets set it in one
        worker.

    InvalidArgumentError: the model has no such observers; the session's rules observe a layer otherwise than its
    observer needs, such as per channel.
    """
    attachment = Attachment(session)
    for layer, observer in _named_observers(model):
        attachment.add(layer, observer)
        observer.layer, observer.attachment = layer, attachment
    for layer, weight, owners in _named_weights(model):
        factory = owners[0].qconfig.weight.with_args(layer=layer, attachment=attachment)
        attachment.add(layer, factory())
        for owner in owners:
            owner.qconfig = QConfig(activation=owner.qconfig.activation, weight=factory)
        if weights and is_first_rank():
            attachment.observe(layer, weight, once=True)
    if not attachment.layers:
        raise InvalidArgumentError("the model has no observers of calibd.torch: prepare it with calibd.torch.qconfig()")
    return attachment


class Attachment:
    """What connects a model's observers with a session. Copies of the model share it. Thread-safe."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._collector = Collector(session)
        self._lock = threading.Lock()
        self._observers: Dict[str, Tuple[Method, QuantSpec]] = {}
        self._found: Dict[Tuple[Method, QuantSpec], Dict[str, LayerQParams]] = {}

    @property
    def layers(self) -> List[str]:
        """Names of the layers that have an observer."""
        return list(self._observers)

    def add(self, layer: str, observer: FleetObserver) -> None:
        """Takes note of an observer. InvalidArgumentError when the session's rules do not suit it."""
        how = self._collector.config().observer_of(layer)
        if how is None:
            raise InvalidArgumentError(f"layer {layer!r} has an observer, but no rule of the session observes it")
        if observer.per_channel and how.channel_axis != observer.ch_axis:
            axis = "per tensor" if how.channel_axis is None else f"per channel along axis {how.channel_axis}"
            raise InvalidArgumentError(
                f"layer {layer!r} is quantized per channel along axis {observer.ch_axis}, but the session observes it "
                f"{axis}: make the session with calibd.torch.rules(model), or with a rule of its own for this layer"
            )
        self._observers[layer] = observer.method, observer.quant_spec()

    def observe(self, layer: str, tensor: torch.Tensor, *, once: bool = False) -> None:
        """Counts a tensor, as Collector.observe; what was asked of the session before is asked anew after that."""
        self._collector.observe(layer, tensor, once=once)
        if self._found:
            self._forget_answers()

    def qparams(self, layer: str, method: Method, spec: QuantSpec) -> LayerQParams:
        """Of a layer, from the values of all workers. Flushes this one's first. Raises the session's errors."""
        with self._lock:
            if not self._found:
                self._make_durable()
            if (method, spec) not in self._found:
                alike = [name for name, wanted in self._observers.items() if wanted == (method, spec)]
                pattern = "*.weight" if all(name.endswith(".weight") for name in alike) else "*"
                answer = self._session.qparams(pattern, method=method, dtype=spec)
                self._found[method, spec] = {found.layer: found for found in answer}
            found = self._found[method, spec].get(layer)
        if found is None:
            raise FailedPreconditionError(f"layer {layer!r} has no values yet: run batches through the model first")
        if found.error is not None:
            raise found.error
        return found

    def flush(self) -> None:
        """Returns once all that was counted here is durable. Raises the session's errors.

        What was asked of the session before is asked anew after that: other workers may have given values meanwhile.
        """
        self._make_durable()
        self._forget_answers()

    def close(self) -> None:
        """flush, and ends the thread that hands over. Can be repeated, also after an error; observing can go on."""
        self._collector.close()
        self._session.flush()
        self._forget_answers()

    def _make_durable(self) -> None:
        self._collector.hand_over()
        self._session.flush()

    def _forget_answers(self) -> None:
        with self._lock:
            self._found.clear()

    def __deepcopy__(self, memo: Any) -> Attachment:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a model whose observers are attached to a session cannot be pickled: save its state_dict")


def _named_observers(model: nn.Module) -> Iterator[Tuple[str, FleetObserver]]:
    """Each observer of activations with its layer's name, none twice."""
    seen = set()
    for path, module in modules.named_modules(model):
        if isinstance(module, fx.GraphModule):
            for layer, observer in _observers_of_graph(path, module):
                if id(observer) not in seen:
                    seen.add(id(observer))
                    yield layer, observer
    for path, module in modules.named_modules(model):
        if isinstance(module, FleetObserver) and id(module) not in seen:
            yield path[: -len(_SUFFIX) - 1] if path.endswith("." + _SUFFIX) else "output", module


def _observers_of_graph(path: str, graph_module: fx.GraphModule) -> Iterator[Tuple[str, FleetObserver]]:
    names = set()
    inside = dict(graph_module.named_modules())
    for node in graph_module.graph.nodes:
        observer = inside.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(observer, FleetObserver):
            continue
        source = node.args[0]
        name = str(source.target) if source.op in ("call_module", "get_attr") else source.name
        if name in names:  # a module that is called again
            name = source.name
        names.add(name)
        yield modules.join(path, name), observer


def _named_weights(model: nn.Module) -> Iterator[Tuple[str, torch.Tensor, List[Any]]]:
    """Weights whose observers convert will make: layer name, weight, and the modules whose qconfig it asks."""
    inside_fused = set()
    for path, module in modules.named_modules(model):
        inner: Optional[nn.Module] = module
        if isinstance(module, nn.Sequential) and hasattr(module, "qconfig") and len(module) and _is_fused(module):
            inner = module[0]
            inside_fused.add(id(inner))
        elif id(module) in inside_fused:
            continue
        weight = getattr(inner, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.dim() >= 2 and _makes_fleet_observer(module):
            owners = [module] if inner is module else [module, inner]
            yield modules.join(path, "weight"), weight, owners


def _is_fused(module: nn.Module) -> bool:
    return any(base.__name__ == "_FusedModule" for base in type(module).__mro__)


def _makes_fleet_observer(module: nn.Module) -> bool:
    config = getattr(module, "qconfig", None)
    return config is not None and isinstance(config.weight(), FleetObserver)
