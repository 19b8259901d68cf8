"""Learned step sizes (LSQ): fake quantization whose scales the service learns from the gradients of all ranks."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch import nn

from calibd.config import Rule
from calibd.errors import FailedPreconditionError, InvalidArgumentError
from calibd.observer import Learned, Observer
from calibd.quantize import QuantSpec
from calibd.session import Session
from calibd.statistics import TensorStatistics
from calibd.step import Gradients, StepLayer, StepResult
from calibd.torch import kernels, modules
from calibd.torch.fake_quantize import RULES, Quantizer


class LearnableFakeQuantize(nn.Module):
    """Fake-quantizes what passes, by a scale (and zero point) that all ranks learn together.

    Before the first LearnedScales.step tensors pass as they are and are counted, for the initial values. After it the
    forward pass quantizes, and the backward pass gives the gradient of the input and adds up those of scale and zero
    point for the next step, in float64. In training mode the result requires a gradient, so that it does also where the
    input does not, as the model's own; in evaluation mode, where the input does. `scale` and `zero_point` are buffers,
    no parameters of an optimizer.
    """

    def __init__(
        self,
        layer: Optional[str] = None,
        *,
        dtype: str = "int8",
        scheme: str = "symmetric",
        narrow_range: bool = False,
        channel_axis: Optional[int] = None,
        channels: int = 1,
        replicated: bool = False,
        rule: str = RULES[0],
    ) -> None:
        """layer: its name in the session; None: the module's path, once it is in a LearnedScales.

        dtype: int2 to int16 or uint1 to uint16. scheme: symmetric, or affine, which learns the zero point too.
        narrow_range: leave out the least code.
        channel_axis, channels: one scale a channel along this axis, which has so many.
        replicated: all ranks hold the same tensor, such as a weight; else each has a part of it, such as its samples.
        rule: one of fake_quantize.RULES.
        """
        super().__init__()
        if rule not in RULES:
            raise InvalidArgumentError(f"there is no rule {rule!r}; there are {', '.join(RULES)}")
        self.layer = layer
        self.channel_axis = channel_axis
        self.replicated = replicated
        self.rule = rule
        self.qmin, self.qmax = codes_of(dtype, narrow_range)
        self.quant_spec = QuantSpec(
            dtype=dtype, scheme=scheme, narrow_range=narrow_range, per_channel=channel_axis is not None
        )
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("zero_point", torch.zeros(channels))
        # Not bool: Gloo, which broadcasts buffers for DistributedDataParallel, has none.
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        self._is_initialized: Optional[bool] = None  # the buffer's value on the host
        self._counter: Optional[kernels.Counter] = None
        self._statistics: Optional[TensorStatistics] = None
        self._sums: Optional[Tuple[torch.Tensor, torch.Tensor]] = None
        self._elements = 0

    def observer(self) -> Observer:
        """What the session collects of it, with default options."""
        return Observer("learned", channel_axis=self.channel_axis, learned=Learned(replicated=self.replicated))

    def has_initial_values(self) -> bool:
        """Whether scale and zero point came from the session, or from a state_dict."""
        if self._is_initialized is None:
            self._is_initialized = bool(self.initialized.item())
        return self._is_initialized

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x of float32, or of float16 or bfloat16, which are quantized in float32; the result is of x's type."""
        if not self.has_initial_values():
            self._count(x)
            return x
        learner = None
        if self.training and torch.is_grad_enabled() and not x.requires_grad:
            # A backward pass leaves out functions none of whose arguments requires a gradient.
            learner = torch.empty(0, device=x.device, requires_grad=True)
        return _FakeQuantize.apply(x, self, learner)

    def quantizer(self) -> Quantizer:
        """With the present scale and zero point."""
        return Quantizer(self.scale, self.zero_point, self.qmin, self.qmax, self.channel_axis, self.rule)

    def take(self, weight: float) -> Any:
        """What this rank gives for a step: statistics before there are initial values, then Gradients; None: nothing.

        Starts over. weight: of the gradients.
        """
        if not self.has_initial_values():
            counter, self._counter = self._counter, None
            statistics, self._statistics = self._statistics, None
            if counter is not None:
                counted = kernels.collect([counter], 7)[0]
                if statistics is None:
                    return counted
                statistics.merge(counted)
            return statistics
        if self._sums is None:
            return None
        (scale, zero_point), self._sums = self._sums, None
        elements, self._elements = self._elements, 0
        affine = self.quant_spec.scheme == "affine"
        return Gradients(scale.cpu().numpy(), zero_point.cpu().numpy() if affine else None, elements, weight)

    def set_parameters(self, learned: StepLayer) -> None:
        """Takes over what a step gave, unless the layer has no values yet."""
        if len(learned.scale) == 0:
            return
        zero_point = learned.learned_zero_point if len(learned.learned_zero_point) else learned.zero_point
        self.scale.copy_(torch.tensor(learned.scale))
        self.zero_point.copy_(torch.tensor(zero_point, dtype=torch.float32))
        self.initialized.fill_(1)
        self._is_initialized = True

    def forget_parameters(self) -> None:
        """Begins anew: tensors pass as they are and are counted, until a step gives initial values."""
        self.initialized.fill_(0)
        self._is_initialized = False
        self._sums, self._elements = None, 0

    def add_gradients(self, scale: torch.Tensor, zero_point: torch.Tensor, elements: int) -> None:
        """Adds the sums of a backward pass, which stay on their device.

        elements: of the tensor. A replicated one is the same in all passes of a step, and counts once.
        """
        if self._sums is not None:
            scale, zero_point = self._sums[0] + scale, self._sums[1] + zero_point
        self._sums = scale, zero_point
        self._elements = max(self._elements, elements) if self.replicated else self._elements + elements

    def _count(self, x: torch.Tensor) -> None:
        observer = self.observer()
        kernels.check(x, observer)
        if self._counter is None:
            self._counter = kernels.make_counter(x, observer)
        if self._counter is not None:
            kernels.add(self._counter, x, observer)
            return
        counted = kernels.observe_on_host(x, observer, 7)
        if self._statistics is None:
            self._statistics = counted
        else:
            self._statistics.merge(counted)

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self._is_initialized = None

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, codes=[{self.qmin}, {self.qmax}], {self.quant_spec.scheme}"


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, module: LearnableFakeQuantize, learner: Optional[torch.Tensor]
    ) -> torch.Tensor:
        # Copies: a step may come before the backward pass of an earlier forward pass.
        quantizer = module.quantizer()
        quantizer = quantizer._replace(scale=quantizer.scale.clone(), zero_point=quantizer.zero_point.clone())
        ctx.module, ctx.quantizer = module, quantizer
        ctx.save_for_backward(x)
        return quantizer.quantize(x.float()).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> Tuple[Optional[torch.Tensor], None, None]:
        (x,) = ctx.saved_tensors
        dx, scale, zero_point = ctx.quantizer.gradients(x.float(), dy.float())
        ctx.module.add_gradients(scale, zero_point, x.numel())
        return dx.to(dy.dtype) if ctx.needs_input_grad[0] else None, None, None


