"""A worker's outbox and its threads, as callers use them: data in, and waiting until it is durable."""

from __future__ import annotations

import math
import time
from typing import Callable, Optional, TypeVar

from calibd.channel import Connection
from calibd.config import SessionConfig
from calibd.deadline import deadline_in, remaining
from calibd.durability import await_durability
from calibd.errors import CalibdError, DeadlineExceededError, FailedPreconditionError, UnavailableError, again
from calibd.outbox import Outbox
from calibd.worker_stream import WorkerOptions, WorkerStream

_Seen = TypeVar("_Seen")


class Sender:
    """Nothing is on the network before config(). Thread-safe."""

    def __init__(self, connection: Connection, options: WorkerOptions) -> None:
        self._connection = connection
        self._options = options
        self._stream = WorkerStream(connection, options)
        self._lock = self._stream.lock  # guards the stream's attributes, and what follows
        self._refusing = False  # close was called: nothing more is taken

    def config(self, timeout: Optional[float]) -> SessionConfig:
        """The session's config, once a stream is open; opens the first one.

        Raises why the worker can't be used, how the last stream ended, or UNAVAILABLE after the timeout.
        """
        stream = self._stream
        if stream.config is not None:  # the usual case, without the lock: it is set once
            return stream.config
        deadline = deadline_in(timeout)
        with self._lock:
            stream.start()
            while stream.config is None:
                self._check_usable()
                left = remaining(deadline)
                if left == 0:
                    if stream.last_stream_end is not None:
                        raise again(stream.last_stream_end)
                    raise UnavailableError(f"cannot reach calibd at {self._connection.target}: no answer in time")
                stream.progress.wait(left)
            return stream.config

    def check_usable(self) -> None:
        """Raises why no data can be taken: the fatal error, or that the worker is closed."""
        with self._lock:
            self._check_usable()

    def _check_usable(self) -> None:
        if self._stream.fatal is not None:
            raise again(self._stream.fatal)
        if self._refusing or self._stream.closing or self._stream.stopping:
            raise FailedPreconditionError("the worker is closed; open another one")

    def add(self, put: Callable[[Outbox], None], raw_bytes: int = 0) -> None:
        """Lets `put` add data to the outbox, after a wait until `raw_bytes` more may be in line.

        Raises why the worker can't be used, and what `put` raises.
        """
        stream = self._stream
        with self._lock:
            self._check_usable()
            next_request = 0.0
            while raw_bytes > 0 and 0 < stream.outbox.raw_bytes > self._options.raw_window_bytes - raw_bytes:
                if stream.outbox.waits_for_durability(statistics_due=False):
                    next_request = self._await_durability(math.inf, next_request)
                else:
                    stream.progress.wait()
                self._check_usable()
            had_round = stream.outbox.has_round_waiting()
            put(stream.outbox)
            if raw_bytes > 0 or not had_round:
                stream.wake_writer()

    def look(self, at: Callable[[WorkerStream], _Seen]) -> _Seen:
        """What `at` returns, with the lock held."""
        with self._lock:
            return at(self._stream)

    def flush(self, timeout: Optional[float]) -> None:
        """See Worker.flush."""
        self.check_usable()
        self._flush_taken(deadline_in(timeout))

    @property
    def closed(self) -> bool:
        """Whether close or stop has ended it."""
        return self._stream.closing or self._stream.stopping

    def close(self, timeout: Optional[float]) -> None:
        """See Worker.close."""
        deadline = deadline_in(timeout)
        stream = self._stream
        failure: Optional[CalibdError] = None
        try:
            with self._lock:
                if self.closed:
                    if stream.fatal is not None:
                        raise again(stream.fatal)
                    return
                self._refusing = True  # so that there is an end to what other threads observe
                stream.progress.notify_all()
            try:
                self._flush_taken(deadline)
            except CalibdError as error:
                failure = error
            with self._lock:
                if isinstance(failure, DeadlineExceededError) and stream.fatal is None:
                    raise failure
                stream.close()
                while stream.running and time.monotonic() < deadline:
                    stream.progress.wait(remaining(deadline))
                stream.stop()
        finally:
            if not self.closed:  # there was no time, or Ctrl-C: it goes on
                with self._lock:
                    self._refusing = False
        if failure is not None:
            raise failure

    def stop(self) -> None:
        """Drops everything and ends the stream as it is."""
        with self._lock:
            self._stream.stop()

    def _flush_taken(self, deadline: float) -> None:
        """flush, also while closing."""
        stream = self._stream
        with self._lock:
            mark = stream.outbox.mark()
            stream.flushing += 1
            stream.wake_writer()
            try:
                self._wait_until_durable(mark, deadline)
            finally:
                stream.flushing -= 1
            error = stream.fatal or stream.outbox.refusal
        if error is not None:
            raise again(error)

    def _wait_until_durable(self, mark: int, deadline: float) -> None:
        """Until it is, or the worker has ended. Raises DeadlineExceededError."""
        stream = self._stream
        next_request = 0.0
        while not stream.outbox.is_durable(mark) and stream.fatal is None:
            if stream.stopping:
                raise FailedPreconditionError("the worker is closed; open another one")
            if time.monotonic() >= deadline:
                late = f"{stream.outbox.total_bytes()} bytes are not durable yet at calibd at {self._connection.target}"
                end = stream.last_stream_end
                raise DeadlineExceededError(late if end is None else f"{late}; last broken stream: {end}")
            if stream.outbox.is_applied(mark) or stream.outbox.waits_for_durability(statistics_due=True):
                next_request = self._await_durability(deadline, next_request)
            else:
                next_request = 0.0  # what will be applied was in no request yet
                stream.progress.wait(remaining(deadline))

    def _await_durability(self, deadline: float, next_request: float) -> float:
        """Locked. When to ask again."""
        progress = self._stream.progress
        return await_durability(self._connection, self._options.session, progress, deadline, next_request)
