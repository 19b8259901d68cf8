"""A gRPC server whose Observe streams do what a test says."""

from __future__ import annotations

import queue
import threading
from concurrent import futures
from typing import Callable, Iterator, List, Optional

import grpc
from calibd.config import SessionConfig
from calibd.rpc import calibration_service_pb2 as service
from calibd.rpc import observe_pb2 as pb

LONG = 60.0  # seconds that nothing takes
Script = Callable[["Stream"], None]


class StreamEnded(Exception):
    """The client has ended the stream, or has gone."""


class Stream:
    """The server's side of one stream."""

    def __init__(self, requests: Iterator[pb.ObserveRequest], context: grpc.ServicerContext) -> None:
        self.context = context
        self.responses: "queue.Queue[Optional[pb.ObserveResponse]]" = queue.Queue()
        self.open = next(requests).open
        self._requests = requests

    def welcome(self, applied: int = 0, durable: int = 0, config: SessionConfig = SessionConfig()) -> None:
        message = pb.Welcome(applied=applied, durable=durable, config=config.to_proto())
        if config.synchronous is not None:
            message.world.epoch, message.world.size = 1, config.synchronous.world_size
        self.responses.put(pb.ObserveResponse(welcome=message))

    def ack(self, applied: int, durable: int) -> None:
        self.responses.put(pb.ObserveResponse(ack=pb.Ack(applied=applied, durable=durable)))

    def refuse(self, unit: int, code: grpc.StatusCode, reason: str, **metadata: str) -> None:
        refusal = pb.Refusal(first=unit, last=unit, code=code.value[0], message="refused")
        refusal.info.reason = reason
        refusal.info.metadata.update(metadata)
        self.responses.put(pb.ObserveResponse(refusal=refusal))

    def next_update(self) -> pb.Update:
        """The next update that the client sends. Raises StreamEnded."""
        while True:
            try:
                request = next(self._requests)
            except Exception as end:  # StopIteration, or one of gRPC that has no type of its own
                raise StreamEnded from end
            if request.HasField("update"):
                return request.update

    def await_end(self) -> None:
        """Reads until the client has ended the stream."""
        while True:
            self.next_update()


class ScriptedServer:
    """Each stream is run by the next script, the last one by all that follow. Flush answers at once."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts: List[Script] = list(scripts)
        self._lock = threading.Lock()
        self.streams: List[Stream] = []
        self.flushes = 0
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        handlers = {
            "Observe": grpc.stream_stream_rpc_method_handler(
                self._observe, pb.ObserveRequest.FromString, pb.ObserveResponse.SerializeToString
            ),
            "Flush": grpc.unary_unary_rpc_method_handler(
                self._flush, service.FlushRequest.FromString, service.FlushResponse.SerializeToString
            ),
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("calib.v1.Calibration", handlers),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(LONG)

    def _flush(self, request: service.FlushRequest, context: grpc.ServicerContext) -> service.FlushResponse:
        self.flushes += 1
        return service.FlushResponse()

    def _observe(
        self, requests: Iterator[pb.ObserveRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ObserveResponse]:
        stream = Stream(requests, context)
        with self._lock:
            script = self._scripts[min(len(self.streams), len(self._scripts) - 1)]
            self.streams.append(stream)

        def run() -> None:
            try:
                script(stream)
            except StreamEnded:
                pass
            finally:
                stream.responses.put(None)

        threading.Thread(target=run, daemon=True).start()
        while True:
            response = stream.responses.get()
            if response is None:
                return
            yield response
