"""Contributions to synchronous steps made of what callers give, counts on the server's grids, and results read back."""

from __future__ import annotations

from typing import List, Mapping, Sequence, Tuple, Union

import numpy as np

from calibd import batch, errors, reference_grid
from calibd.observe import observe
from calibd.observer import Observer, ReferenceHistogram
from calibd.rpc import observe_pb2
from calibd.statistics import TensorStatistics
from calibd.step import Gradients, StepLayer, StepResult
from calibd.step_contribution import CountJob, EncodedStep, StepLayout
from calibd.step_layers import StepLayerInfo

StepData = Union[np.ndarray, TensorStatistics, Gradients]

_RANGES = ("min", "max", "step_min", "step_max")  # as StepLayer has them


def encode(
    layers: Mapping[str, StepData], infos: Sequence[StepLayerInfo], mantissa_bits: int
) -> Tuple[EncodedStep, int]:
    """A rank's part of a step, and how many values, finite or not, its tensors have; `infos` has one for each layer.

    Raises as `observe`, with the layer's name; OBSERVER_MISMATCH (gradients of a layer that is not LEARNED, statistics
    that lack what the observer collects); INVALID_FIELD (gradients of unequal lengths, weights that differ or are not
    above 0)."""
    data = list(layers.values())
    order = sorted((info.number, i) for i, info in enumerate(infos) if info.number is not None)
    step = EncodedStep(observe_pb2.ObserveRequest())
    contribution = step.request.step_contribution
    contribution.SetInParent()
    collected: List[Tuple[int, TensorStatistics]] = []
    values: List[Tuple[str, np.ndarray]] = []
    gradients: List[Tuple[int, str, Gradients]] = []
    of_gradients: List[int] = []
    for number, i in order:
        step.layers_used = number + 1
        given, observer = data[i], infos[i].observer
        assert observer is not None  # it has a number
        if isinstance(given, Gradients):
            if observer.kind != "learned":
                raise _mismatch(
                    infos[i], f"has an observer of kind {observer.kind}, which takes no gradients; " "give its tensor"
                )
            gradients.append((number, infos[i].name, given))
            of_gradients.append(i)
            continue
        statistics = _statistics(infos[i], observer, given, mantissa_bits)
        if statistics.channels == 0:
            continue
        collected.append((number, statistics))
        step.layout.parts.append((i, statistics.channels))
        if observer.kind == "reference_histogram":
            rule = observer.reference_histogram or ReferenceHistogram()
            values.append((rule.rule, np.array(given, np.float32)))
    step.layout.statistics_parts = len(step.layout.parts)
    if collected:
        batch.write(collected, contribution.statistics)
    if gradients:
        rows = _write_gradients(gradients, contribution.gradients)
        step.layout.parts.extend(zip(of_gradients, rows))
    step.values = values
    step.nbytes = step.request.ByteSize() + sum(array.nbytes for _, array in values)
    return step, sum(statistics.values() for _, statistics in collected)


def count(job: CountJob) -> observe_pb2.ObserveRequest:
    """Counts the values on the grids: a StepCounts. Raises INTERNAL when a grid is none."""
    request = observe_pb2.ObserveRequest()
    counts = request.step_counts
    counts.world_epoch = job.grids.world_epoch
    counts.step = job.grids.step
    for grid, (rule, values) in zip(job.grids.grid, job.values):
        added = counts.count.add()
        added.grid.CopyFrom(grid)
        try:
            added.count.extend(reference_grid.count_on_grid(rule, grid.low, grid.high, grid.bins, values).tolist())
        except ValueError as error:
            raise errors.make_error(
                "INTERNAL", f"the server asked for counts of step {counts.step} on a grid that is none: {error}"
            ) from None
    return request


