"""A session that keeps what it is given, in place of a server."""

from __future__ import annotations

import threading
from typing import Dict, List, Optional, Sequence, Tuple

from calibd.config import Rule, SessionConfig
from calibd.observe import observe
from calibd.statistics import TensorStatistics


class FakeSession:
    """Merges statistics by layer, as a server does; those of layers that depend on order it keeps apart."""

    def __init__(self, rules: Sequence[Rule] = (), mantissa_bits: int = 7) -> None:
        self.config = SessionConfig(rules=tuple(rules), mantissa_bits=mantissa_bits)
        self.layers: Dict[str, TensorStatistics] = {}
        self.steps: List[Tuple[str, TensorStatistics]] = []
        self.tries = 0
        self.calls = 0
        self.flushes = 0
        self.error: Optional[Exception] = None
        self.received = threading.Event()
        self._lock = threading.Lock()

    def observe(self, layer, array, dtype=None):
        self.observe_statistics(layer, observe(array, self.config.observer_of(layer), 7, dtype))

    def observe_statistics(self, layer, statistics):
        self.tries += 1
        if self.error is not None:
            raise self.error
        with self._lock:
            self.calls += 1
            if self.config.observer_of(layer).depends_on_order:
                self.steps.append((layer, statistics))
            elif layer in self.layers:
                self.layers[layer].merge(statistics)
            else:
                self.layers[layer] = statistics.copy()
        self.received.set()

    def flush(self, timeout=None):
        self.flushes += 1
