"""A connection to a server: options, credentials and metadata of every call, and one gRPC channel a process."""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
import warnings
import weakref
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple, TypeVar, Union

import grpc

from calibd import fork
from calibd.deadline import Default, Timeout, deadline_in, option, remaining
from calibd.errors import (
    CalibdError,
    CancelledError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnavailableError,
    from_rpc,
)
from calibd.rpc import Calls

Metadata = Sequence[Tuple[str, Union[str, bytes]]]
_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")
_METADATA_TEXT = re.compile(r"[ -~]*")

_OPTIONS: Dict[str, Any] = {
    "grpc.enable_http_proxy": 0,
    # Else all connections of a process share one socket, and with it one flow control window.
    "grpc.use_local_subchannel_pool": 1,
    "grpc.max_receive_message_length": 64 << 20,
    # Dead connections are found within 80 seconds.
    "grpc.keepalive_time_ms": 60000,
    "grpc.keepalive_timeout_ms": 20000,
    "grpc.http2.max_pings_without_data": 0,
    # gRPC's own waits between attempts to connect would otherwise grow to two minutes, under the waits that callers
    # make. The last one is, despite its name, the time that an attempt may take.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 1000,
    "grpc.min_reconnect_backoff_ms": 5000,
}
_FIRST_BACKOFF = 0.05
_LONGEST_BACKOFF = 2.0


# A fork waits no longer than this for calls to end.
_PAUSE_TIMEOUT = 5.0

Answer = TypeVar("Answer")


