"""The threads around an outbox: one Observe stream after the other."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Iterator, Optional

import grpc

from calibd import observe_call
from calibd.backoff import Backoff
from calibd.channel import Connection
from calibd.config import SessionConfig
from calibd.errors import CalibdError, Meaning, can_reopen_after, from_refusal, from_rpc, make_error
from calibd.observe_call import ObserveCall, config_of, no_welcome
from calibd.outbox import Outbox
from calibd.rpc import observe_pb2 as pb


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """Of a Worker, which says what they are."""

    session: str
    worker_id: str
    display_name: str
    send_interval: float
    updates_in_flight: int
    raw_window_bytes: int
    min_backoff: float
    max_backoff: float


class _WorkerCall(ObserveCall):
    def __init__(self) -> None:
        super().__init__()
        self.values_ignored = 0


class WorkerStream:
    """A thread opens stream after stream and reads; gRPC's own thread for a stream's requests takes messages from the
    outbox and writes. Callers meet these at `lock`, which guards all attributes, and methods for callers want it held.
    """

    def __init__(self, connection: Connection, options: WorkerOptions) -> None:
        self._connection = connection
        self._options = options
        self.lock = threading.Lock()
        self.progress = threading.Condition(self.lock)  # for callers: Welcome, Ack, Refusal, the end
        self._writer_wake = threading.Condition(self.lock)  # for the threads
        self._thread: Optional[threading.Thread] = None
        self._stream = _WorkerCall()
        self._next_round = 0.0
        self._finished = False  # the thread is over

        self.outbox = Outbox(options.updates_in_flight)
        self.config: Optional[SessionConfig] = None  # from the first Welcome; never changes then
        self.fatal: Optional[CalibdError] = None  # what ended the work
        self.last_stream_end: Optional[CalibdError] = None  # of the stream before
        self.flushing = 0  # callers that wait for durability
        self.closing = False  # half-close: everything is durable
        self.stopping = False  # drop everything
        self._values_ignored = 0  # of streams that are over
        self.messages_sent = 0
        self.bytes_sent = 0
        self.reconnections = 0

    # --- For callers.

    def start(self) -> None:
        """Begins to open the stream. Can be repeated."""
        if self._thread is None and not self.closing and not self.stopping:
            self._thread = threading.Thread(target=self._run, name="calibd-worker", daemon=True)
            self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the thread is there."""
        return self._thread is not None and not self._finished

    @property
    def values_ignored(self) -> int:
        """Values of disabled observers, as the server tells."""
        return self._values_ignored + self._stream.values_ignored

    def wake_writer(self) -> None:
        """There is something to send that the writing thread may not know of."""
        self._writer_wake.notify_all()

    def close(self) -> None:
        """Half-closes the stream when everything is written."""
        self.closing = True
        if not self._stream.welcomed:
            self._stream.give_up()  # it may wait for a server that is away
        self._writer_wake.notify_all()

    def stop(self) -> None:
        """Ends the stream as it is."""
        self.stopping = True
        self._stream.give_up()
        self._writer_wake.notify_all()
        self.progress.notify_all()

    # --- The stream thread.

    def _run(self) -> None:
        backoff = Backoff(self._options.min_backoff, self._options.max_backoff)
        while True:
            stream = _WorkerCall()
            end = self._run_stream(stream)
            with self.lock:
                # A stream that this side gave up says nothing about the next one.
                if self.fatal is None and stream.problem is None and not can_reopen_after(end):
                    self.fatal = end
                if self._is_ending():
                    break
                self.last_stream_end = stream.problem or end
                self.progress.notify_all()
                if stream.shows_that_the_server_is_well:
                    backoff.reset()
                self._writer_wake.wait_for(self._is_ending, backoff.next())
                if self._is_ending():
                    break
                self.reconnections += self.config is not None
        with self.lock:
            self._finished = True
            self.progress.notify_all()

    def _is_ending(self) -> bool:
        return self.stopping or self.closing or self.fatal is not None

    def _run_stream(self, stream: _WorkerCall) -> Optional[CalibdError]:
        """How the call ended; None: in order."""
        try:
            with self.lock:
                if self._is_ending():
                    return None
                self._stream = stream
                # The first stream ends, and says why; later ones wait for a server that is away.
                patient = self.config is not None or self.last_stream_end is not None
            call = self._connection.stream("Observe", self._requests(stream), wait_for_ready=patient)
            with self.lock:
                stream.call = call
                if self.stopping or stream.problem or (self.closing and not stream.welcomed):
                    call.cancel()
            for response in call:
                with self.lock:
                    if not self._take(stream, response):
                        stream.give_up()
                        return None
            return None
        except grpc.RpcError as error:
            return from_rpc(error, self._connection.target)
        except CalibdError as error:
            return error
        except Exception as error:  # a bug, which would end the thread and keep callers waiting
            return make_error("FAILED_PRECONDITION", f"the stream could not be opened: {error!r}")
        finally:
            with self.lock:
                stream.over = True
                self.outbox.end_stream()
                self._values_ignored += stream.values_ignored
                stream.values_ignored = 0
                self._writer_wake.notify_all()

    def _take(self, stream: _WorkerCall, response: pb.ObserveResponse) -> bool:
        """False when the stream has to end."""
        if self.fatal is not None or self.stopping:
            return False
        try:
            kind = response.WhichOneof("kind")
            if kind == "welcome":
                self._take_welcome(stream, response.welcome)
            elif kind == "ack":
                ack = response.ack
                stream.progressed |= ack.applied > self.outbox.applied or ack.durable > self.outbox.durable
                stream.values_ignored = ack.values_ignored
                self.outbox.take_ack(ack)
            elif kind == "refusal":
                error = from_refusal(response.refusal)
                if self.outbox.take_refusal(response.refusal) is Meaning.WORKER_ENDS:
                    raise error
                stream.problem = error
        except CalibdError as fatal:
            self.fatal = fatal
        self.progress.notify_all()
        self._writer_wake.notify_all()
        return self.fatal is None and stream.problem is None

    def _take_welcome(self, stream: _WorkerCall, welcome: pb.Welcome) -> None:
        config = config_of(welcome, self._options.session, self.config, "worker")
        self.outbox.take_welcome(welcome)
        self.config = config
        stream.take_welcome()

    # --- gRPC's thread for a stream's requests.

    def _requests(self, stream: _WorkerCall) -> Iterator[pb.ObserveRequest]:
        with self.lock:
            durable = self.outbox.durable
        options = self._options
        yield pb.ObserveRequest(
            open=pb.Open(
                session=options.session,
                worker_id=options.worker_id,
                display_name=options.display_name,
                durable=durable,
            )
        )
        # gRPC asks for the next message when this one is sent, so the time begins when there is a connection.
        welcome_deadline = time.monotonic() + observe_call.WELCOME_TIMEOUT
        while True:
            with self.lock:
                try:
                    message = self._next_message(stream, welcome_deadline)
                except Exception as error:  # a bug, which gRPC would keep to itself
                    self.fatal = make_error("INTERNAL", f"a message could not be made: {error!r}")
                    stream.give_up()
                    raise
            if message is None:
                return
            yield message

    def _next_message(self, stream: _WorkerCall, welcome_deadline: float) -> Optional[pb.ObserveRequest]:
        """Waits for it; None when there is no more to send on this stream."""
        while not stream.over and not self.stopping and self.fatal is None and stream.problem is None:
            now = time.monotonic()
            if not stream.welcomed:
                if now >= welcome_deadline:
                    stream.give_up(no_welcome(self._connection.target))
                    return None
                self._writer_wake.wait(welcome_deadline - now)
                continue
            rounds = self.outbox.rounds_begun
            message = self.outbox.next_message(self.flushing > 0 or self.closing or now >= self._next_round)
            if self.outbox.rounds_begun != rounds:
                self._next_round = now + self._options.send_interval
            if message is not None:
                self.messages_sent += message.HasField("update")
                self.bytes_sent += message.ByteSize()
                return message
            if self.closing:
                return None
            self._writer_wake.wait(self._next_round - now if self.outbox.has_round_waiting() else None)
        return None
