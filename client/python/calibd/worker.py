"""A contributor to one session: observes arrays where they are and sends their statistics, exactly once."""

from __future__ import annotations

import dataclasses
import uuid
from types import TracebackType
from typing import Dict, Optional, Type

import numpy as np
import numpy.typing as npt

from calibd import observe as arrays
from calibd.channel import Connection
from calibd.config import SessionConfig
from calibd.contributor_options import check_options
from calibd.errors import CalibdError, InvalidArgumentError, make_error
from calibd.histogram import MAX_MANTISSA_BITS
from calibd.layer_name import check_layer_name, of_layer
from calibd.observer import Observer
from calibd.outbox import Outbox
from calibd.rpc import statistics_pb2
from calibd.sender import Sender
from calibd.statistics import TensorStatistics
from calibd.words import to_number
from calibd.worker_stream import WorkerOptions, WorkerStream

_MIN_RAW_WINDOW_BYTES = 1 << 20
_MAX_CHUNK_BYTES = 1 << 20
_MIN_BACKOFF = 0.001
# How long a worker that an exception ends tries to make everything durable, in seconds.
_TIMEOUT_AFTER_AN_ERROR = 1.0


@dataclasses.dataclass(frozen=True)
class WorkerStats:
    """What a worker did so far."""

    values_observed: int = 0
    values_ignored: int = 0  # by disabled observers, as the server tells
    values_refused: int = 0  # dropped because the server refused them
    messages_sent: int = 0  # updates, repetitions included
    bytes_sent: int = 0
    reconnections: int = 0
    applied: int = 0  # last unit applied
    durable: int = 0  # last unit durable
    pending_bytes: int = 0  # kept here because it is not durable