def decode(message: observe_pb2.StepResult, layout: StepLayout, names: Sequence[str]) -> StepResult:
    """The result as the caller of a contribution reads it; `names` are those of his layers.

    Raises INTERNAL when it does not fit the contribution."""
    params = list(message.params) or [1] * len(layout.parts)
    all_rows = sum(rows for _, rows in layout.parts[: layout.statistics_parts])
    all_learned = sum(params[layout.statistics_parts :])
    ranges = [np.array(getattr(message, name), np.float32) for name in _RANGES]
    scale = np.array(message.scale, np.float32)
    zero_point = np.array(message.zero_point, np.int64)
    learned_zero_point = np.array(message.learned_zero_point, np.float32)
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
    for column in (*ranges, scale, zero_point, learned_zero_point):
        column.flags.writeable = False
    layers = [_NOTHING] * len(names)
    row = param = learned_param = 0
    for i, ((position, part_rows), entries) in enumerate(zip(layout.parts, params)):
        given = i < layout.statistics_parts
        rows, learned = (part_rows, 0) if given else (0, entries)
        layers[position] = StepLayer(
            *[column[row : row + rows] for column in ranges],
            scale[param : param + entries],
            zero_point[param : param + entries],
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


def _statistics(info: StepLayerInfo, observer: Observer, given: StepData, mantissa_bits: int) -> TensorStatistics:
    """What the rank collects of a layer: a histogram, or the ranges alone when the server does the rest."""
    if not isinstance(given, TensorStatistics):
        try:
            return observe(given, observer, mantissa_bits)
        except (TypeError, ValueError) as error:
            raise type(error)(f'layer "{info.name}": {error}') from None
    if observer.kind == "reference_histogram":
        raise _mismatch(info, "has a reference histogram, which counts values on the server's grid; give its tensor")
    if observer.channel_axis is None and given.channels != 1:
        raise _mismatch(info, f"is observed per tensor, and its statistics have {given.channels} channels")
    if not observer.collects_histogram:
        return _without_histogram(given)
    if given.histogram is None or given.histogram.mantissa_bits < mantissa_bits:
        raise _mismatch(
            info,
            f"has an observer of kind {observer.kind}: its statistics need a histogram of "
            f"{mantissa_bits} mantissa bits or more",
        )
    return given


def _without_histogram(statistics: TensorStatistics) -> TensorStatistics:
    ranges = TensorStatistics(0)
    for name in ("count", "nan", "positive_infinity", "negative_infinity", "min", "max"):
        setattr(ranges, name, getattr(statistics, name))
    return ranges


def _write_gradients(layers: Sequence[Tuple[int, str, Gradients]], message: observe_pb2.GradientBatch) -> List[int]:
    """Writes all columns; how many rows each layer has."""
    channels: List[int] = []
    zero_points: List[np.ndarray] = []
    weight = layers[0][2].weight
    for number, name, gradients in layers:
        scale = np.atleast_1d(np.asarray(gradients.scale, np.float64))
        zero_point = gradients.zero_point
        column = np.zeros_like(scale) if zero_point is None else np.atleast_1d(np.asarray(zero_point, np.float64))
        if scale.ndim != 1 or scale.size == 0 or column.shape != scale.shape:
            raise _invalid(
                name,
                f"has gradients of scales of shape {list(scale.shape)} and of zero points of shape "
                f"{list(column.shape)}; give one, or one a channel, of each, or no zero points",
            )
        if not gradients.weight > 0 or gradients.weight != weight:
            raise _invalid(
                name,
                f"has gradients of weight {gradients.weight}; it must be above 0 and the same for all "
                "layers of a step",
            )
        if gradients.elements < 0:
            raise _invalid(name, f"has gradients of a tensor of {gradients.elements} elements")
        message.layer.append(number)
        message.elements.append(gradients.elements)
        message.scale.extend(scale.tolist())
        channels.append(scale.size)
        zero_points.append(column)
    if any(rows != 1 for rows in channels):
        message.channels.extend(channels)
    if any(column.any() for column in zero_points):
        message.zero_point.extend(np.concatenate(zero_points).tolist())
    message.weight = weight
    return channels


def _mismatch(info: StepLayerInfo, what: str) -> errors.CalibdError:
    return errors.make_error(
        "INVALID_ARGUMENT", f'layer "{info.name}" {what}', "OBSERVER_MISMATCH", {"layer": info.name}
    )


def _invalid(layer: str, what: str) -> errors.CalibdError:
    return errors.make_error("INVALID_ARGUMENT", f'layer "{layer}" {what}', "INVALID_FIELD", {"layer": layer})


_EMPTY_FLOAT32 = np.empty(0, np.float32)
_EMPTY_FLOAT32.flags.writeable = False
_EMPTY_INT64 = np.empty(0, np.int64)
_EMPTY_INT64.flags.writeable = False
_NOTHING = StepLayer(
    min=_EMPTY_FLOAT32,
    max=_EMPTY_FLOAT32,
    step_min=_EMPTY_FLOAT32,
    step_max=_EMPTY_FLOAT32,
    scale=_EMPTY_FLOAT32,
    zero_point=_EMPTY_INT64,
    learned_zero_point=_EMPTY_FLOAT32,
)
