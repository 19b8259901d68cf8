"""What an outbox holds: layers, messages with data, and statistics that are not sent."""

from __future__ import annotations

import dataclasses
from typing import Any, Dict, List, Optional

from calibd.errors import CalibdError
from calibd.observer import Observer
from calibd.rpc import observe_pb2 as pb
from calibd.rpc import statistics_pb2
from calibd.statistics import TensorStatistics


@dataclasses.dataclass
class Layer:
    """A layer that the outbox has taken data of."""

    name: str
    observer: Observer
    channels: int
    values: int  # taken in all
    refusal: Optional[CalibdError] = None
    handle: int = 0  # of the stream


@dataclasses.dataclass
class Item:
    """A message with data."""

    generation: int  # of its oldest data
    round: int  # 0: a raw chunk
    layers: List[int]  # numbers of the layers that it carries, in message order
    update: Any  # without units and handles until it is sent
    size: int  # bytes
    unit: int = 0


class Pool:
    """Statistics that are not sent."""

    def __init__(self) -> None:
        self.layers: Dict[int, TensorStatistics] = {}
        self.generation: Optional[int] = None  # of its oldest data

    def merge(self, layer: int, statistics: TensorStatistics, generation: int) -> None:
        """Takes over `statistics`."""
        if layer in self.layers:
            self.layers[layer].merge(statistics)
        else:
            self.layers[layer] = statistics
        self.generation = generation if self.generation is None else min(self.generation, generation)

    def drop(self, layer: int) -> int:
        """Returns how many values were dropped."""
        dropped = self.layers.pop(layer, None)
        if not self.layers:
            self.generation = None
        return 0 if dropped is None else dropped.values()

    def is_behind(self, mark: int) -> bool:
        """Whether everything in it was taken after the mark."""
        return self.generation is None or self.generation > mark


def values_of(update: pb.Update) -> int:
    """All values in an update, finite or not."""
    if update.HasField("tensor"):
        width = 4 if update.tensor.data_type == statistics_pb2.DATA_TYPE_FLOAT32 else 2
        return len(update.tensor.data) // width
    columns = update.statistics
    return sum(columns.count) + sum(columns.nan) + sum(columns.positive_infinity) + sum(columns.negative_infinity)
