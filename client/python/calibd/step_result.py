"""Results of synchronous steps as callers read them."""

from __future__ import annotations

from typing import Any, List, Sequence

import numpy as np
import numpy.typing as npt

from calibd import errors
from calibd.rpc import observe_pb2
from calibd.step import StepLayer, StepResult
from calibd.step_contribution import StepLayout

_RANGES = ("min", "max", "step_min", "step_max")


def decode(message: observe_pb2.StepResult, layout: StepLayout, names: Sequence[str]) -> StepResult:
    """The result as the caller of a contribution reads it; `names` are those of his layers.

    Raises INTERNAL when it does not fit the contribution."""
    params = list(message.params) or [1] * len(layout.parts)
    all_rows = sum(rows for _, rows in layout.parts[: layout.statistics_parts])
    all_learned = sum(params[layout.statistics_parts :])
    ranges = [_column(getattr(message, name), np.float32) for name in _RANGES]
    scale = _column(message.scale, np.float32)
    zero_point = _column(message.zero_point, np.int64)
    learned_zero_point = _column(message.learned_zero_point, np.float32)
    if (
        len(params) != len(layout.parts)
        or any(len(column) != all_rows for column in ranges)
        or len(scale) != sum(params)
        or len(zero_point) != sum(params)
        or len(learned_zero_point) != all_learned
    ):
        raise errors.make_error(
            "INTERNAL", f"the result of step {message.step} does not fit what this rank contributed to it"
        )
    least, greatest, step_least, step_greatest = ranges
    layers: List[StepLayer] = [_NOTHING] * len(names)
    row = param = learned_param = 0
    for i, ((position, part_rows), entries) in enumerate(zip(layout.parts, params)):
        given = i < layout.statistics_parts
        rows, learned = (part_rows, 0) if given else (0, entries)
        layer_rows, layer_params = slice(row, row + rows), slice(param, param + entries)
        layers[position] = StepLayer(
            least[layer_rows],
            greatest[layer_rows],
            step_least[layer_rows],
            step_greatest[layer_rows],
            scale[layer_params],
            zero_point[layer_params],
            learned_zero_point[learned_param : learned_param + learned],
        )
        row += rows
        param += entries
        learned_param += learned
    return StepResult(
        step=message.step,
        world_epoch=message.world_epoch,
        world_size=message.world_size,
        ranks=message.ranks,
        counted=message.counted,
        layers=dict(zip(names, layers)),
    )


def _column(entries: Any, dtype: Any) -> npt.NDArray[Any]:
    """A message's column, read-only."""
    column: npt.NDArray[Any] = np.fromiter(entries, dtype, len(entries))
    column.flags.writeable = False
    return column


_NO_FLOATS = _column((), np.float32)
_NOTHING = StepLayer(
    min=_NO_FLOATS,
    max=_NO_FLOATS,
    step_min=_NO_FLOATS,
    step_max=_NO_FLOATS,
    scale=_NO_FLOATS,
    zero_point=_column((), np.int64),
    learned_zero_point=_NO_FLOATS,
)
