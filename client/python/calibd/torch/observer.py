"""An observer for torch.ao.quantization whose quantization parameters are the fleet's."""

from __future__ import annotations

from typing import Any, Optional, Tuple

import torch
from torch.ao.quantization import QConfig
from torch.ao.quantization.observer import UniformQuantizationObserverBase

from calibd.errors import FailedPreconditionError, InvalidArgumentError
from calibd.quantize import Method, QuantSpec

_SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric)
_SCHEMES = (torch.per_tensor_affine, *_SYMMETRIC, torch.per_channel_affine)

# Types of codes by torch's names for them; some versions lack some.
_TYPES = {
    getattr(torch, name): word
    for name, word in (
        ("qint8", "int8"),
        ("quint8", "uint8"),
        ("qint32", "int32"),
        ("quint4x2", "uint4"),
        ("int8", "int8"),
        ("uint8", "uint8"),
        ("int16", "int16"),
        ("uint16", "uint16"),
        ("int32", "int32"),
    )
    if hasattr(torch, name)
}


class FleetObserver(UniformQuantizationObserverBase):
    """Counts what it sees for a session, and answers `convert` with what the session makes of all workers' values.

    For a QConfig, by `qconfig` or `FleetObserver.with_args(...)`. `attach` gives it its layer and session once the
    model is prepared; before that it raises. Copies share the session. Its state_dict has no statistics, which are the
    session's; it cannot be pickled once attached, nor scripted.
    """

    def __init__(
        self,
        method: Any = "minmax",
        dtype: torch.dtype = torch.quint8,
        qscheme: torch.qscheme = torch.per_tensor_affine,
        reduce_range: bool = False,
        quant_min: Optional[int] = None,
        quant_max: Optional[int] = None,
        eps: float = torch.finfo(torch.float32).eps,
        ch_axis: int = 0,
        layer: Optional[str] = None,
        attachment: Any = None,
        **others: Any,
    ) -> None:
        """method: a calibration method's name, or a calibd.Method.

        dtype, qscheme, reduce_range, quant_min, quant_max: as PyTorch's observers take them; both ends of the codes or
            none.
        eps: least scale; the session computes scales and has PyTorch's default, so it can't be another.
        ch_axis: of per-channel schemes: the axis that the session's rule for the layer has too.
        layer, attachment: given by `attach` for weights, whose observers only `convert` makes.
        others: what other versions of PyTorch give to all observers, such as is_dynamic.
        """
        super().__init__(
            dtype=dtype,
            qscheme=qscheme,
            reduce_range=reduce_range,
            quant_min=quant_min,
            quant_max=quant_max,
            eps=eps,
            **others,
        )
        if eps != torch.finfo(torch.float32).eps:
            raise InvalidArgumentError(
                f"eps is {eps:g}, but scales are computed by the session, whose least one is PyTorch's default, "
                f"torch.finfo(torch.float32).eps = {torch.finfo(torch.float32).eps:g}: leave eps out"
            )
        if qscheme not in _SCHEMES or dtype not in _TYPES:
            raise InvalidArgumentError(f"calibd has no quantization parameters of {dtype} and {qscheme}")
        if dtype is torch.quint4x2 and qscheme in _SYMMETRIC:
            raise InvalidArgumentError("quint4x2 must be affine: PyTorch's symmetric zero point for it is 0")
        self.method = method if isinstance(method, Method) else Method(method)
        self.ch_axis = ch_axis
        self.layer = layer
        self.attachment = attachment
        # What `attach` has counted already is not counted again.
        self.counts = attachment is None

    @property
    def per_channel(self) -> bool:
        """Whether there is one scale for each channel."""
        return self.qscheme in _PER_CHANNEL

    def quant_spec(self) -> QuantSpec:
        """What is asked of the session, in PyTorch's conventions."""
        return QuantSpec(
            dtype=_TYPES[self.dtype],
            scheme="symmetric" if self.qscheme in _SYMMETRIC else "affine",
            per_channel=self.per_channel,
            codes=(self.quant_min, self.quant_max) if self.has_customized_qrange else None,
            reduce_range=self.reduce_range and not self.has_customized_qrange,
        )

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        """Counts a tensor and returns it."""
        if self.attachment is None:
            raise self._not_attached()
        if self.counts:
            self.attachment.observe(self.layer, x_orig)
        return x_orig

    @torch.jit.unused
    def calculate_qparams(self, **_: Any) -> Tuple[torch.Tensor, torch.Tensor]:
        """Scale (float32) and zero point (int64), one or one a channel, from the values of all workers so far.

        Raises the session's error for this layer, such as that it has no values.
        """
        if self.attachment is None:
            raise self._not_attached()
        found = self.attachment.qparams(self.layer, self.method, self.quant_spec())
        device = self.eps.device
        return torch.from_numpy(found.scale).to(device), torch.from_numpy(found.zero_point).to(device)

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, method={self.method.method!r}, dtype={self.dtype}, qscheme={self.qscheme}"

    def _not_attached(self) -> FailedPreconditionError:
        return FailedPreconditionError(
            "this observer has no session: call calibd.torch.attach(model, session) after prepare, and before the "
            "model runs or is converted (weights of recurrent modules are not attached: give them PyTorch's own weight "
            "observers)"
        )


def qconfig(activation: Any = None, weight: Any = None) -> QConfig:
    """A QConfig for `prepare` and `prepare_fx`, whose models are to be attached to a session then.

    activation, weight: arguments of FleetObserver as a dictionary, or a class or factory of any other observer.
        Defaults: method mse; activations quint8 per tensor, affine; weights qint8 per channel of axis 0, symmetric.
    """
    return QConfig(
        activation=_factory(activation, dtype=torch.quint8, qscheme=torch.per_tensor_affine),
        weight=_factory(weight, dtype=torch.qint8, qscheme=torch.per_channel_symmetric),
    )


def _factory(given: Any, **defaults: Any) -> Any:
    if given is None or isinstance(given, dict):
        return FleetObserver.with_args(**{"method": "mse", **defaults, **(given or {})})
    return given
