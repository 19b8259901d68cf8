"""A gRPC server whose Observe streams do what a test says."""

from __future__ import annotations

import queue
import threading
from concurrent import futures
from typing import Callable, Dict, Iterator, List, Optional, Union

import grpc
from calibd.config import SessionConfig
from calibd.rpc import calibration_service_pb2 as service
from calibd.rpc import export_pb2
from calibd.rpc import observe_pb2 as pb
from google.protobuf import wrappers_pb2

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
    """Each stream is run by the next script, the last one by all that follow. Flush and Health answer at once, Export
    with an empty file. `metadata` has that of the last call of each name."""

    def __init__(self, *scripts: Script, credentials: Optional[grpc.ServerCredentials] = None) -> None:
        self._scripts: List[Script] = list(scripts)
        self._lock = threading.Lock()
        self.streams: List[Stream] = []
        self.flushes = 0
        self.flushed = threading.Event()
        self.metadata: Dict[str, Dict[str, Union[str, bytes]]] = {}
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        handlers = {
            "Observe": grpc.stream_stream_rpc_method_handler(
                self._observe, pb.ObserveRequest.FromString, pb.ObserveResponse.SerializeToString
            ),
            "Flush": grpc.unary_unary_rpc_method_handler(
                self._flush, service.FlushRequest.FromString, service.FlushResponse.SerializeToString
            ),
            "Export": grpc.stream_stream_rpc_method_handler(
                self._export, export_pb2.ExportRequest.FromString, export_pb2.ExportResponse.SerializeToString
            ),
        }
        health = grpc.unary_unary_rpc_method_handler(
            self._health, wrappers_pb2.StringValue.FromString, wrappers_pb2.Int32Value.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("calib.v1.Calibration", handlers),
                grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": health}),
            )
        )
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait(LONG)

    def _flush(self, request: service.FlushRequest, context: grpc.ServicerContext) -> service.FlushResponse:
        self._note("Flush", context)
        self.flushes += 1
        self.flushed.set()
        return service.FlushResponse()

    def _health(self, request: wrappers_pb2.StringValue, context: grpc.ServicerContext) -> wrappers_pb2.Int32Value:
        self._note("Health", context)
        return wrappers_pb2.Int32Value(value=1)

    def _export(
        self, requests: Iterator[export_pb2.ExportRequest], context: grpc.ServicerContext
    ) -> Iterator[export_pb2.ExportResponse]:
        self._note("Export", context)
        yield export_pb2.ExportResponse(summary=export_pb2.ExportSummary())

    def _note(self, call: str, context: grpc.ServicerContext) -> None:
        self.metadata[call] = dict(context.invocation_metadata())

    def _observe(
        self, requests: Iterator[pb.ObserveRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ObserveResponse]:
        self._note("Observe", context)
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
