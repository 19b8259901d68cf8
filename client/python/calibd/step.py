"""What a rank gives for a synchronous step, and what comes back."""

from __future__ import annotations

import dataclasses
from typing import Dict, NamedTuple, Optional, Union

import numpy as np


class World(NamedTuple):
    """The ranks that take part: 0 to size - 1. `epoch` grows with each change."""

    epoch: int
    size: int


@dataclasses.dataclass(frozen=True)
class Gradients:
    """Gradients of a LEARNED layer's parameters on one rank, without LSQ's factor.

    scale: dL/dscale, a number, or one for each channel.
    zero_point: dL/dzero_point, as many; None: 0 everywhere.
    elements: of the layer's tensor on this rank, for LSQ's factor.
    weight: above 0, the same for all layers of a step: the sum of all ranks' gradients is divided by the sum of their
    weights. 1 for the gradients of a mean loss, the number of samples for those of a sum."""

    scale: Union[float, np.ndarray]
    zero_point: Optional[Union[float, np.ndarray]] = None
    elements: int = dataclasses.field(default=0)
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class StepLayer:
    """What all ranks together gave for one layer.

    Arrays of ranges have shape [channels], 1 for a layer observed per tensor, and 0 where no rank had a finite value.
    All arrays are empty for a layer that the session skips, that is passive, or that has no channels; those of ranges
    are empty for a layer that was given gradients. All are read-only."""

    min: np.ndarray  # float32: that the observer holds after the step
    max: np.ndarray
    step_min: np.ndarray  # float32: of this step
    step_max: np.ndarray
    scale: np.ndarray  # float32 [channels or 1]: after the step; empty when the layer has no finite value
    zero_point: np.ndarray  # int64, as many
    learned_zero_point: (
        np.ndarray
    )  # float32: the zero point as it is learned, between codes; for a layer given gradients


@dataclasses.dataclass(frozen=True)
class StepResult:
    """What all ranks together gave in a step.

    ranks: that contributed; less than world_size when the step was closed without some.
    counted: whether this rank's part was; False when it came late."""

    step: int
    world_epoch: int
    world_size: int
    ranks: int
    counted: bool
    layers: Dict[str, StepLayer]  # in the order of the contribution's
