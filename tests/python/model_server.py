"""The server's side of one worker's Observe stream as observe.proto has it, as plainly as can be.

One session, one worker, no transport, and a store that is a copy. It can crash.
"""

from __future__ import annotations

import copy
from typing import Dict, List, Optional

import numpy as np
from calibd import batch
from calibd.config import Observer
from calibd.errors import CalibdError, make_error
from calibd.observe import observe
from calibd.rpc import observe_pb2 as pb
from calibd.statistics import TensorStatistics

_CODES = {"OUT_OF_RANGE": 11, "INVALID_ARGUMENT": 3, "FAILED_PRECONDITION": 9, "RESOURCE_EXHAUSTED": 8}


def observer_of(layer: str) -> Observer:
    return Observer("minmax" if layer.startswith("range") else "histogram", 0 if layer.startswith("channels") else None)


class ModelServer:
    """Layers whose name begins with "refused" are refused, which the refusal names if `name_refused_layers`."""

    def __init__(self, name_refused_layers: bool = True) -> None:
        self.name_refused_layers = name_refused_layers
        self.applied = self.durable = 0
        self.layers: Dict[str, TensorStatistics] = {}
        self._durable_layers: Dict[str, TensorStatistics] = {}
        self._names: List[str] = []

    def open(self) -> pb.Welcome:
        """A new stream; the older one is fenced."""
        self._names = []
        return pb.Welcome(applied=self.applied, durable=self.durable)

    def ack(self) -> pb.ObserveResponse:
        return pb.ObserveResponse(ack=pb.Ack(applied=self.applied, durable=self.durable))

    def checkpoint(self) -> None:
        self.durable, self._durable_layers = self.applied, copy.copy(self.layers)

    def crash(self) -> None:
        self.applied, self.layers = self.durable, copy.copy(self._durable_layers)

    def take(self, request: pb.ObserveRequest) -> pb.ObserveResponse:
        """Takes the next message of the newest stream."""
        error: Optional[CalibdError] = None
        first = last = 0
        if request.HasField("register_layers"):
            assert request.register_layers.first_handle == len(self._names)
            self._names.extend(request.register_layers.name)
        else:
            first, last = request.update.first, request.update.last
            assert 0 < first <= last
            if first == self.applied + 1:
                try:
                    self._apply(request.update)
                    self.applied = last
                except CalibdError as refused:
                    error = refused
            elif last > self.applied:
                gap = first > self.applied
                error = make_error("OUT_OF_RANGE", "sequence", "SEQUENCE_GAP" if gap else "SEQUENCE_OVERLAP")
        if error is None:
            return self.ack()
        refusal = pb.Refusal(first=first, last=last, applied=self.applied, code=_CODES[error.code], message=str(error))
        refusal.info.reason = error.reason
        refusal.info.metadata.update(error.metadata)
        return pb.ObserveResponse(refusal=refusal)

    def _apply(self, update: pb.Update) -> None:
        if update.HasField("tensor"):
            name = self._name(update.tensor.layer)
            array = np.frombuffer(update.tensor.data, np.float32).reshape(list(update.tensor.shape))
            added = {name: observe(array, observer_of(name))}
        else:
            observers = [observer_of(self._names[handle]) for handle in update.statistics.layer]
            decoded = batch.decode(update.statistics, lambda place: observers[place].collects_histogram)
            added = {self._name(handle): statistics for handle, statistics in decoded}
        for name, statistics in added.items():
            if name in self.layers:
                # A copy, as those of the checkpoint are the same.
                self.layers[name] = self.layers[name].copy()
                self.layers[name].merge(statistics)
            else:
                self.layers[name] = statistics

    def _name(self, handle: int) -> str:
        name = self._names[handle]
        if not name.startswith("refused"):
            return name
        if self.name_refused_layers:
            raise make_error("FAILED_PRECONDITION", "refused", "CHANNEL_COUNT_CHANGED", {"layer": name})
        raise make_error("RESOURCE_EXHAUSTED", "refused", "LIMIT_EXCEEDED", {"option": "--max-channels"})
