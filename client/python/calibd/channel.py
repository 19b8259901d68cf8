"""A connection to a server: options, credentials and metadata of every call, and one gRPC channel a process."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import grpc

from calibd.errors import FailedPreconditionError, from_rpc
from calibd.rpc import Calls

Metadata = Sequence[Tuple[str, Union[str, bytes]]]

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


class Connection:
    """Calls to one server, from any thread and any process that inherits the object.

    Args:
        target: HOST:PORT, or any name that gRPC resolves.
        credentials: None for plain text.
        metadata: (lower-case key, value) pairs sent with every call, or a function that yields them for each call.
        options: gRPC channel options that replace or join calibd's own.
        timeout: seconds of each unary call, retries included.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: Optional[grpc.ChannelCredentials] = None,
        metadata: Union[Metadata, Callable[[], Metadata]] = (),
        options: Sequence[Tuple[str, Any]] = (),
        timeout: float = 30.0,
    ) -> None:
        self.target = target
        self.timeout = timeout
        self._credentials = credentials
        self._metadata = metadata
        self._options = {**_OPTIONS, **dict(options)}
        self._lock = threading.Lock()
        self._channel: Optional[grpc.Channel] = None
        self._calls: Optional[Calls] = None
        self._pid = 0
        self._closed = False

    def calls(self) -> Calls:
        """The calls on this process's channel, which is made on first use; after a fork on a new one.

        Raises FailedPreconditionError after close().
        """
        with self._lock:
            if self._closed:
                raise FailedPreconditionError(f"the connection to calibd at {self.target} is closed: connect again")
            if self._calls is None or self._pid != os.getpid():
                self._channel = self._open()
                self._calls = Calls(self._channel)
                self._pid = os.getpid()
            return self._calls

    def metadata(self) -> List[Tuple[str, Union[str, bytes]]]:
        """What to send as `metadata` with a call or stream that starts now."""
        return list(self._metadata() if callable(self._metadata) else self._metadata)

    def unary(self, name: str, request: Any, timeout: Optional[float] = None) -> Any:
        """Makes the call `name` of the service, such as "GetSession"; its answer.

        UNAVAILABLE is tried again with backoff and jitter until `timeout` seconds (default: the connection's) are
        over: every unary call of the service can be repeated. Raises CalibdError.
        """
        deadline = time.monotonic() + (self.timeout if timeout is None else timeout)
        backoff = _FIRST_BACKOFF
        while True:
            call = getattr(self.calls(), name)
            try:
                remaining = max(0.0, deadline - time.monotonic())
                return call(request, timeout=remaining, metadata=self.metadata())
            except grpc.RpcError as error:
                pause = backoff * random.uniform(0.5, 1.0)
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() + pause >= deadline:
                    raise from_rpc(error, self.target) from None
            time.sleep(pause)
            backoff = min(2 * backoff, _LONGEST_BACKOFF)

    def close(self) -> None:
        """Ends what runs on this process's channel and closes it; later calls raise. Can be repeated."""
        with self._lock:
            self._closed = True
            channel, self._channel, self._calls = self._channel, None, None
            if channel is not None and self._pid == os.getpid():
                channel.close()

    def _open(self) -> grpc.Channel:
        options = list(self._options.items())
        if self._credentials is None:
            return grpc.insecure_channel(self.target, options=options)
        return grpc.secure_channel(self.target, self._credentials, options=options)
