"""What a format can't hold."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from calibctl import Calibctl, CalibctlError


def assert_refused(
    exporter: Calibctl, session: str, export_format: str, folder: pathlib.Path, layer: str, *options: str
) -> None:
    """The export is an error that names the layer and leaves nothing behind; when asked to, it goes on without it."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(CalibctlError) as refusal:
        exporter.export(session, export_format, folder / "export", *options)
    assert json.dumps(layer)[1:-1] in str(refusal.value) or layer in str(refusal.value)
    assert not list(folder.iterdir())
    summary = exporter.export(session, export_format, folder / "export", "--skip-unexportable", *options)
    assert layer not in summary["layers"]
    assert layer in [omitted["layer"] for omitted in summary["omitted"]]


def session_with(exporter: Calibctl, session: str, *layers: str) -> str:
    """A session of layers with these names and ordinary values."""
    exporter.create(session)
    exporter.push(session, {layer: np.linspace(-1, 2, 100, dtype=np.float32) for layer in (*layers, "ordinary")})
    return session
