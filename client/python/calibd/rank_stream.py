"""The threads around a StepLog: one stream after the other, sent again what a new one needs."""

from __future__ import annotations

import threading
import time
from typing import Any, Iterator, Optional

import grpc

from calibd import errors, fork, observe_call, step_encoder
from calibd.backoff import Backoff
from calibd.channel import Connection
from calibd.config import SessionConfig
from calibd.errors import CalibdError
from calibd.observe_call import ObserveCall, config_of, no_welcome
from calibd.rpc import observe_pb2
from calibd.step_contribution import CountJob, StepTicket
from calibd.step_layers import StepLayers
from calibd.step_log import AfterRefusal, StepLog

# What a fork waits for the stream to end.
_PAUSE_TIMEOUT = 5.0


class WaitedTicket(StepTicket):
    """A ticket that can be waited for."""

    def __init__(self, lock: threading.Lock) -> None:
        super().__init__()
        self.answered_or_asked = threading.Condition(lock)
        self.waiters = 0


class RankStream(fork.Forkable):
    """What a Rank's calls share with its threads. Attributes are guarded by `lock`, which methods want held unless they
    say otherwise.

    A stream thread opens stream after stream and reads; gRPC's thread for a stream's requests waits for messages of the
    log, and counts values while nobody waits for their step. Callers are woken by their tickets, or by `progress`."""

    def __init__(
        self,
        connection: Connection,
        open_request: observe_pb2.Open,
        *,
        min_backoff: float,
        max_backoff: float,
        max_message_bytes: int,
    ) -> None:
        self._connection = connection
        self._open_request = open_request
        self._min_backoff = max(min_backoff, 0.001)
        self._max_backoff = max(max_backoff, self._min_backoff)
        self._max_message_bytes = max_message_bytes

        self.lock = threading.Lock()
        self.progress = threading.Condition(self.lock)  # for callers that wait for the stream, room or durability
        self._wake = threading.Condition(self.lock)  # for the threads
        layers = StepLayers(lambda name: self.config.observer_of(name) if self.config else None)
        self.log = StepLog(open_request.rank, layers, self._on_ticket)
        self.config: Optional[SessionConfig] = None  # from the first Welcome; never changes then
        self.fatal: Optional[CalibdError] = None  # what ended the rank
        self.last_stream_end: Optional[CalibdError] = None  # of the stream before
        self.closing = False
        self.finished = False  # the stream thread is over
        self.steps_answered = 0
        self.messages_sent = 0
        self.bytes_sent = 0
        self.reconnections = 0
        self._stream = ObserveCall()
        self._paused = False  # a fork is about to take place
        self._streaming = False
        fork.register(self)
        self._thread = threading.Thread(target=self._run, name="calibd-rank", daemon=True)
        self._thread.start()

    # --- For callers.

    def send(self) -> None:
        """The log has something to send, or values to count."""
        self._wake.notify_all()

    def count(self) -> bool:
        """Counts the values of one step and sends the counts, if there is one to count. Lets go of the lock then."""
        job = self.log.take_count_job()
        if job is None:
            return False
        try:
            self.lock.release()
            try:
                counts = self._counts_of(job)
            finally:
                self.lock.acquire()
        except CalibdError as error:
            self.end(error)
            return True
        except BaseException:  # such as Ctrl-C: all ranks wait for these counts
            self.log.return_count_job(job)
            raise
        self.log.add_counts(job, counts)
        self.send()
        return True

    def _counts_of(self, job: CountJob) -> observe_pb2.ObserveRequest:
        """Without the lock."""
        counts = step_encoder.count(job)
        if counts.ByteSize() > self._max_message_bytes:
            raise errors.make_error(
                "RESOURCE_EXHAUSTED",
                f"the counts of step {job.grids.step} are a message of {counts.ByteSize()} bytes, and the server "
                f"takes {self._max_message_bytes}: give fewer layers with reference histograms, or histograms with "
                "fewer bins",
                "REFERENCE_TOO_LARGE",
            )
        return counts

    def end(self, error: CalibdError) -> None:
        """The rank ends with this error."""
        if self.fatal is not None:
            return
        self.fatal = error
        self.log.end_all(error)
        self._stream.give_up()
        self._wake.notify_all()
        self.progress.notify_all()

    def close(self, error: CalibdError, abandon: bool) -> None:
        """Answers what is open with this error, and ends the stream: in order, or at once."""
        self.closing = True
        self.log.end_all(self.fatal or error)
        if abandon or not self._stream.welcomed:
            self._stream.give_up()
        self._wake.notify_all()
        self.progress.notify_all()

    def join(self) -> None:
        """Waits for the thread, after close. The lock must not be held."""
        self._thread.join()

    # --- Around forks, during which no call may run. They take the lock.

    def before_fork(self) -> None:
        with self.lock:
            self._paused = True
            self._stream.give_up()
            self._wake.notify_all()
            self.progress.wait_for(lambda: not self._streaming, _PAUSE_TIMEOUT)

    def after_fork_in_parent(self) -> None:
        with self.lock:
            self._paused = False
            self._wake.notify_all()

    def after_fork_in_child(self) -> None:
        """The rank is its parent's: nothing is left of it here, and the lock may be held by a thread that is gone."""

    # --- The stream thread.

    def _run(self) -> None:
        backoff = Backoff(self._min_backoff, self._max_backoff)
        while True:
            stream = ObserveCall()
            end = self._run_stream(stream)
            with self.lock:
                # A stream that this side gave up says nothing about the next one.
                if stream.problem is None and not self.closing and end and not errors.can_reopen_after(end):
                    self.end(end)
                if self.closing or self.fatal:
                    break
                self.last_stream_end = stream.problem or end
                self.progress.notify_all()
                if stream.shows_that_the_server_is_well:
                    backoff.reset()
                self._wake.wait_for(lambda: self.closing or self.fatal, backoff.next())
                if self.closing or self.fatal:
                    break
                if self.config is not None:
                    self.reconnections += 1
        with self.lock:
            self.finished = True
            self.progress.notify_all()

    def _run_stream(self, stream: ObserveCall) -> Optional[CalibdError]:
        """How the call ended; None: in order. Takes the lock."""
        try:
            with self.lock:
                self._wake.wait_for(lambda: not self._paused or self.closing, _PAUSE_TIMEOUT)
                if self.closing:
                    return None
                self._streaming = True
                self._stream = stream
                # The first stream ends, and says why; later ones wait for a server that is away.
                patient = self.config is not None or self.last_stream_end is not None
            call: Any = self._connection.stream("Observe", self._requests(stream), wait_for_ready=patient)
            with self.lock:
                stream.call = call
                if self.closing or self.fatal or self._paused:
                    call.cancel()
            for response in call:
                with self.lock:
                    if not self._take(stream, response):
                        stream.give_up()
                        return None
            return None
        except grpc.RpcError as error:
            return errors.from_rpc(error, self._connection.target)
        except CalibdError as error:
            return error
        except Exception as error:  # a bug, which would end the thread and keep callers waiting
            return errors.make_error("FAILED_PRECONDITION", f"the stream could not be opened: {error!r}")
        finally:
            with self.lock:
                stream.over = True
                self._streaming = False
                self.log.on_stream_end()
                self._wake.notify_all()
                self.progress.notify_all()

    def _take(self, stream: ObserveCall, response: observe_pb2.ObserveResponse) -> bool:
        """False when the stream has to end."""
        if self.fatal is not None:
            return False
        try:
            kind = response.WhichOneof("kind")
            if kind == "step_result":
                stream.progressed = True
                self.log.on_result(response.step_result)
            elif kind == "ack":
                stream.progressed = stream.progressed or response.ack.durable_step > self.log.durable
                self.log.on_ack(response.ack)
            elif kind == "step_grids":
                self.log.on_grids(response.step_grids)
            elif kind == "world":
                self.log.on_world(response.world)
            elif kind == "welcome":
                self._take_welcome(stream, response.welcome)
            elif kind == "refusal":
                after, error = self.log.on_refusal(response.refusal)
                if after is AfterRefusal.REOPEN:
                    stream.problem = error
                    self.progress.notify_all()
                    return False
                if after is AfterRefusal.END:
                    raise error
        except CalibdError as error:
            self.end(error)
            return False
        # What has to be sent again, and, when more of it is than a window, what there is room for now.
        if self.log.has_message():
            self._wake.notify_all()
        self.progress.notify_all()
        return True

    def _take_welcome(self, stream: ObserveCall, welcome: observe_pb2.Welcome) -> None:
        config = config_of(welcome, self._open_request.session, self.config, "rank")
        self.log.on_welcome(welcome)
        self.config = config
        stream.take_welcome()
        self._wake.notify_all()

    def _on_ticket(self, ticket: StepTicket) -> None:
        assert isinstance(ticket, WaitedTicket)
        if ticket.answered:
            self.steps_answered += ticket.error is None
            ticket.answered_or_asked.notify_all()
        elif ticket.waiters > 0:
            ticket.answered_or_asked.notify()
        else:
            self._wake.notify_all()

    # --- gRPC's thread for a stream's requests.

    def _requests(self, stream: ObserveCall) -> Iterator[observe_pb2.ObserveRequest]:
        yield observe_pb2.ObserveRequest(open=self._open_request)
        welcome_deadline = time.monotonic() + observe_call.WELCOME_TIMEOUT
        while True:
            with self.lock:
                try:
                    message = self._next_message(stream, welcome_deadline)
                except Exception as error:  # a bug, or no memory, which gRPC would keep to itself
                    self.end(errors.make_error("INTERNAL", f"a message could not be made: {error!r}"))
                    raise
            if message is None:
                return
            yield message

    def _next_message(self, stream: ObserveCall, welcome_deadline: float) -> Optional[observe_pb2.ObserveRequest]:
        """Waits for it; None when there is no more to send on this stream."""
        while not stream.over and not self.closing and not self.fatal:
            if not stream.welcomed:
                remaining = welcome_deadline - time.monotonic()
                if remaining <= 0:
                    stream.give_up(no_welcome(self._connection.target))
                    return None
                self._wake.wait(remaining)
                continue
            message = self.log.next_message()
            if message is not None:
                if not message.HasField("register_layers"):
                    self.messages_sent += 1
                self.bytes_sent += message.ByteSize()
                return message
            if not self.count():
                self._wake.wait()
        return None
