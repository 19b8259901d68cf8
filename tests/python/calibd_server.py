"""A calibd as a process."""

from __future__ import annotations

import pathlib
import subprocess
import threading
from typing import Sequence

READY_TIMEOUT = 60.0


class Server:
    """Runs from the beginning. `address` stays the same when it is started again."""

    def __init__(self, programs: pathlib.Path, options: Sequence[str] = ("--store", "memory")) -> None:
        self._program = programs / "calibd"
        self._options = list(options)
        self._listen = "127.0.0.1:0"
        self.start()

    def start(self) -> None:
        command = [self._program, "--listen", self._listen, "--http", "", *self._options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        timer = threading.Timer(READY_TIMEOUT, self.process.kill)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        assert line.startswith("calibd ready"), f"calibd did not get ready: {line!r}"
        self.address = next(word[5:] for word in line.split() if word.startswith("grpc="))
        self._listen = self.address

    def stop(self) -> None:
        """In order."""
        self._end(self.process.terminate)

    def kill(self) -> None:
        self._end(self.process.kill)

    def restart(self) -> None:
        self.stop()
        self.start()

    def _end(self, end) -> None:
        end()
        self.process.wait(READY_TIMEOUT)
        self.process.stdout.close()
