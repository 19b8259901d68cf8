"""Observation of a model's activations and weights by hooks."""

from __future__ import annotations

import numbers
import warnings
from types import TracebackType
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence, Set, Tuple, Type

import torch
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

# Modules that hold others or parameters; the last is what nn.MultiheadAttention's out_proj is.
_NEVER_CALLED = (
    nn.ModuleList,
    nn.ModuleDict,
    nn.ParameterList,
    nn.ParameterDict,
    nn.modules.linear.NonDynamicallyQuantizableLinear,
)


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

    nn.TransformerEncoderLayer is one function when it is evaluated without gradients (its fast path), and no hooks run
    inside of it: torch.backends.mha.set_fastpath_enabled(False) before; with PyTorch before 2.3, which does not have
    that, set `layer.training = True` (of the layer alone: train() would switch on what is inside, dropout too).

    While it is watched the model can be copied, and its copies are observed with it; it cannot be pickled or scripted.

    InvalidArgumentError: patterns of other types; a glob to include that matches no module; no module is left; batches
    is no whole number, or below 0; two layers would have one name; the model itself is a ScriptModule.
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
        self._uncalled: Set[str] = set()
        self._layers: Dict[str, bool] = {}
        self._excluded: Dict[str, bool] = {}
        self._handles: List[Any] = []
        self._progress = Progress(batches, progress)
        weights = weights and is_first_rank()
        self._refuse_names_of_two(chosen, weights, inputs)
        try:
            if batches != 0:
                self._add_hooks(model, chosen, inputs)
            if weights:
                self._observe_weights(chosen)
        except BaseException:
            self._remove_hooks()
            raise

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
        given everything for now, as its server can't be reached, raises why; the rest is kept for the next close. Warns
        of modules that were to be observed, but that no batch has called.
        """
        self._remove_hooks()
        self._progress.close()
        self._collector.close()
        self._warn_of_uncalled()

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

    def _add_hooks(self, model: nn.Module, chosen: Sequence[Tuple[str, nn.Module]], inputs: bool) -> None:
        if isinstance(model, torch.jit.ScriptModule):
            raise InvalidArgumentError("the model is a ScriptModule, which runs no hooks: watch what it was made of")
        for path, module in chosen:
            if not isinstance(module, _NEVER_CALLED):
                self._uncalled.add(path)
            if isinstance(module, torch.jit.ScriptModule):
                continue
            if inputs:
                self._handles.append(module.register_forward_pre_hook(_Hook(self._before(path))))
            self._handles.append(module.register_forward_hook(_Hook(self._after(path))))
        self._handles.append(model.register_forward_hook(_Hook(self._end_of_batch())))

    # Copies of the model keep their hooks when these are removed: hooks of a watcher that has ended do nothing.

    def _before(self, path: str) -> Callable[[nn.Module, Any], None]:
        name = modules.input_name(path)

        def hook(module: nn.Module, arguments: Any) -> None:
            if self._handles:  # now: the module may write to its arguments
                self._observe(name, arguments[0] if len(arguments) == 1 else arguments)

        return hook

    def _after(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        name = modules.output_name(path)

        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if self._handles:
                self._uncalled.discard(path)
                self._observe(name, output)

        return hook

    def _end_of_batch(self) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if not self._handles:
                return
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
            for name, parameter in modules.weights_of(module):
                self._observe(modules.join(path, name), parameter, once=True)

    def _refuse_names_of_two(self, chosen: Sequence[Tuple[str, nn.Module]], weights: bool, inputs: bool) -> None:
        owners: Dict[str, str] = {}
        for path, module in chosen:
            for layer, owner in modules.layers_of(path, module, weights=weights, inputs=inputs):
                if not self._is_excluded(layer) and owners.setdefault(layer, owner) != owner:
                    raise InvalidArgumentError(
                        f"layer {layer!r} would be {owners[layer]} and {owner}: leave one of them out (include, "
                        "exclude_types), or give the module another name"
                    )

    def _warn_of_uncalled(self) -> None:
        uncalled, self._uncalled = sorted(self._uncalled), set()
        if not uncalled or self._batches_seen == 0:
            return
        more = f" and {len(uncalled) - 3} more" if len(uncalled) > 3 else ""
        warnings.warn(
            f"calibd: not observed, since no batch called them as modules: {', '.join(map(repr, uncalled[:3]))}{more}. "
            "Functions, TorchScript and nn.TransformerEncoderLayer's fast path run no hooks (see calibd.torch.watch)",
            RuntimeWarning,
            stacklevel=3,
        )

    def _observe(self, name: str, value: Any, *, once: bool = False) -> None:
        for layer, tensor in modules.tensors_in(name, value):
            if not self._is_excluded(layer) and self._collector.observe(layer, tensor, once=once):
                self._layers[layer] = True

    def _is_excluded(self, layer: str) -> bool:
        if layer not in self._excluded:
            self._excluded[layer] = self._excludes(layer)
        return self._excluded[layer]


class _Hook:
    """A hook that copies of a model share with it, and that says why a watched model cannot be saved."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        self._call(*arguments)

    def __deepcopy__(self, memo: Any) -> _Hook:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a watched model cannot be pickled: close the watcher before, or save the model's state_dict")

    @property
    def __name__(self) -> str:
        # What torch.jit.script asks a hook for. An AttributeError, for those who can do without.
        raise AttributeError("a watched model cannot be scripted: close the watcher before")
