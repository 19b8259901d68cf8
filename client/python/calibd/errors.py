"""What can go wrong, as exceptions, and what each error means to a worker.

Every error that calibd answers has a gRPC status code, a reason (errors.proto says what to do about each) and a message
for people.
"""

from __future__ import annotations

import enum
from typing import Any, Dict, Mapping, Optional, Tuple, Type

import grpc
from google.protobuf.message import DecodeError

from calibd.rpc import errors_pb2, observe_pb2, quantization_pb2

_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
_DETAILS_KEY = "grpc-status-details-bin"
_ERROR_INFO_TYPE = "type.googleapis.com/google.rpc.ErrorInfo"


class CalibdError(Exception):
    """A call, a layer or a worker failed.

    Attributes:
        code: name of the gRPC status code, such as "NOT_FOUND".
        reason: an ErrorReason of errors.proto without its prefix, such as "SESSION_NOT_FOUND"; "" where calibd had no
            word, such as when it could not be reached.
        metadata: the values that the message speaks of, such as {"session": "demo"}.
    """

    code = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        code: Optional[str] = None,
        reason: str = "",
        metadata: Optional[Mapping[str, str]] = None,
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.reason = reason
        self.metadata: Dict[str, str] = dict(metadata or {})

    def __reduce__(self) -> Tuple[Any, ...]:
        return make_error, (self.code, str(self), self.reason, self.metadata)


class CancelledError(CalibdError):
    """The caller, or the end of the client, ended the call."""

    code = "CANCELLED"


class InvalidArgumentError(CalibdError, ValueError):
    """A value is malformed or out of its range; the message names it."""

    code = "INVALID_ARGUMENT"


class DeadlineExceededError(CalibdError, TimeoutError):
    """There was no answer in time; the call may have taken effect."""

    code = "DEADLINE_EXCEEDED"


class NotFoundError(CalibdError):
    """There is no such session, or no layer matches."""

    code = "NOT_FOUND"


class AlreadyExistsError(CalibdError):
    """A session of this name has another config."""

    code = "ALREADY_EXISTS"


class PermissionDeniedError(CalibdError):
    """The credentials do not allow this call."""

    code = "PERMISSION_DENIED"


class ResourceExhaustedError(CalibdError):
    """A limit of the server was reached; metadata["option"] names the server's option."""

    code = "RESOURCE_EXHAUSTED"


class FailedPreconditionError(CalibdError):
    """The session or layer is not in a state for this."""

    code = "FAILED_PRECONDITION"


class AbortedError(CalibdError):
    """Somebody else took over: a worker's id, a rank, the world."""

    code = "ABORTED"


class OutOfRangeError(CalibdError):
    """A sequence number, step or count is beyond what can be."""

    code = "OUT_OF_RANGE"


class UnavailableError(CalibdError):
    """The server can't be reached, is draining, or can't store."""

    code = "UNAVAILABLE"


class DataLossError(CalibdError):
    """The server lost what it had called durable."""

    code = "DATA_LOSS"


class UnauthenticatedError(CalibdError):
    """The credentials are missing or not valid."""

    code = "UNAUTHENTICATED"


_CLASSES: Dict[str, Type[CalibdError]] = {
    subclass.code: subclass
    for subclass in (
        CancelledError,
        InvalidArgumentError,
        DeadlineExceededError,
        NotFoundError,
        AlreadyExistsError,
        PermissionDeniedError,
        ResourceExhaustedError,
        FailedPreconditionError,
        AbortedError,
        OutOfRangeError,
        UnavailableError,
        DataLossError,
        UnauthenticatedError,
    )
}


def make_error(code: str, message: str, reason: str = "", metadata: Optional[Mapping[str, str]] = None) -> CalibdError:
    """The exception that goes with a status code's name."""
    return _CLASSES.get(code, CalibdError)(message, code=code, reason=reason, metadata=metadata)


