"""What the tests observe with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Optional


def observer(kind: str = "histogram", channel_axis: Optional[int] = None) -> Any:
    return SimpleNamespace(kind=kind, channel_axis=channel_axis)
