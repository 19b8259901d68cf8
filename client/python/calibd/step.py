"""What a rank gives for a synchronous step, and what comes back."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, NamedTuple, Optional, Union

import numpy as np
import numpy.typing as npt


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

    scale: Union[float, npt.NDArray[np.floating[Any]]]
    zero_point: Optional[Union[float, npt.NDArray[np.floating[Any]]]] = None
    elements: int = dataclasses.field(default=0)
    weight: float = 1.0


class StepLayer(NamedTuple):
    """What all ranks together gave for one layer.

    Arrays of ranges have shape [channels], 1 for a layer observed per tensor, and 0 where no rank had a finite value.
    All arrays are empty for a layer that the session skips, that is passive, or that has no channels; those of ranges
    are empty for a layer that was given gradients. All are read-only."""

    min: npt.NDArray[np.float32]  # that the observer holds after the step
    max: npt.NDArray[np.float32]
    step_min: npt.NDArray[np.float32]  # of this step
    step_max: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]  # [channels or 1]: after the step; empty when the layer has no finite value
    zero_point: npt.NDArray[np.int64]  # as many
    learned_zero_point: npt.NDArray[np.float32]  # as it is learned, between codes; for a layer that was given gradients


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
