"""Contributions to synchronous steps made of what callers give, and counts on the server's grids."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from calibd import batch, errors, reference_grid
from calibd.layer_name import of_layer
from calibd.observe import observe
from calibd.observer import Observer, ReferenceHistogram
from calibd.rpc import observe_pb2
from calibd.small_ranges import is_small, observe_small
from calibd.statistics import TensorStatistics
from calibd.step import Gradients
from calibd.step_contribution import CountJob, EncodedStep
from calibd.step_layers import StepLayerInfo

StepData = Union[npt.NDArray[Any], TensorStatistics, Gradients]


def encode(
    layers: Mapping[str, StepData], infos: Sequence[StepLayerInfo], mantissa_bits: int
) -> Tuple[EncodedStep, int]:
    """A rank's part of a step, and how many values, finite or not, its tensors have; `infos` has one for each layer.

    Raises as `observe`, with the layer's name; OBSERVER_MISMATCH (gradients of a layer that is not LEARNED, statistics
    that lack what the observer collects); INVALID_FIELD (gradients of unequal lengths, weights that differ or are not
    above 0)."""
    data = list(layers.values())
    order = sorted((info.number, i) for i, info in enumerate(infos) if info.number is not None)
    small = [i for _, i in order if _collects_one_range(infos[i].observer) and is_small(data[i])]
    observed = dict(zip(small, observe_small([data[i] for i in small])))
    step = EncodedStep(observe_pb2.ObserveRequest())
    contribution = step.request.step_contribution
    contribution.SetInParent()
    collected: List[Tuple[int, TensorStatistics]] = []
    values: List[Tuple[str, npt.NDArray[np.float32]]] = []
    gradients: List[Tuple[int, StepLayerInfo, Gradients]] = []
    of_gradients: List[int] = []
    for number, i in order:
        step.layers_used = number + 1
        given, observer = data[i], infos[i].observer
        assert observer is not None  # it has a number
        if isinstance(given, Gradients):
            gradients.append((number, infos[i], given))
            of_gradients.append(i)
            continue
        statistics = observed.get(i) or _statistics(infos[i], observer, given, mantissa_bits)
        if statistics.channels == 0:
            continue
        collected.append((number, statistics))
        step.layout.parts.append((i, statistics.channels))
        if observer.kind == "reference_histogram":
            rule = (observer.reference_histogram or ReferenceHistogram()).rule
            values.append((rule, np.array(given, np.float32)))
    step.layout.statistics_parts = len(step.layout.parts)
    if collected:
        contribution.statistics.CopyFrom(batch.encode(collected))
    if gradients:
        step.layout.parts.extend(zip(of_gradients, _write_gradients(gradients, contribution.gradients)))
    step.values = values
    step.nbytes = step.request.ByteSize() + sum(array.nbytes for _, array in values)
    rows = contribution.statistics
    return step, sum(map(sum, (rows.count, rows.nan, rows.positive_infinity, rows.negative_infinity)))


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


def _collects_one_range(observer: Optional[Observer]) -> bool:
    return observer is not None and observer.channel_axis is None and not observer.collects_histogram


def _statistics(
    info: StepLayerInfo, observer: Observer, given: Union[npt.NDArray[Any], TensorStatistics], mantissa_bits: int
) -> TensorStatistics:
    """What the rank collects of a layer: a histogram, or the ranges alone when the server does the rest."""
    if not isinstance(given, TensorStatistics):
        try:
            return observe(given, observer, mantissa_bits)
        except errors.InvalidArgumentError as error:
            raise of_layer(info.name, error) from None
    if observer.kind == "reference_histogram":
        raise _mismatch(info, "has a reference histogram, which counts values on the server's grid; give its tensor")
    if observer.channel_axis is None and given.channels != 1:
        raise _mismatch(info, f"is observed per tensor, and its statistics have {given.channels} channels")
    if not observer.collects_histogram:
        return given if given.histogram is None else _without_histogram(given)
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


def _write_gradients(
    layers: Sequence[Tuple[int, StepLayerInfo, Gradients]], message: observe_pb2.GradientBatch
) -> List[int]:
    """Writes all columns; how many rows each layer has."""
    channels: List[int] = []
    zero_points: List[npt.NDArray[np.float64]] = []
    weight = layers[0][2].weight
    for number, info, gradients in layers:
        kind = "" if info.observer is None else info.observer.kind
        if kind != "learned":
            raise _mismatch(info, f"has an observer of kind {kind}, which takes no gradients; give its tensor")
        scale = np.atleast_1d(np.asarray(gradients.scale, np.float64))
        zero_point = gradients.zero_point
        column = np.zeros_like(scale) if zero_point is None else np.atleast_1d(np.asarray(zero_point, np.float64))
        if scale.ndim != 1 or scale.size == 0 or column.shape != scale.shape:
            raise _invalid(
                info.name,
                f"has gradients of scales of shape {list(scale.shape)} and of zero points of shape "
                f"{list(column.shape)}; give one, or one a channel, of each, or no zero points",
            )
        if not gradients.weight > 0 or gradients.weight != weight:
            raise _invalid(
                info.name,
                f"has gradients of weight {gradients.weight}; it must be above 0 and the same for all layers of a step",
            )
        if gradients.elements < 0:
            raise _invalid(info.name, f"has gradients of a tensor of {gradients.elements} elements")
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
