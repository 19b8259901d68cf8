"""calibctl as tests use it: a session fed from arrays, its qparams and its exports."""

from __future__ import annotations

import itertools
import json
import pathlib
import subprocess
from typing import Any, Dict, List, Mapping

import numpy as np

SECONDS = 60
# Weights have a scale for each output channel, which is the first axis of what convolutions and linear layers have.
PER_CHANNEL_WEIGHTS = [
    {"pattern": "*.weight", "observer": {"kind": "OBSERVER_KIND_HISTOGRAM", "channelAxis": 0}},
    {"pattern": "*", "observer": {"kind": "OBSERVER_KIND_HISTOGRAM"}},
]


class CalibctlError(Exception):
    """calibctl said no; the text is its standard error."""


class Calibctl:
    """One server, and a folder for what is sent to it."""

    def __init__(self, program: pathlib.Path, server: str, folder: pathlib.Path) -> None:
        self._command = [str(program), "--server", server]
        self._folder = folder
        self._file_numbers = itertools.count()

    def run(self, *arguments: str) -> str:
        """Standard output of `calibctl ARGUMENTS`. Raises CalibctlError."""
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, timeout=SECONDS)
        if done.returncode != 0:
            raise CalibctlError(done.stderr)
        return done.stdout

    def create(self, session: str, rules: Any = ()) -> None:
        """A session with the given LayerRules; without any, histograms of everything, per tensor."""
        config = self.file("json")
        config.write_text(json.dumps({"rules": list(rules)}))
        self.run("session", "create", session, "--config", str(config))

    def push(self, session: str, layers: Mapping[str, np.ndarray]) -> None:
        """Each array is one step of its layer."""
        arguments: List[str] = []
        for layer, array in layers.items():
            path = self.file("npy")
            np.save(path, np.ascontiguousarray(array)[np.newaxis])
            arguments.append(f"{layer}={path}")
        self.run("push", session, *arguments)

    def qparams(self, session: str, *options: str) -> Dict[str, Any]:
        """What `qparams --json` has of each layer."""
        return {
            layer["layer"]: layer for layer in json.loads(self.run("--json", "qparams", session, *options))["layers"]
        }

    def export(self, session: str, export_format: str, path: pathlib.Path, *options: str) -> Any:
        """Writes the file; returns the summary."""
        text = self.run("--json", "export", session, "--format", export_format, "-o", str(path), *options)
        return json.loads(text)

    def file(self, suffix: str) -> pathlib.Path:
        """A path that nothing has yet."""
        return self._folder / f"{next(self._file_numbers)}.{suffix}"
