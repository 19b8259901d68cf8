"""What the server tells of sessions, layers and workers."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Iterable, Optional, Tuple

from calibd.config import SessionConfig
from calibd.observer import Observer
from calibd.rpc import calibration_service_pb2, session_pb2
from calibd.step import World


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """One layer of a session.

    Attributes:
        layer: its name.
        observer: how it is observed.
        enabled: False while its observer ignores what comes.
        channels: 1 when observed per tensor.
        count, nan, inf: finite, NaN and infinite values seen.
        min, max: least and greatest finite value; 0 when count is 0.
        workers: workers that contributed.
    """

    layer: str
    observer: Observer
    enabled: bool
    channels: int
    count: int
    nan: int
    inf: int
    min: float
    max: float
    workers: int

    @staticmethod
    def from_proto(message: calibration_service_pb2.LayerSummary) -> LayerInfo:
        """The layer of a message."""
        numbers = ("channels", "count", "nan", "inf", "min", "max", "workers")
        return LayerInfo(
            layer=message.layer,
            observer=Observer.from_proto(message.observer),
            enabled=message.enabled,
            **{name: getattr(message, name) for name in numbers},
        )


@dataclasses.dataclass(frozen=True)
class WorkerInfo:
    """One worker of a session.

    Attributes:
        worker_id: its own id.
        incarnation: rises with each stream that it opens.
        applied, durable: last unit of it that is applied, and that is durable.
        connected: whether a stream is open now.
        rank: that it last opened a stream as; None without one.
        step: last synchronous step that it contributed to since it opened the stream.
        lost: last unit that was called durable to it and that the store lost; 0: none.
    """

    worker_id: str
    incarnation: int
    applied: int
    durable: int
    connected: bool
    rank: Optional[int]
    step: int
    lost: int

    @staticmethod
    def from_proto(message: session_pb2.WorkerStatus) -> WorkerInfo:
        """The worker of a message."""
        names = ("worker_id", "incarnation", "applied", "durable", "connected", "step", "lost")
        return WorkerInfo(
            rank=message.rank if message.HasField("rank") else None, **{name: getattr(message, name) for name in names}
        )


@dataclasses.dataclass(frozen=True)
class SynchronousInfo:
    """Where a session's synchronous steps are.

    Attributes:
        world: the ranks that take part.
        folded_step, durable_step: last step that is folded, and that is durable.
        open_steps: steps above folded_step that have a contribution.
        missing_ranks: how many ranks the lowest open step waits for; missing_rank has the first 64 of them.
        open_for: seconds for which it has been open.
        partial_steps, failed_steps: steps closed without some rank, and that failed.
        late_contributions: that came after their steps were closed, and were not counted.
        repeated_contributions: of ranks that had contributed to the step before.
    """

    world: World
    folded_step: int
    durable_step: int
    open_steps: int
    missing_rank: Tuple[int, ...]
    missing_ranks: int
    open_for: float
    partial_steps: int
    failed_steps: int
    late_contributions: int
    repeated_contributions: int

    @staticmethod
    def from_proto(message: session_pb2.SynchronousStatus) -> SynchronousInfo:
        """The state of a message."""
        return SynchronousInfo(
            world=World(message.world.epoch, message.world.size),
            folded_step=message.folded_step,
            durable_step=message.durable_step,
            open_steps=message.open_steps,
            missing_rank=tuple(message.missing_rank),
            missing_ranks=message.missing_ranks,
            open_for=message.open_for.ToNanoseconds() / 1e9,
            partial_steps=message.partial_steps,
            failed_steps=message.failed_steps,
            late_contributions=message.late_contributions,
            repeated_contributions=message.repeated_contributions,
        )


@dataclasses.dataclass(frozen=True)
class SessionInfo:
    """A session as the server has it.

    Attributes:
        name: its name.
        uid: 32 hexadecimal digits, of this session alone: one of the same name made later has another.
        config: what it collects, with defaults filled in.
        created, updated: when it was made, and changed last (to about a checkpoint's interval), UTC.
        sealed: nothing more is taken; results are final.
        incomplete: values are missing that were called durable: the store went back in time.
        layer_count, worker_count: layers observed, and workers that opened a stream, so far.
        updates_applied: updates applied.
        values, values_ignored: values (finite, NaN and infinite) seen, and those of disabled observers.
        state_bytes: bytes of the server's memory that its statistics take.
        synchronous: None without synchronous steps.
        imported: digests of the state files merged into it.
        layers: in name order; empty from Client.sessions.
        workers: in id order; empty from Client.sessions.
    """

    name: str
    uid: str
    config: SessionConfig
    created: datetime.datetime
    updated: datetime.datetime
    sealed: bool
    incomplete: bool
    layer_count: int
    worker_count: int
    updates_applied: int
    values: int
    values_ignored: int
    state_bytes: int
    synchronous: Optional[SynchronousInfo]
    imported: Tuple[str, ...]
    layers: Tuple[LayerInfo, ...] = ()
    workers: Tuple[WorkerInfo, ...] = ()

    @staticmethod
    def from_proto(
        message: session_pb2.Session,
        layers: Iterable[calibration_service_pb2.LayerSummary] = (),
        workers: Iterable[session_pb2.WorkerStatus] = (),
    ) -> SessionInfo:
        """The session of a message."""
        names = ("name", "uid", "sealed", "incomplete", "layer_count", "worker_count", "updates_applied")
        amounts = ("values", "values_ignored", "state_bytes")
        has_steps = message.HasField("synchronous")
        return SessionInfo(
            config=SessionConfig.from_proto(message.config),
            created=message.create_time.ToDatetime(datetime.timezone.utc),
            updated=message.update_time.ToDatetime(datetime.timezone.utc),
            synchronous=SynchronousInfo.from_proto(message.synchronous) if has_steps else None,
            imported=tuple(state.digest for state in message.imported),
            layers=tuple(LayerInfo.from_proto(layer) for layer in layers),
            workers=tuple(WorkerInfo.from_proto(worker) for worker in workers),
            **{name: getattr(message, name) for name in (*names, *amounts)},
        )