def again(error: CalibdError) -> CalibdError:
    """The same error to be raised once more: an exception gathers the tracebacks of all who raise it."""
    return make_error(error.code, str(error), error.reason, error.metadata)


def from_rpc(error: grpc.RpcError, address: str = "") -> CalibdError:
    """The error of a call that failed. Where the server had no word, `address` says who could not be reached."""
    code = error.code() if isinstance(error, grpc.Call) else None
    if code is None or code is grpc.StatusCode.OK:
        return CalibdError(str(error))
    message = error.details() or ""
    info = _error_info(error.trailing_metadata())
    if info is not None:
        return make_error(code.name, message, info.reason, info.metadata)
    server = f"calibd at {address}" if address else "calibd"
    if code is grpc.StatusCode.UNAVAILABLE:
        message = f"cannot reach {server}: {message}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"no answer from {server} in time"
    return make_error(code.name, message or f"{server} answered {code.name}")


def from_refusal(refusal: observe_pb2.Refusal) -> CalibdError:
    """The error of a message that an Observe stream refused."""
    code = _CODE_NAMES.get(refusal.code, "UNKNOWN") if refusal.code else "UNKNOWN"
    return make_error(code, refusal.message, refusal.info.reason, refusal.info.metadata)


def from_detail(detail: quantization_pb2.ErrorDetail) -> CalibdError:
    """The error of a part of an answer. Its code is that of its reason."""
    reason = detail.info.reason
    return make_error(_code_of(reason), detail.message, reason, detail.info.metadata)


def _code_of(reason: str) -> str:
    value = errors_pb2.ErrorReason.DESCRIPTOR.values_by_name.get(f"ERROR_REASON_{reason}")
    if value is None:  # a newer server's
        return "UNKNOWN"
    status_code: Any = errors_pb2.status_code
    return _CODE_NAMES[value.GetOptions().Extensions[status_code]]


def _error_info(metadata: Any) -> Optional[errors_pb2.ErrorInfo]:
    for key, value in metadata or ():
        if key != _DETAILS_KEY:
            continue
        try:
            for detail in errors_pb2.Status.FromString(value).details:
                if detail.type_url == _ERROR_INFO_TYPE:
                    return errors_pb2.ErrorInfo.FromString(detail.value)
        except DecodeError:  # of something between us and the server
            return None
    return None


class Meaning(enum.Enum):
    """What a worker does about a refusal."""

    DATA_REFUSED = "drop what was refused, report it, go on in a new stream"
    TRY_AGAIN = "the data is fine: resume in a new stream"
    WORKER_ENDS = "nothing more will be taken"


_TRY_AGAIN = {"SEQUENCE_GAP", "SEQUENCE_OVERLAP", "SERVER_DRAINING", "STORE_FAILED"}
_WORKER_ENDS = {"SESSION_SEALED", "SESSION_DELETED", "SESSION_NOT_FOUND", "WORKER_FENCED"}
# The limit of all sessions' memory, which can be freed again; other limits are broken by the data.
_SERVER_IS_FULL = "--max-state-bytes"
_REOPEN = {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"}


def meaning(refusal: CalibdError) -> Meaning:
    """What a refusal means to the worker that sent the message."""
    if refusal.reason in _TRY_AGAIN:
        return Meaning.TRY_AGAIN
    if refusal.reason in _WORKER_ENDS:
        return Meaning.WORKER_ENDS
    if refusal.reason == "LIMIT_EXCEEDED" and refusal.metadata.get("option") == _SERVER_IS_FULL:
        return Meaning.TRY_AGAIN
    return Meaning.DATA_REFUSED


def can_reopen_after(end_of_stream: Optional[CalibdError]) -> bool:
    """Whether an Observe stream that ended so (None: in order) is worth another.

    Networks and restarting servers produce such ends. Every other one ends the worker: WORKER_FENCED,
    SESSION_NOT_FOUND, SESSION_DELETED, INVALID_FIELD, STREAM_NOT_OPEN, credentials.
    """
    return end_of_stream is None or end_of_stream.code in _REOPEN
