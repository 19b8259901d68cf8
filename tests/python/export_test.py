"""Files for deployment toolchains: the call, and what becomes of files on the disk."""

import csv
import io
import json
import os
import stat
from concurrent import futures

import calibd
import grpc
import numpy as np
import pytest
from calibd.export import FORMATS
from calibd.rpc import errors_pb2, export_pb2, quantization_pb2

CHUNK = 1 << 20


class Exporter(grpc.GenericRpcHandler):
    """Answers Export with its input, or with what `fail` says after the first bytes."""

    def __init__(self):
        self.options = None
        self.chunks = []
        self.fail = None
        self.failures = 0

    def service(self, details):
        assert details.method == "/calib.v1.Calibration/Export"
        return grpc.stream_stream_rpc_method_handler(
            self.export, export_pb2.ExportRequest.FromString, export_pb2.ExportResponse.SerializeToString
        )

    def export(self, requests, context):
        self.options = next(requests).options
        self.chunks = [request.input for request in requests]
        reason = quantization_pb2.ErrorDetail(message="why", info=errors_pb2.ErrorInfo(reason="LAYER_EMPTY"))
        omitted = export_pb2.OmittedLayer(layer="c", reason=reason)
        yield export_pb2.ExportResponse(summary=export_pb2.ExportSummary(layer=["a"], bytes=3))
        yield export_pb2.ExportResponse(summary=export_pb2.ExportSummary(layer=["b"], omitted=[omitted]))
        if self.fail is not None and self.failures > 0:
            self.failures -= 1
            yield export_pb2.ExportResponse(chunk=b"half of it")
            context.abort(self.fail, "what")
        for chunk in self.chunks or [b"file"]:
            yield export_pb2.ExportResponse(chunk=chunk)


@pytest.fixture
def exporter():
    exporter = Exporter()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers([exporter])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with calibd.connect(f"127.0.0.1:{port}", timeout=60) as client:
        exporter.session = client.session("s")
        yield exporter
    server.stop(0).wait(60)


def test_every_format_of_the_contract_has_a_name():
    assert sorted(FORMATS.values()) == sorted(set(export_pb2.ExportFormat.values()) - {0})
    for name, number in FORMATS.items():
        value = export_pb2.ExportFormat.Name(number)
        assert value == "EXPORT_FORMAT_" + name.upper().replace("-", "_").replace(".", "_")


def test_all_that_is_asked_is_sent(exporter):
    exporter.session.export(
        "tensorrt-cache",
        pattern="f*",
        method=calibd.Method("percentile", percentile=99.5),
        dtype="int8",
        preset="tensorrt",
        weights="*.w",
        weight_method="mse",
        weight_dtype=calibd.QuantSpec("int4", per_channel=True),
        names={"a": "A"},
        skip_unexportable=True,
        tensorrt_version="8.6.1",
        tensorrt_algorithm="MinMaxCalibration",
        activations_only=True,
        float_weights=True,
        least_kv_scale=1.0,
    )
    options = exporter.options
    assert (options.session, options.pattern, options.format) == ("s", "f*", FORMATS["tensorrt-cache"])
    assert options.method.percentile == 99.5 and options.weight_method.method
    assert options.spec.type == quantization_pb2.QUANT_TYPE_INT8
    assert options.spec.preset == quantization_pb2.QUANT_PRESET_TENSORRT
    assert options.spec.scheme == 0, "the rest is the format's"
    assert options.weight_spec.granularity == quantization_pb2.QUANT_GRANULARITY_PER_CHANNEL
    assert dict(options.name) == {"a": "A"} and options.skip_unexportable and options.weight_pattern == "*.w"
    assert options.tensorrt_cache.version == "8.6.1" and options.tensorrt_cache.algorithm == "MinMaxCalibration"
    assert options.onnx_qdq.activations_only and options.onnx_qdq.float_weights
    assert options.safetensors.least_kv_scale == 1