class Connection(fork.Forkable):
    """Calls to one server, from any thread and any process that inherits the object.

    Around a fork its channel is closed: unary calls are made again, and streams end with CANCELLED, to be opened again.

    Args:
        target: HOST:PORT, or any name that gRPC resolves.
        credentials: None for plain text.
        metadata: (lower-case key, value) pairs sent with every call, or a function that yields them for each call.
            When it raises, a call fails with UnavailableError, and a worker or rank tries again later.
        options: gRPC channel options that replace or join calibd's own.
        timeout: seconds of each unary call, retries included; None: no limit.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: Optional[grpc.ChannelCredentials] = None,
        metadata: Union[Metadata, Callable[[], Metadata]] = (),
        options: Sequence[Tuple[str, Any]] = (),
        timeout: Optional[float] = 30.0,
    ) -> None:
        self.target = target
        self.timeout = option("timeout", timeout)
        self._credentials = credentials
        self._metadata = metadata if callable(metadata) else _checked(metadata)
        self._options = {**_OPTIONS, **dict(options)}
        self._closed = False
        self._inherited = False  # by a fork, before any call of this process
        self._begin()
        fork.register(self)

    def _begin(self) -> None:
        self._changed = threading.Condition()  # guards what follows
        self._channel: Optional[grpc.Channel] = None
        self._calls: Optional[Calls] = None
        self._finalizer: Optional[weakref.finalize[[], Connection]] = None  # closes the channel
        self._attempts = 0  # that are running
        self._pauses = 0  # forks that are about to take place
        self._paused_at = 0.0

    def calls(self) -> Calls:
        """The calls on this process's channel, which is made on first use.

        Raises FailedPreconditionError after close().
        """
        with self._changed:
            return self._open_calls()

    def metadata(self) -> Tuple[Tuple[str, Union[str, bytes]], ...]:
        """What to send as `metadata` with a call or stream that starts now.

        Raises UnavailableError when the caller's function raises, as it may do better the next time, and
        InvalidArgumentError when what it returns can't be sent; neither tells a value.
        """
        if not callable(self._metadata):
            return self._metadata
        try:
            pairs = tuple(self._metadata())
        except Exception as error:
            raise UnavailableError(f"the metadata function raised {type(error).__name__}: {error}") from error
        return _checked(pairs)

    def stream(self, name: str, requests: Iterator[Any], wait_for_ready: bool = False) -> Any:
        """Starts the call `name`, such as "Observe", which has no deadline; gRPC's call, an iterator of the answers.

        Raises CalibdError, also as `metadata` does.
        """
        metadata = self.metadata()
        with self._attempt() as calls:
            try:
                return getattr(calls, name)(requests, metadata=metadata, wait_for_ready=wait_for_ready)
            except ValueError:  # the channel was closed in between
                raise CancelledError("the process forks, or the connection was closed") from None

    def unary(self, name: str, request: Any, timeout: Timeout = Default.CONNECTION) -> Any:
        """Makes the call `name` of the service, such as "GetSession"; its answer. See `repeat`."""

        def call(calls: Calls, seconds: Optional[float]) -> Any:
            return getattr(calls, name)(request, timeout=seconds, metadata=self.metadata())

        return self.repeat(call, timeout)

    def repeat(self, call: Callable[[Calls, Optional[float]], Answer], timeout: Timeout = Default.CONNECTION) -> Answer:
        """Runs `call` with the calls and the seconds that are left, None where there is no limit; what it returns.

        UNAVAILABLE is tried again with backoff and jitter until `timeout` seconds (None: no limit; default: the
        connection's) are over, so `call` must be one that can be repeated. Raises CalibdError.
        """
        deadline = deadline_in(self.timeout if isinstance(timeout, Default) else timeout)
        backoff = _FIRST_BACKOFF
        while True:
            begin = time.monotonic()
            try:
                with self._attempt() as calls:
                    return call(calls, remaining(deadline))
            except CalibdError:  # of `metadata`
                raise
            except ValueError:  # the channel was closed before the call had begun
                if self._closed:
                    raise self._closed_error() from None
                if self._paused_at < begin:
                    raise
                continue
            except grpc.RpcError as error:
                code = error.code() if isinstance(error, grpc.Call) else None
                if code is grpc.StatusCode.CANCELLED and self._paused_at > begin and not self._closed:
                    continue
                pause = backoff * random.uniform(0.5, 1.0)
                if code is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + pause >= deadline:
                    raise from_rpc(error, self.target) from None
            time.sleep(pause)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def close(self) -> None:
        """Ends what runs on this process's channel and closes it; later calls raise. Can be repeated."""
        with self._changed:
            self._closed = True
            self._close_channel()

    # --- Around forks.

    def before_fork(self) -> None:
        with self._changed:
            self._pauses += 1
            self._paused_at = time.monotonic()
            self._close_channel()
            self._changed.wait_for(lambda: self._attempts == 0, _PAUSE_TIMEOUT)

    def after_fork_in_parent(self) -> None:
        with self._changed:
            self._pauses -= 1
            self._changed.notify_all()

    def after_fork_in_child(self) -> None:
        detached = None if self._finalizer is None else self._finalizer.detach()
        if detached is not None:
            fork.keep(detached[1])
        self._begin()
        self._inherited = True

    # --- With the lock held.

    def _open_calls(self) -> Calls:
        self._changed.wait_for(lambda: self._pauses == 0, _PAUSE_TIMEOUT)
        if self._closed:
            raise self._closed_error()
        if fork.refusal():
            raise FailedPreconditionError(fork.refusal())
        if self._calls is None:
            if self._inherited and fork.warning():
                warnings.warn(fork.warning(), RuntimeWarning, stacklevel=2)
            self._inherited = False
            options = list(self._options.items())
            if self._credentials is None:
                self._channel = grpc.insecure_channel(self.target, options=options)
            else:
                self._channel = grpc.secure_channel(self.target, self._credentials, options=options)
            self._calls = Calls(self._channel)
            # A channel that is dropped without this lives on in gRPC, and grpcio 1.51 ends children that it has.
            self._finalizer = weakref.finalize(self, self._channel.close)
            self._finalizer.atexit = False
            fork.install()
        return self._calls

    def _closed_error(self) -> CalibdError:
        return FailedPreconditionError(f"the connection to calibd at {self.target} is closed: connect again")

    def _close_channel(self) -> None:
        finalizer, self._finalizer, self._channel, self._calls = self._finalizer, None, None, None
        if finalizer is not None:
            finalizer()  # once: nothing keeps the channel then

    @contextlib.contextmanager
    def _attempt(self) -> Iterator[Calls]:
        with self._changed:
            calls = self._open_calls()
            self._attempts += 1
        try:
            yield calls
        finally:
            with self._changed:
                self._attempts -= 1
                self._changed.notify_all()


def _checked(metadata: Metadata) -> Tuple[Tuple[str, Union[str, bytes]], ...]:
    """The pairs, which can be sent; gRPC's own error for others would print their values.

    Raises InvalidArgumentError, which names a key at most.
    """
    pairs = tuple(metadata)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise InvalidArgumentError("metadata must be (key, value) pairs, with keys of type str")
        key, value = pair
        if _METADATA_KEY.fullmatch(key) is None:
            raise InvalidArgumentError(
                f"metadata has the key {key!r}; a key has characters of a-z, 0-9, '.', '_' and '-', in lower case"
            )
        if not isinstance(value, (str, bytes)):
            raise InvalidArgumentError(f"metadata has a value of type {type(value).__name__} for the key {key!r}")
        text = value if isinstance(value, str) else value.decode("latin-1")
        if not key.endswith("-bin") and _METADATA_TEXT.fullmatch(text) is None:
            raise InvalidArgumentError(
                f"metadata's value for the key {key!r} has a line end or another character that is not printable ASCII"
            )
    return tuple((key, value) for key, value in pairs)
