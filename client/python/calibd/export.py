"""Files of a session's qparams that deployment toolchains load."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from typing import Any, BinaryIO, Callable, ContextManager, Dict, Iterator, Optional, Tuple, Union

from calibd.channel import Connection
from calibd.errors import CalibdError, InvalidArgumentError, from_detail
from calibd.rpc import Calls
from calibd.rpc import export_pb2 as pb

Path = Union[str, "os.PathLike[str]"]
# A file's path, its bytes, or a message such as onnx.ModelProto.
Input = Union[Path, bytes, bytearray, memoryview, Any]

FORMATS = {
    "json": pb.EXPORT_FORMAT_JSON,
    "csv": pb.EXPORT_FORMAT_CSV,
    "onnx-qdq": pb.EXPORT_FORMAT_ONNX_QDQ,
    "tensorrt-cache": pb.EXPORT_FORMAT_TENSORRT_CACHE,
    "onnxruntime-table": pb.EXPORT_FORMAT_ONNXRUNTIME_TABLE,
    "onnxruntime-overrides": pb.EXPORT_FORMAT_ONNXRUNTIME_OVERRIDES,
    "aimet-0.6.1": pb.EXPORT_FORMAT_AIMET_0_6_1,
    "aimet-1.0.0": pb.EXPORT_FORMAT_AIMET_1_0_0,
    "aimet-2.0.0": pb.EXPORT_FORMAT_AIMET_2_0_0,
    "safetensors": pb.EXPORT_FORMAT_SAFETENSORS,
    "ncnn": pb.EXPORT_FORMAT_NCNN,
    "mxnet": pb.EXPORT_FORMAT_MXNET,
}
_CHUNK_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class ExportSummary:
    """What became of the layers.

    Attributes:
        layers: those in the file, in name order.
        omitted: those left out by skip_unexportable, and why.
        from_input: tensors of the input that are quantized without a layer: weights, by their own values.
        length: of the file, in bytes.
        incomplete: values are missing in what the file comes from: the store went back in time.
        data: the file itself, where no path was given; else None.
    """

    layers: Tuple[str, ...]
    omitted: Dict[str, CalibdError]
    from_input: Tuple[str, ...]
    length: int
    incomplete: bool
    data: Optional[bytes]


def format_number(name: str) -> pb.ExportFormat:
    """The format of a name. Raises InvalidArgumentError, which names what there is."""
    if name not in FORMATS:
        raise InvalidArgumentError(f"there is no export format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]


def export(
    connection: Connection,
    options: pb.ExportOptions,
    source: Optional[Input],
    path: Optional[Path],
    timeout: Optional[float],
) -> ExportSummary:
    """Makes the file, at `path` whole or not at all; an existing one is replaced.

    Args:
        connection: to the server.
        options: what is exported, and how.
        source: for the formats that take one: the file that the new one is made of.
        path: where the file goes; None: into ExportSummary.data.
        timeout: seconds for all of it; None: no limit.

    Raises CalibdError as the call does (calibration_service.proto), and OSError for files.
    """

    def attempt(calls: Calls, seconds: Optional[float]) -> Tuple[pb.ExportSummary, Optional[bytes]]:
        with contextlib.ExitStack() as stack:
            chunks = _read(source, stack) if source is not None else iter(())
            write, finish = stack.enter_context(_output(path))
            answers = calls.Export(_requests(options, chunks), timeout=seconds, metadata=connection.metadata())
            stack.callback(answers.cancel)
            summary = pb.ExportSummary()
            for answer in answers:
                if answer.HasField("summary"):
                    summary.MergeFrom(answer.summary)
                else:
                    write(answer.chunk)
            return summary, finish()

    summary, data = connection.repeat(attempt, timeout)
    return ExportSummary(
        layers=tuple(summary.layer),
        omitted={layer.layer: from_detail(layer.reason) for layer in summary.omitted},
        from_input=tuple(summary.from_input),
        length=summary.bytes,
        incomplete=summary.incomplete,
        data=data,
    )


def _requests(options: pb.ExportOptions, chunks: Iterator[bytes]) -> Iterator[pb.ExportRequest]:
    yield pb.ExportRequest(options=options)
    for chunk in chunks:
        yield pb.ExportRequest(input=chunk)


def _read(source: Input, stack: contextlib.ExitStack) -> Iterator[bytes]:
    if isinstance(source, (str, os.PathLike)):
        file = stack.enter_context(open(source, "rb"))
        return iter(lambda: file.read(_CHUNK_BYTES), b"")
    data = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else source.SerializeToString()
    return (data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES))


_Writer = Tuple[Callable[[bytes], Any], Callable[[], Optional[bytes]]]


def _output(path: Optional[Path]) -> ContextManager[_Writer]:
    return _into_memory() if path is None else _into_file(path)


@contextlib.contextmanager
def _into_memory() -> Iterator[_Writer]:
    data = bytearray()
    yield data.extend, lambda: bytes(data)


@contextlib.contextmanager
def _into_file(path: Path) -> Iterator[_Writer]:
    target = os.path.realpath(path)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=f".{os.path.basename(target)}.")
    file: BinaryIO = os.fdopen(descriptor, "wb")

    def finish() -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()
        os.chmod(temporary, _mode_of(target))
        os.replace(temporary, target)

    try:
        yield file.write, finish
    finally:
        file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _mode_of(path: str) -> int:
    """The permissions of the file there, or those that a new file gets."""
    with contextlib.suppress(FileNotFoundError):
        return os.stat(path).st_mode & 0o7777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
