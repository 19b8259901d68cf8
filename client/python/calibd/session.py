"""One session: observe into it, ask it for qparams."""

from __future__ import annotations

from types import TracebackType
from typing import Any, List, Mapping, Optional, Type

import numpy as np

from calibd import arguments
from calibd.channel import Connection
from calibd.config import MAX_WORLD_SIZE, SessionConfig
from calibd.contribution import Contribution
from calibd.errors import AbortedError, FailedPreconditionError
from calibd.info import SessionInfo, SynchronousInfo
from calibd.layer_name import check_layer_name
from calibd.rank import PendingStep, Rank, StepData, StepResult
from calibd.results import SessionResults
from calibd.rpc import calibration_service_pb2 as pb
from calibd.statistics import TensorStatistics
from calibd.step import World

_INT64 = (-(1 << 63), (1 << 63) - 1)


class Session(SessionResults):
    """A session by its name; made by Client. Thread-safe.

    What is observed goes through a worker that is opened on first use, with a rank through a Rank. A process that is
    forked opens a worker of its own; a rank that is open stays the parent's. As a context manager it closes at the end.
    """

    def __init__(self, connection: Connection, contribution: Contribution) -> None:
        super().__init__(connection, contribution.session)
        self._contribution = contribution
        self._config: Optional[SessionConfig] = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._name

    @property
    def rank(self) -> Optional[int]:
        """The rank as which it takes part in synchronous steps, or None."""
        return self._contribution.rank

    @property
    def config(self) -> SessionConfig:
        """What the session collects; it never changes. Asks the server once."""
        if self._config is None:
            request = pb.GetSessionRequest(session=self._name, page_size=1)
            self._config = SessionConfig.from_proto(self._connection.unary("GetSession", request).session.config)
        return self._config

    # --- Contributing.

    def open(self) -> None:
        """Opens the worker or rank now, not on first use, and waits for the server's answer. Can be repeated.

        Its threads are there then, which from Python 3.12 on can't be started while the process exits; and functions
        that are registered with atexit after this can still observe, as it is closed after them.

        Raises UnavailableError when the server can't be reached, and what ended the worker or rank.
        """
        self._contribution.open()

    def observe(self, layer: str, array: Any, dtype: Optional[str] = None) -> None:
        """Counts an array into a layer's statistics, here; it is sent later, and its values count exactly once.

        Args:
            layer: UTF-8, up to 512 bytes. A layer that the session's rules skip is passed over.
            array: float32, float16 or bfloat16, of any shape and strides, that NumPy can read; for tensors that it
                can't, see calibd.torch.watch and calibd.torch.observe. Of a layer with a reference_histogram observer
                up to 1 MiB, as it is sent whole; larger ones need a session with synchronous steps.
            dtype: "bfloat16" for an array of uint16 that holds such; else None.

        Raises InvalidArgumentError for what can't be observed, and what ended the worker or had the layer refused.
        """
        self._contribution.worker().observe(layer, array, dtype)

    def observe_statistics(self, layer: str, statistics: TensorStatistics) -> None:
        """Merges what was counted elsewhere, such as on a GPU, as `observe` does."""
        self._contribution.worker().observe_statistics(layer, statistics)

    def step(
        self, layers: Mapping[str, StepData], *, step: Optional[int] = None, timeout: Optional[float] = None
    ) -> StepResult:
        """Contributes to a synchronous step and waits until all ranks have; see Rank.step. Needs a rank."""
        return self._contribution.as_rank().step(layers, step=step, timeout=timeout)

    def start_step(
        self, layers: Mapping[str, StepData], *, step: Optional[int] = None, timeout: Optional[float] = None
    ) -> PendingStep:
        """Contributes to a synchronous step; its result by `wait` of what is returned. See Rank.start_step."""
        return self._contribution.as_rank().start_step(layers, step=step, timeout=timeout)

    @property
    def next_step(self) -> int:
        """The synchronous step that this rank contributes to next; until it has, the server is asked.

        Raises FailedPreconditionError without a rank.
        """
        rank = self._contribution.contributor
        if isinstance(rank, Rank):
            return rank.next_step
        if self.rank is None:
            raise self._contribution.needs_rank()
        return self._synchronous().folded_step + 1

    @property
    def world(self) -> World:
        """The ranks of synchronous steps: as this rank last heard of them; until it contributes, or without a rank, as
        the server has them."""
        rank = self._contribution.contributor
        return rank.world if isinstance(rank, Rank) else self._synchronous().world

    def flush(self, timeout: Optional[float] = 300.0) -> None:
        """Returns once everything that this process observed is durable.

        Raises DeadlineExceededError after `timeout` seconds (None: no limit; nothing is lost, call again), what ended
        the worker, or the first refusal, when everything else is durable.
        """
        contributor = self._contribution.contributor
        if contributor is not None:
            contributor.flush(timeout)

    def close(self, timeout: Optional[float] = 300.0) -> None:
        """flush, then ends the worker; observing again opens another. After DeadlineExceededError, or Ctrl-C, it is
        still open."""
        self._contribution.close(timeout)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """close(); after an exception what was observed is left to the process's exit."""
        if kind is None:
            self.close()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a calibd.Session cannot be pickled or copied: connect in each process, "
            f"calibd.connect({self._connection.target!r}).session({self._name!r})"
        )

    # --- The session on the server.

    def describe(self) -> SessionInfo:
        """The session, all its layers and workers."""
        request = pb.GetSessionRequest(session=self._name)
        first = answer = self._connection.unary("GetSession", request)
        layers = list(first.layer)
        while answer.next_page_token:
            request.page_token = answer.next_page_token
            answer = self._connection.unary("GetSession", request)
            layers.extend(answer.layer)
        return SessionInfo.from_proto(first.session, layers, first.worker)

    def seal(self) -> None:
        """Ends collection: later updates are refused, results are final and durable. Can be repeated."""
        self._connection.unary("SealSession", pb.SealSessionRequest(session=self._name))

    def delete(self) -> None:
        """Removes the session and everything that it collected, also what was observed here and not sent yet."""
        self._connection.unary("DeleteSession", pb.DeleteSessionRequest(session=self._name))
        self._contribution.abandon()

    def set_enabled(self, pattern: str, enabled: bool) -> int:
        """Switches observers on or off by layer glob, also of layers not seen yet; how many seen so far match."""
        request = pb.SetObserversEnabledRequest(
            session=self._name,
            pattern=arguments.text("pattern", pattern),
            enabled=arguments.flag("enabled", enabled),
        )
        return int(self._connection.unary("SetObserversEnabled", request).layers)

    def set_qparams(self, layer: str, scale: Any, zero_point: Any = ()) -> None:
        """Sets the qparams of a layer with a passive observer.

        Args:
            layer: its name.
            scale: one, or one a channel: finite and above 0. Numbers, an array or a tensor.
            zero_point: of each scale, integers; empty: 0 everywhere.
        """
        check_layer_name(layer)
        request = pb.SetQParamsRequest(
            session=self._name,
            layer=layer,
            scale=[arguments.number("scale", value) for value in _list(scale)],
            zero_point=[arguments.whole_number("zero_point", value, *_INT64) for value in _list(zero_point)],
        )
        self._connection.unary("SetQParams", request)

    def set_world(self, world_size: int) -> World:
        """Changes the number of ranks from the lowest open step on; what was given for open steps is dropped.

        Raises AbortedError (WORLD_EPOCH_STALE) when somebody else changed it to another size at the same time.
        """
        world_size = arguments.whole_number("world_size", world_size, 1, MAX_WORLD_SIZE)
        before = self._synchronous().world
        request = pb.SetWorldRequest(session=self._name, expected_epoch=before.epoch, world_size=world_size)
        try:
            world = self._connection.unary("SetWorld", request).world
            return World(world.epoch, world.size)
        except AbortedError:
            # An earlier try, whose answer was lost, may have done it.
            now = self._synchronous().world
            if now != (before.epoch + 1, world_size):
                raise
            return now

    def _synchronous(self) -> SynchronousInfo:
        """Where the server is with synchronous steps; without the layers, of which there may be many."""
        request = pb.GetSessionRequest(session=self._name, page_size=1)
        synchronous = SessionInfo.from_proto(self._connection.unary("GetSession", request).session).synchronous
        if synchronous is None:
            raise FailedPreconditionError(
                f"session {self._name} has no synchronous steps", reason="SESSION_NOT_SYNCHRONOUS"
            )
        return synchronous


def _list(value: Any) -> List[Any]:
    """One number or several; of arrays and tensors, on any device and also of no dimension."""
    values: List[Any] = np.atleast_1d(value.tolist() if hasattr(value, "tolist") else value).tolist()
    return values