class LearnedScales:
    """The LearnableFakeQuantize modules of a model, and the synchronous steps of one rank that teach them.

    scales = LearnedScales(model)
    scales.session = calibd.torch.distributed_session(server, "qat", synchronous=True, rules=scales.rules())
    for batch in loader:
        loss(model(batch)).backward(); optimizer.step(); scales.step()
    """

    def __init__(self, model: nn.Module, session: Optional[Session] = None) -> None:
        """session: of a rank; may be set later. InvalidArgumentError: no modules, or two of one name."""
        self.session = session
        self._modules: Dict[str, LearnableFakeQuantize] = {}
        for path, module in modules.named_modules(model):
            if isinstance(module, LearnableFakeQuantize):
                module.layer = module.layer or path
                if module.layer in self._modules:
                    raise InvalidArgumentError(f"two LearnableFakeQuantize modules are called {module.layer!r}")
                self._modules[module.layer] = module
        if not self._modules:
            raise InvalidArgumentError("the model has no LearnableFakeQuantize modules")

    @property
    def layers(self) -> List[str]:
        """Names of the modules' layers."""
        return list(self._modules)

    def rules(self, learned: Learned = Learned()) -> List[Rule]:
        """Rules of a session for these modules. learned: how they learn; `replicated` is each module's own."""
        return [
            Rule(
                layer,
                dataclasses.replace(
                    module.observer(), learned=dataclasses.replace(learned, replicated=module.replicated)
                ),
                module.quant_spec,
            )
            for layer, module in self._modules.items()
        ]

    def step(self, *, weight: float = 1.0, timeout: Optional[float] = None) -> StepResult:
        """One synchronous step of all layers, after the backward pass; waits for the other ranks.

        The first one sends what was counted, for the initial values; later ones send gradients. All ranks then have the
        same scales. Gradients of several backward passes before a step add up.

        weight: what the gradients are divided by, once those of all ranks and their weights are added up: 1 for a mean
            loss, the number of samples for a sum, and times as many as there were backward passes if those are to be
            averaged. With a GradScaler: times scaler.get_scale(), as it was in the backward pass, so before update().
        timeout: in seconds; None: none.

        Raises as calibd.rank.Rank; gradients of a step that failed are gone. LEARNED_NOT_INITIALIZED: a session has no
        values of a layer whose scale came from a state_dict, as a new session after a checkpoint. It can't be given
        them. The modules that gave gradients count initial values again from then on, as before the first step, so go
        on with the next batch; the session begins to learn from those. To keep what was learned, keep the session.
        """
        if self.session is None:
            raise FailedPreconditionError("these LearnedScales have no session: set `session` to one of a rank")
        given = {layer: module.take(weight) for layer, module in self._modules.items()}
        given = {layer: data for layer, data in given.items() if data is not None}
        try:
            result = self.session.step(given, timeout=timeout)
        except FailedPreconditionError as error:
            if error.reason == "LEARNED_NOT_INITIALIZED":
                for layer, data in given.items():
                    if isinstance(data, Gradients):
                        self._modules[layer].forget_parameters()
            raise
        for layer, learned in result.layers.items():
            self._modules[layer].set_parameters(learned)
        return result


def codes_of(dtype: str, narrow_range: bool = False) -> Tuple[int, int]:
    """Least and greatest code of an integer type. InvalidArgumentError for others."""
    match = re.fullmatch(r"(u?)int([1-9]|1[0-6])", dtype)
    if match is None or dtype == "int1":
        raise InvalidArgumentError(f"scales of {dtype} are not learned; there are int2 to int16 and uint1 to uint16")
    bits = int(match[2])
    qmin, qmax = (0, 2**bits - 1) if match[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return qmin + narrow_range, qmax
