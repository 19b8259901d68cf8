"""Observation of a model's activations and weights by hooks."""

from __future__ import annotations

import numbers
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type

from torch import nn

from calibd.config import Rule
from calibd.errors import InvalidArgumentError
from calibd.observer import Observer
from calibd.session import Session
from calibd.torch import modules
from calibd.torch.collector import Collector
from calibd.torch.distributed import is_first_rank
from calibd.torch.progress import Progress
from calibd.torch.selection import Globs, Selection, TypePatterns


def rules(model: Optional[nn.Module] = None) -> List[Rule]:
    """Rules of a session that is watched: histograms of everything, of weights one for each output channel.

    model: with one, the weights of its transposed convolutions have their output channels on axis 1; without, axis 0 is
    taken for every weight.
    """
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    found = modules.named_modules(model) if model is not None else ()
    exact = [modules.join(path, "weight") for path, module in found if isinstance(module, transposed)]
    return [
        *(Rule(name, Observer("histogram", channel_axis=1)) for name in exact),
        Rule("*.weight", Observer("histogram", channel_axis=0)),
        Rule("*", Observer("histogram")),
    ]


def watch(
    model: nn.Module,
    session: Session,
    *,
    include: Globs = None,
    exclude: Globs = None,
    include_types: TypePatterns = None,
    exclude_types: TypePatterns = None,
    weights: bool = True,
    inputs: bool = False,
    batches: Optional[int] = None,
    progress: Optional[bool] = None,
) -> Watcher:
    """Observes what the modules of a model return, until the Watcher is closed.

    Layers are called by module path: `layer1.0.conv1` is its output, `layer1.0.conv1.input` what it takes,
    `layer1.0.conv1.weight` its parameter; the model itself is `output` and `input`. Tensors in tuples and dictionaries
    are called by index or key: `lstm.0`. Wrappers such as DistributedDataParallel are no part of the path. Each call of
    a module counts; one that stands at several places has the first place's name. How a layer is observed, or that it
    is not, the session's rules say (`rules()` has good ones).

    include, include_types: globs over module paths, and types or globs over their names. With either, the modules that
        match one of them; without, those that have no modules inside. Each glob has to match a module.
    exclude, exclude_types: leaves out modules that match. exclude may also name single layers: `*.weight`, `lstm.1`.
        (MXNet's exclude_layers are names without `*`, its exclude_layers_match globs.) What matches nothing leaves out
        nothing, so that one list serves several models; `layers` of the Watcher says what was observed.
    weights: observe the parameters of the chosen modules that have two dimensions or more, once, now; they are counted
        on the host. Under torch.distributed rank 0 alone does, since all have the same; other fleets set it in one
        worker.
    inputs: observe the positional arguments of the chosen modules too.
    batches: stop after so many forward passes of the model; 0: weights alone.
    progress: a line on standard error; None: if that is a terminal.

    Integers and booleans are left out. float64 raises InvalidArgumentError from the forward pass: exclude such layers.
    Hooks do not run inside of TorchScript, nor for functions that are called without a module; under torch.compile they
    do if the model was watched before its first pass, at the price of breaks in the graph.

    InvalidArgumentError: patterns of other types; a glob to include that matches no module; no module is left; batches
    is no whole number, or below 0.
    """
    if batches is not None and (isinstance(batches, bool) or not isinstance(batches, numbers.Integral) or batches < 0):
        raise InvalidArgumentError(f"batches is {batches!r}: it takes a whole number, 0 for weights alone, or None")
    selection = Selection(include, exclude, include_types, exclude_types)
    return Watcher(
        model,
        Collector(session),
        chosen=selection.choose(model),
        excludes=selection.excludes,
        weights=weights,
        inputs=inputs,
        batches=batches,
        progress=progress,
    )


class Watcher:
    """What `watch` returns; a context manager. close it, or statistics of the last seconds are missing."""

    def __init__(
        self,
        model: nn.Module,
        collector: Collector,
        *,
        chosen: Sequence[Tuple[str, nn.Module]],
        excludes: Callable[[str], bool],
        weights: bool,
        inputs: bool,
        batches: Optional[int],
        progress: Optional[bool],
    ) -> None:
        self._collector = collector
        self._excludes = excludes
        self._batches = batches
        self._batches_seen = 0
        self._layers: Dict[str, bool] = {}
        self._excluded: Dict[str, bool] = {}
        self._handles: List[Any] = []
        self._progress = Progress(batches, progress)
        if weights and is_first_rank():
            self._observe_weights(chosen)
        if batches == 0:
            return
        for path, module in chosen:
            self._handles.append(module.register_forward_hook(self._hook(path, inputs)))
        self._handles.append(model.register_forward_hook(self._end_of_batch()))

    @property
    def layers(self) -> List[str]:
        """Names of the layers that were observed so far, in the order in which they came."""
        return list(self._layers)

    @property
    def batches_seen(self) -> int:
        """Forward passes of the model that were observed."""
        return self._batches_seen

    @property
    def watching(self) -> bool:
        """Whether forward passes are still observed."""
        return bool(self._handles)

    def close(self) -> None:
        """Removes the hooks and gives the session what was counted; its flush makes that durable. Can be repeated.

        Raises the first error with which the session refused something, of a layer, say. When the session can't be
        given everything for now, as its server can't be reached, raises why; the rest is kept for the next close.
        """
        self._remove_hooks()
        self._progress.close()
        self._collector.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # else it says more
                raise

    # Hooks are functions, not methods: a copy of the model shares them, and this, with the model.

    def _hook(self, path: str, inputs: bool) -> Callable[[nn.Module, Any, Any], None]:
        output_name, input_name = path or "output", modules.join(path, "input")

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if inputs:
                self._observe(input_name, arguments[0] if len(arguments) == 1 else arguments)
            self._observe(output_name, output)

        return hook

    def _end_of_batch(self) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            self._batches_seen += 1
            self._progress.update(self._batches_seen, len(self._layers))
            if self._batches_seen == self._batches:
                self._remove_hooks()

        return hook

    def _remove_hooks(self) -> None:
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()

    def _observe_weights(self, chosen: Sequence[Tuple[str, nn.Module]]) -> None:
        for path, module in chosen:
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() >= 2:
                    self._observe(modules.join(path, name), parameter, once=True)

    def _observe(self, name: str, value: Any, *, once: bool = False) -> None:
        for layer, tensor in modules.tensors_in(name, value):
            if not self._is_excluded(layer) and self._collector.observe(layer, tensor, once=once):
                self._layers[layer] = True

    def _is_excluded(self, layer: str) -> bool:
        if layer not in self._excluded:
            self._excluded[layer] = self._excludes(layer)
        return self._excluded[layer]
