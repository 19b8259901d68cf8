"""Waits between repetitions."""

from __future__ import annotations

import random


class Backoff:
    """Seconds: doubling from `least` to `greatest`, each shortened by a random part of up to a half, so that clients
    cut off together don't come back together. Not thread-safe."""

    def __init__(self, least: float, greatest: float) -> None:
        self._least = self._next = least
        self._greatest = greatest

    def next(self) -> float:
        wait = self._next * random.uniform(0.5, 1.0)
        self._next = min(2 * self._next, self._greatest)
        return wait

    def reset(self) -> None:
        """The next wait is one of the least again."""
        self._next = self._least
