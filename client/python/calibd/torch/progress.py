"""A line on a terminal that says how far a calibration is."""

from __future__ import annotations

import sys
import time
from typing import Optional, TextIO

_BAR = 24
_SECONDS_BETWEEN = 0.1


class Progress:
    """Batches done, of how many if that is known, and batches per second."""

    def __init__(self, total: Optional[int], shown: Optional[bool] = None, stream: Optional[TextIO] = None) -> None:
        """shown: None: if the stream (standard error) is a terminal."""
        self._total = total
        self._stream = sys.stderr if stream is None else stream
        self._shown = self._stream.isatty() if shown is None else shown
        self._started = time.monotonic()
        self._drawn: Optional[float] = None

    def update(self, batches: int, layers: int) -> None:
        """Draws the line anew, if the last time was long enough ago or all batches are done."""
        now = time.monotonic()
        done = batches == self._total
        if not self._shown or (not done and self._drawn is not None and now - self._drawn < _SECONDS_BETWEEN):
            return
        self._drawn = now
        of = ""
        if self._total:
            filled = _BAR * batches // self._total
            of = f"/{self._total} [{'#' * filled}{' ' * (_BAR - filled)}]"
        rate = batches / max(now - self._started, 1e-9)
        self._stream.write(f"\rcalibd: batch {batches}{of}, {layers} layers, {rate:.1f} batches/s")
        self._stream.flush()

    def close(self) -> None:
        """Ends the line."""
        if self._drawn is not None:
            self._stream.write("\n")
            self._stream.flush()
        self._shown, self._drawn = False, None