class Worker:
    """What is observed is merged into one pending update, which a background thread numbers and sends when it may.

    While the server is away it goes on merging, so memory stays bounded however long that takes. What is sent is kept
    until it is durable. After a reconnection everything above what the server has applied is sent again.

    Errors. Data that the server refuses is dropped; the first refusal is reported by `error` and raised by every later
    flush and close, and other data goes on. A refusal that is about one layer drops that layer's data alone, and every
    later observe of the layer raises it. An error that ends the work is raised by every later call: SESSION_NOT_FOUND,
    SESSION_DELETED, SESSION_SEALED with data left to send, SESSION_CONFIG_MISMATCH (deleted and made again),
    WORKER_FENCED, credentials that are not accepted, DATA_LOSS (the server forgot what it had called durable). A lost
    connection, a full or a restarting server is no error: it is tried again.

    Thread-safe; observing from several threads runs in parallel up to the merge, as far as NumPy lets go of the
    interpreter. Of one process: a forked child makes a worker of its own.

    Args:
        connection: to the server.
        session: the session's name.
        worker_id: of this worker's lineage; None: a random UUID. Give the same id again to go on where an earlier
            process stopped, never to two processes at a time: the newer one fences the older.
        display_name: for people, such as host and rank.
        send_interval: seconds between two rounds of statistics; observations within them merge. flush does not wait.
        updates_in_flight: most rounds that are sent and not durable yet; past it observations merge into the next one.
            Bounds memory at this many times the session's statistics, and once more for what is not sent.
        raw_window_bytes: most bytes of steps of order-dependent observers that are not durable yet; past it observe
            blocks. At least 1 MiB.
        min_backoff, max_backoff: seconds between two streams: exponential with jitter between these, for ever.
        open_timeout: seconds that the first call waits for the session's config; None: no limit.

    Raises InvalidArgumentError for an option that can't be.
    """

    def __init__(
        self,
        connection: Connection,
        session: str,
        *,
        worker_id: Optional[str] = None,
        display_name: str = "",
        send_interval: float = 0.1,
        updates_in_flight: int = 4,
        raw_window_bytes: int = 64 << 20,
        min_backoff: float = 0.05,
        max_backoff: float = 10.0,
        open_timeout: Optional[float] = 30.0,
    ) -> None:
        """Does nothing on the network yet: the stream is opened by the first call."""
        check_options(
            worker_id=worker_id,
            display_name=display_name,
            send_interval=send_interval,
            updates_in_flight=updates_in_flight,
            raw_window_bytes=raw_window_bytes,
            min_backoff=min_backoff,
            max_backoff=max_backoff,
            open_timeout=open_timeout,
        )
        self._open_timeout = open_timeout
        min_backoff = max(min_backoff, _MIN_BACKOFF)
        self._options = WorkerOptions(
            session=session,
            worker_id=worker_id or str(uuid.uuid4()),
            display_name=display_name,
            send_interval=send_interval,
            updates_in_flight=updates_in_flight,
            raw_window_bytes=max(raw_window_bytes, _MIN_RAW_WINDOW_BYTES),
            min_backoff=min_backoff,
            max_backoff=max(max_backoff, min_backoff),
        )
        self._sender = Sender(connection, self._options)
        self._observers: Dict[str, Optional[Observer]] = {}  # of layers that were asked for
        self._values_observed = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if kind is None:
            self.close()
            return
        try:
            self.close(_TIMEOUT_AFTER_AN_ERROR)
        except CalibdError:  # the caller's own error says more
            self.abandon()

    @property
    def worker_id(self) -> str:
        return self._options.worker_id

    @property
    def config(self) -> SessionConfig:
        """The session's config, which never changes. Waits for it; raises as observe."""
        return self._sender.config(self._open_timeout)

    @property
    def error(self) -> Optional[CalibdError]:
        """The fatal error, or the first refusal, or None. Does not block."""
        return self._sender.look(lambda stream: stream.fatal or stream.outbox.refusal)

    def observer_of(self, layer: str) -> Optional[Observer]:
        """What is collected of the layer; None when nothing is: it is skipped, or its observer is passive.

        Raises as observe; STEP_REQUIRED when the layer takes synchronous steps alone (rank.py).
        """
        check_layer_name(layer)
        if layer not in self._observers:
            config = self.config
            observer = config.observer_of(layer)
            if observer is not None and observer.kind == "passive":
                observer = None
            self._observers[layer] = observer
        observer = self._observers[layer]
        if observer is not None and self.config.synchronous is not None:
            if observer.depends_on_order or observer.kind == "learned":
                raise make_error(
                    "FAILED_PRECONDITION",
                    f'layer "{layer}" has an observer of kind {observer.kind}, which takes synchronous steps alone in '
                    "this session: contribute to them as a rank",
                    "STEP_REQUIRED",
                    {"layer": layer},
                )
        return observer

    def observe(self, layer: str, array: npt.ArrayLike, dtype: Optional[str] = None) -> None:
        """Counts an array into the layer's statistics, on the calling thread; what it may be, `calibd.observe` says.

        A layer that the session skips, or whose observer is passive, is ignored. When the layer's observer depends on
        order (ema, reference_histogram) one call is one step, steps are taken in the order of the calls, and a call
        blocks while `raw_window_bytes` are not durable. A step of a reference_histogram layer is sent raw and counted
        by the server, so it takes up to 1 MiB; larger ones want a synchronous session.

        Raises InvalidArgumentError as `calibd.observe`, LAYER_NAME_INVALID, CHANNEL_COUNT_CHANGED, COUNT_OVERFLOW,
        STEP_REQUIRED, the layer's refusal, the worker's fatal error, UnavailableError when the server could not be
        reached for the session's config; nothing is counted then.
        """
        self._sender.check_usable()
        observer = self.observer_of(layer)
        if observer is None:
            return
        if observer.kind == "reference_histogram":
            self._send_raw(layer, observer, array, dtype)
            return
        try:
            statistics = arrays.observe(array, observer, self._mantissa_bits(), dtype)
        except InvalidArgumentError as error:
            raise of_layer(layer, error) from None
        self._add(layer, observer, statistics)

    def observe_statistics(self, layer: str, statistics: TensorStatistics) -> None:
        """Merges statistics that were counted elsewhere, such as on a GPU; copies them.

        For an ema observer they are one step. Statistics with a histogram serve observers of ranges too. Raises
        InvalidArgumentError when they lack what the layer's observer collects, and as observe.
        """
        self._sender.check_usable()
        observer = self.observer_of(layer)
        if observer is not None:
            self._add(layer, observer, self._fitting(layer, observer, statistics))

    def _fitting(self, layer: str, observer: Observer, statistics: TensorStatistics) -> TensorStatistics:
        """A copy with what the observer collects."""
        if observer.kind == "reference_histogram":
            raise InvalidArgumentError(f'layer "{layer}" has a reference_histogram observer, which takes arrays alone')
        if observer.channel_axis is None and statistics.channels != 1:
            raise InvalidArgumentError(
                f'layer "{layer}" is observed per tensor and was given statistics of {statistics.channels} channels'
            )
        histogram = statistics.histogram
        copied = statistics.copy()
        copied.histogram = None
        if observer.collects_histogram:
            if histogram is None or not np.array_equal(histogram.totals(), statistics.count):
                raise InvalidArgumentError(
                    f'layer "{layer}" collects histograms and was given statistics '
                    + ("without one" if histogram is None else "whose histogram counts other than `count` values")
                )
            coarse = histogram.coarsen(self._mantissa_bits())
            copied.histogram = coarse.copy() if coarse is histogram else coarse
        return copied

    def _mantissa_bits(self) -> int:
        return self.config.mantissa_bits or MAX_MANTISSA_BITS

    def _add(self, layer: str, observer: Observer, statistics: TensorStatistics) -> None:
        values = statistics.values()

        def put(outbox: Outbox) -> None:
            if observer.depends_on_order:
                outbox.add_step(layer, observer, statistics)
            else:
                outbox.add(layer, observer, statistics)
            self._values_observed += values

        self._sender.add(put, raw_bytes=statistics.nbytes if observer.depends_on_order else 0)

    def _send_raw(self, layer: str, observer: Observer, given: npt.ArrayLike, dtype: Optional[str]) -> None:
        try:
            array = arrays.to_array(given)
            data, kind = arrays.little_endian(array, dtype)
        except InvalidArgumentError as error:
            raise of_layer(layer, error) from None
        if len(data) > _MAX_CHUNK_BYTES:
            raise InvalidArgumentError(
                f'layer "{layer}": a step of {len(data)} bytes of a reference_histogram layer does not fit into a '
                f"message of {_MAX_CHUNK_BYTES}: use a session with synchronous steps, where values are counted here"
            )
        chunk = statistics_pb2.TensorChunk(
            data_type=to_number(statistics_pb2.DataType, kind), shape=array.shape, data=data
        )

        def put(outbox: Outbox) -> None:
            outbox.add_raw(layer, observer, 1, chunk)
            self._values_observed += array.size

        self._sender.add(put, raw_bytes=max(len(data), 1))

    def flush(self, timeout: Optional[float] = 300.0) -> None:
        """Sends everything observed so far and returns once it is durable.

        Raises DeadlineExceededError after `timeout` seconds (None: no limit; nothing is lost, call again), the worker's
        fatal error, and the first refusal, when everything else is durable.
        """
        self._sender.flush(timeout)

    def close(self, timeout: Optional[float] = 300.0) -> None:
        """flush, then ends the stream; later calls raise. Can be repeated.

        After DeadlineExceededError, or Ctrl-C, the worker is still open: call again, or abandon().
        """
        self._sender.close(timeout)

    @property
    def closed(self) -> bool:
        """Whether close or abandon has ended it."""
        return self._sender.closed

    def abandon(self) -> None:
        """Ends the stream as it is; what is not durable may be lost."""
        self._sender.stop()

    def stats(self) -> WorkerStats:
        """What the worker did so far. Does not block."""

        def look(stream: WorkerStream) -> WorkerStats:
            return WorkerStats(
                values_observed=self._values_observed,
                values_ignored=stream.values_ignored,
                values_refused=stream.outbox.values_refused,
                messages_sent=stream.messages_sent,
                bytes_sent=stream.bytes_sent,
                reconnections=stream.reconnections,
                applied=stream.outbox.applied,
                durable=stream.outbox.durable,
                pending_bytes=stream.outbox.total_bytes(),
            )

        return self._sender.look(look)