def test_what_is_not_said_is_left_to_the_server(exporter):
    exporter.session.export("json")
    assert not exporter.options.HasField("spec") and not exporter.options.HasField("weight_spec")
    assert not exporter.options.HasField("tensorrt_cache") and not exporter.options.HasField("onnx_qdq")


def test_the_summary(exporter):
    summary = exporter.session.export("json")
    assert summary.layers == ("a", "b") and summary.data == b"file" and summary.length == 3
    assert summary.omitted["c"].reason == "LAYER_EMPTY"


class Model:
    """As onnx.ModelProto."""

    def SerializeToString(self):
        return b"model"


def test_input_goes_in_chunks(exporter, tmp_path):
    data = os.urandom(2 * CHUNK + 5)
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    for source in (data, path, str(path)):
        summary = exporter.session.export("onnx-qdq", model=source)
        assert [len(chunk) for chunk in exporter.chunks] == [CHUNK, CHUNK, 5]
        assert summary.data == data
    assert exporter.session.export("onnx-qdq", model=Model()).data == b"model"
    for table in (b"table", bytearray(b"table"), memoryview(b"table")):
        assert exporter.session.export("ncnn", table=table).data == b"table"
    with pytest.raises(calibd.InvalidArgumentError):
        exporter.session.export("ncnn", table=b"table", model=b"model")
    with pytest.raises(FileNotFoundError):
        exporter.session.export("onnx-qdq", model=tmp_path / "absent")


def test_a_file_is_there_whole_or_not_at_all(exporter, tmp_path):
    path = tmp_path / "out"
    exporter.fail, exporter.failures = grpc.StatusCode.FAILED_PRECONDITION, 1
    with pytest.raises(calibd.FailedPreconditionError):
        exporter.session.export("json", path)
    assert os.listdir(tmp_path) == []

    summary = exporter.session.export("json", path)
    assert path.read_bytes() == b"file" and summary.data is None and os.listdir(tmp_path) == ["out"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask

    path.write_bytes(b"old")
    path.chmod(0o600)
    exporter.failures = 1
    with pytest.raises(calibd.FailedPreconditionError):
        exporter.session.export("json", path)
    assert path.read_bytes() == b"old"
    exporter.session.export("json", str(path))
    assert path.read_bytes() == b"file" and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_server_that_is_away_is_tried_again_from_the_beginning(exporter, tmp_path):
    exporter.fail, exporter.failures = grpc.StatusCode.UNAVAILABLE, 2
    exporter.session.export("onnx-qdq", tmp_path / "out", model=b"model")
    assert (tmp_path / "out").read_bytes() == b"model" and exporter.failures == 0


def test_formats_that_there_are_not(exporter):
    with pytest.raises(calibd.InvalidArgumentError, match="there are json, csv"):
        exporter.session.export("tflite")


def test_files_of_a_real_server(client, tmp_path):
    session = client.create_session("s")
    session.observe("fc", np.linspace(-1, 2, 1000, dtype=np.float32))
    session.observe("empty", np.full(3, np.nan, np.float32))
    session.flush()
    (layer,) = session.qparams("fc", "mse", "int4")

    path = tmp_path / "qparams.json"
    summary = session.export("json", path, pattern="fc", method="mse", dtype="int4")
    assert summary.layers == ("fc",) and summary.length == path.stat().st_size
    assert np.float32(json.loads(path.read_text())["layers"][0]["scale"][0]) == layer.scale[0]

    with pytest.raises(calibd.FailedPreconditionError) as caught:
        session.export("csv")
    assert caught.value.reason == "LAYER_EMPTY"
    summary = session.export("csv", skip_unexportable=True)
    assert summary.omitted["empty"].reason == "LAYER_EMPTY"
    rows = list(csv.DictReader(io.StringIO(summary.data.decode())))
    assert [row["layer"] for row in rows] == ["fc"]
