"""The generated messages of calib.v1, and one callable for each call of the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import wrappers_pb2
from google.protobuf.descriptor_pb2 import ServiceDescriptorProto

from calibd._proto.calib.v1 import (
    calibration_service_pb2,
    errors_pb2,
    export_pb2,
    observe_pb2,
    quantization_pb2,
    session_pb2,
    state_pb2,
    statistics_pb2,
)

__all__ = [
    "Calls",
    "calibration_service_pb2",
    "errors_pb2",
    "export_pb2",
    "observe_pb2",
    "quantization_pb2",
    "session_pb2",
    "state_pb2",
    "statistics_pb2",
]

if TYPE_CHECKING:
    from calibd._proto.calib.v1 import calibration_service_pb2 as service

_SERVICE = calibration_service_pb2.DESCRIPTOR.services_by_name["Calibration"]
_MODULES = {module.DESCRIPTOR.name: module for module in (calibration_service_pb2, export_pb2, observe_pb2, state_pb2)}


class Calls:
    """The calls of calib.v1.Calibration on one channel, and Health of grpc.health.v1.

    Each attribute is gRPC's own callable of that name: `calls.CreateSession(request, timeout=..., metadata=...)`, for
    streams with an iterator of requests. Thread-safe.
    """

    CreateSession: grpc.UnaryUnaryMultiCallable[service.CreateSessionRequest, service.CreateSessionResponse]
    GetSession: grpc.UnaryUnaryMultiCallable[service.GetSessionRequest, service.GetSessionResponse]
    ListSessions: grpc.UnaryUnaryMultiCallable[service.ListSessionsRequest, service.ListSessionsResponse]
    SealSession: grpc.UnaryUnaryMultiCallable[service.SealSessionRequest, service.SealSessionResponse]
    DeleteSession: grpc.UnaryUnaryMultiCallable[service.DeleteSessionRequest, service.DeleteSessionResponse]
    SetObserversEnabled: grpc.UnaryUnaryMultiCallable[
        service.SetObserversEnabledRequest, service.SetObserversEnabledResponse
    ]
    SetQParams: grpc.UnaryUnaryMultiCallable[service.SetQParamsRequest, service.SetQParamsResponse]
    SetWorld: grpc.UnaryUnaryMultiCallable[service.SetWorldRequest, service.SetWorldResponse]
    Observe: grpc.StreamStreamMultiCallable[observe_pb2.ObserveRequest, observe_pb2.ObserveResponse]
    Flush: grpc.UnaryUnaryMultiCallable[service.FlushRequest, service.FlushResponse]
    ComputeQParams: grpc.UnaryUnaryMultiCallable[service.ComputeQParamsRequest, service.ComputeQParamsResponse]
    CompareMethods: grpc.UnaryUnaryMultiCallable[service.CompareMethodsRequest, service.CompareMethodsResponse]
    GetStatistics: grpc.UnaryUnaryMultiCallable[service.GetStatisticsRequest, service.GetStatisticsResponse]
    WatchQParams: grpc.UnaryStreamMultiCallable[service.WatchQParamsRequest, service.WatchQParamsResponse]
    ExportState: grpc.UnaryStreamMultiCallable[state_pb2.ExportStateRequest, state_pb2.ExportStateResponse]
    ImportState: grpc.StreamUnaryMultiCallable[state_pb2.ImportStateRequest, state_pb2.ImportStateResponse]
    Export: grpc.StreamStreamMultiCallable[export_pb2.ExportRequest, export_pb2.ExportResponse]
    # HealthCheckRequest and HealthCheckResponse are one string and one enum, both field 1: the wrappers read alike, and
    # grpcio-health-checking is not needed.
    Health: grpc.UnaryUnaryMultiCallable[wrappers_pb2.StringValue, wrappers_pb2.Int32Value]

    def __init__(self, channel: grpc.Channel) -> None:
        description = ServiceDescriptorProto()
        _SERVICE.CopyToProto(description)
        for method in description.method:
            setattr(
                self, method.name, _callable(channel, method.name, method.client_streaming, method.server_streaming)
            )
        self.Health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=wrappers_pb2.StringValue.SerializeToString,
            response_deserializer=wrappers_pb2.Int32Value.FromString,
        )


def _callable(channel: grpc.Channel, name: str, client_streaming: bool, server_streaming: bool) -> Any:
    method = _SERVICE.methods_by_name[name]
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[client_streaming, server_streaming]
    return make(
        f"/{_SERVICE.full_name}/{name}",
        request_serializer=_message_class(method.input_type).SerializeToString,
        response_deserializer=_message_class(method.output_type).FromString,
    )


def _message_class(descriptor: Any) -> Any:
    return getattr(_MODULES[descriptor.file.name], descriptor.name)
