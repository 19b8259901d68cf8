"""Quantization calibration for a fleet: observe tensors where they are, ask one server for scales and zero points.

with calibd.connect("127.0.0.1:7070") as client:
    session = client.create_session("demo")
    session.observe("model.fc1", array)
    session.flush()
    session.qparams(method="mse", dtype="int8")
"""

from calibd import fork as _fork  # noqa: F401  before grpc is imported: it says why
from calibd.client import Client, connect
from calibd.config import Rule, SessionConfig, Synchronous
from calibd.errors import (
    AbortedError,
    AlreadyExistsError,
    CalibdError,
    CancelledError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from calibd.export import ExportSummary
from calibd.info import LayerInfo, SessionInfo, SynchronousInfo, WorkerInfo
from calibd.observer import Ema, Learned, Observer, ReferenceHistogram
from calibd.quantize import LayerQParams, Method, QuantSpec
from calibd.rank import Gradients, PendingStep, StepLayer, StepResult
from calibd.session import Session
from calibd.statistics import Bfloat16Histogram, TensorStatistics
from calibd.step import World

__version__ = "0.1.0"

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "Bfloat16Histogram",
    "CalibdError",
    "CancelledError",
    "Client",
    "DataLossError",
    "DeadlineExceededError",
    "Ema",
    "ExportSummary",
    "FailedPreconditionError",
    "Gradients",
    "InvalidArgumentError",
    "LayerInfo",
    "LayerQParams",
    "Learned",
    "Method",
    "NotFoundError",
    "Observer",
    "OutOfRangeError",
    "PendingStep",
    "PermissionDeniedError",
    "QuantSpec",
    "ReferenceHistogram",
    "ResourceExhaustedError",
    "Rule",
    "Session",
    "SessionConfig",
    "SessionInfo",
    "StepLayer",
    "StepResult",
    "Synchronous",
    "SynchronousInfo",
    "TensorStatistics",
    "UnauthenticatedError",
    "UnavailableError",
    "WorkerInfo",
    "World",
    "connect",
]
