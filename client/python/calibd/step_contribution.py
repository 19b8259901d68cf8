"""A rank's part of a synchronous step on its way through a StepLog."""

from __future__ import annotations

import dataclasses
from typing import Any, List, Optional, Sequence, Tuple

from calibd.errors import CalibdError
from calibd.rpc import observe_pb2
from calibd.step_layers import StepLayerInfo


@dataclasses.dataclass
class StepLayout:
    """Where the caller's layers lie in a contribution, and with it in the step's result.

    `parts` has (index among the caller's layers, rows) in the order of the message: layers of `statistics`, of which
    there are `statistics_parts`, then those of `gradients`."""

    parts: List[Tuple[int, int]] = dataclasses.field(default_factory=list)
    statistics_parts: int = 0


@dataclasses.dataclass
class EncodedStep:
    """A rank's part of a step, ready to be sent."""

    request: observe_pb2.ObserveRequest  # a StepContribution; the log sets its step and epoch
    layout: StepLayout = dataclasses.field(default_factory=StepLayout)
    values: Sequence[Any] = ()  # those of the reference histograms, in message order
    layers_used: int = 0  # more than the greatest layer number
    nbytes: int = 0  # of all of it


class StepTicket:
    """What became of a contribution, for whoever waits for it. Guarded by what guards the log."""

    def __init__(self, layers: Sequence[StepLayerInfo] = (), layout: Optional[StepLayout] = None) -> None:
        self.step = 0
        self.layers = layers  # the caller's
        self.layout = layout or StepLayout()
        self.answered = False
        self.error: Optional[CalibdError] = None  # once answered: None, or there is no result
        self.result: Optional[observe_pb2.StepResult] = None


@dataclasses.dataclass(frozen=True)
class CountJob:
    """Values that are to be counted on grids, one for one."""

    grids: observe_pb2.StepGrids
    values: Sequence[Any]


@dataclasses.dataclass
class StepEntry:
    encoded: EncodedStep
    ticket: StepTicket
    epoch: int  # of the world that it was made for
    sent: bool = False  # on this stream
    grids: Optional[observe_pb2.StepGrids] = None  # asked for on this stream
    counts: Optional[observe_pb2.ObserveRequest] = None  # made last, with their grids
    counts_due: bool = False
