"""A model's modules: their paths, and the tensors in what they return."""

from __future__ import annotations

from typing import Any, Iterator, Set, Tuple

import torch
from torch import nn

# Attributes that compilers and sharding keep the model itself in.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module")


def named_modules(model: nn.Module) -> Iterator[Tuple[str, nn.Module]]:
    """Every module once, with its path in the model itself.

    Wrappers (DataParallel, DistributedDataParallel, torch.compile, FSDP) are not part of paths: a wrapped model has the
    paths of the bare one. The model's own path is "". A module that occurs at several places has the first one's path.
    """
    return _walk(model, "", set())


def _walk(module: nn.Module, path: str, seen: Set[int]) -> Iterator[Tuple[str, nn.Module]]:
    module = unwrap(module)
    if id(module) in seen:
        return
    seen.add(id(module))
    yield path, module
    for name, child in module.named_children():
        yield from _walk(child, join(path, name), seen)


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside of wrappers, or itself."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
            continue
        inner = next((module._modules[name] for name in _WRAPPED if name in module._modules), None)
        if inner is None:
            return module
        module = inner


def join(path: str, name: str) -> str:
    """The path of what is called `name` below `path`."""
    return f"{path}.{name}" if path else name


def output_name(path: str) -> str:
    """The layer that a module's output is."""
    return path or "output"


def input_name(path: str) -> str:
    """The layer that a module's arguments are."""
    return join(path, "input")


def layers_of(path: str, module: nn.Module, *, weights: bool, inputs: bool) -> Iterator[Tuple[str, str]]:
    """The names of a module's layers as far as they are known before it is called, each with what it is, in words."""
    whose = f"module {path!r}" if path else "the model"
    yield output_name(path), f"the output of {whose}"
    if inputs:
        yield input_name(path), f"the input of {whose}"
    if weights:
        for name, _ in weights_of(module):
            yield join(path, name), f"parameter {name!r} of {whose}"


def weights_of(module: nn.Module) -> Iterator[Tuple[str, nn.Parameter]]:
    """The module's own parameters that have two dimensions or more, by name."""
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.dim() >= 2:
            yield name, parameter


def tensors_in(name: str, value: Any) -> Iterator[Tuple[str, torch.Tensor]]:
    """The tensors that can be observed in what a module takes or returns.

    A tensor is called `name`; those in a tuple, list or dictionary are called NAME.0, NAME.1 or NAME.KEY, at any depth.
    Integers and booleans, sparse, nested and quantized tensors, those without data (meta), and everything else are left
    out.
    """
    if isinstance(value, torch.Tensor):
        strided = value.layout is torch.strided and not value.is_nested
        if strided and value.is_floating_point() and value.device.type != "meta":
            yield name, value
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from tensors_in(join(name, str(index)), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from tensors_in(join(name, str(key)), item)
