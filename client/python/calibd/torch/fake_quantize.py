"""Fake quantization with scale and zero point as parameters, and their gradients by the straight-through estimator.

The formulas are those of quant/learned.h. Esser et al., "Learned Step Size Quantization", ICLR 2020.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import torch

#: How a zero point between codes is rounded, and which codes are saturated; as LearnedRule in quant/learned.h.
#: "pytorch_per_channel": half to even; saturated beyond qmin and qmax. PyTorch 1.13's
#: _fake_quantize_learnable_per_channel_affine.
#: "pytorch_per_tensor": the same, but gradients are taken at the zero point trunc(clamp(z + 1/2)), which for a negative
#: z is not the forward pass's. Its _fake_quantize_learnable_per_tensor_affine.
#: "pytorch_first": trunc(clamp(z + 1/2)) in both passes; for the gradients of scale and zero point a code at qmin or
#: qmax is saturated too.
RULES = ("pytorch_per_channel", "pytorch_per_tensor", "pytorch_first")


class Quantizer(NamedTuple):
    """scale, zero_point: float32[1] or float32[channels], zero points also between codes; qmin <= 0 <= qmax."""

    scale: torch.Tensor
    zero_point: torch.Tensor
    qmin: int
    qmax: int
    channel_axis: Optional[int] = None
    rule: str = RULES[0]

    def _shaped(self, parameter: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        if self.channel_axis is None:
            return parameter
        shape = [1] * x.dim()
        shape[self.channel_axis] = -1
        return parameter.view(shape)

    def _parameters(self, x: torch.Tensor, truncates: bool) -> Tuple[torch.Tensor, torch.Tensor]:
        """Scale, and zero point rounded to a code, of shapes that meet x's."""
        if truncates:
            code = (self.zero_point + 0.5).clamp(self.qmin, self.qmax).trunc()
        else:
            code = self.zero_point.round().clamp(self.qmin, self.qmax)
        return self._shaped(self.scale, x), self._shaped(code, x)

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """y = (clamp(q, qmin, qmax) - z) s, where q is the code of x. float32. Infinities saturate, NaN stays NaN."""
        first = self.rule == "pytorch_first"
        scale, zero_point = self._parameters(x, first)
        quotient = x * scale.reciprocal()
        code = (quotient + zero_point).round() if first else quotient.round() + zero_point
        return (code.clamp(self.qmin, self.qmax) - zero_point) * scale

    def gradients(self, x: torch.Tensor, dy: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """dx, and the sums dscale and dzero_point (float64, one a channel), without LSQ's factor.

        dx is dy where qmin <= q <= qmax, else 0; dscale sums dy x (qmin - z or qmax - z where saturated, else
        ((q - z) s - x) / s), dzero_point dy x (-s where saturated). Of NaN dx is 0 and the sums have nothing.
        """
        scale, zero_point = self._parameters(x, self.rule != "pytorch_per_channel")
        code = (x * scale.reciprocal() + zero_point).round()
        margin = 1 if self.rule == "pytorch_first" else 0
        below, above = code < self.qmin + margin, code > self.qmax - margin
        saturated = below | above
        inside = ~saturated & ~code.isnan()
        dx = torch.where((code >= self.qmin) & (code <= self.qmax), dy, torch.zeros_like(dy))

        dy = dy.double()
        zero = torch.zeros((), dtype=torch.float64, device=x.device)
        end = torch.where(below, self.qmin - zero_point, self.qmax - zero_point).double()
        rest = ((code - zero_point) * scale).double() - x.double()
        of_saturated = self._sum(torch.where(saturated, dy * end, zero))
        of_inside = self._sum(torch.where(inside, dy * rest, zero))
        dscale = of_saturated + of_inside / self.scale.double()
        dzero_point = -self._sum(torch.where(saturated, dy, zero)) * self.scale.double()
        return dx, dscale, dzero_point

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        if self.channel_axis is None:
            return values.sum().view(1)
        return values.transpose(0, self.channel_axis).flatten(1).sum(dim=1)
