"""NumPy, the C++ client and the server count the same tensors to the same bytes."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any, Dict, List

import numpy as np
import pytest
from calibd.channel import Connection
from calibd.config import Observer, Rule, SessionConfig
from calibd.rpc import calibration_service_pb2 as service
from calibd.rpc import observe_pb2 as pb
from calibd.rpc import statistics_pb2
from calibd.worker import Worker

CALIBCTL = pathlib.Path(__file__).resolve().parents[2] / "build" / "bin" / "calibctl"
SPECIAL = [0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x8000FFFF, 0x00010000, 0x80010000, 0x007FFFFF, 0x7F7FFFFF]
SPECIAL += [0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0xFF800001, 0x7FC00000, 0xFFFFFFFF, 0x3F800000, 0x3F810000]
OBSERVERS = {
    "tensor": Observer(),
    "first": Observer("histogram", 0),
    "last": Observer("histogram", -1),
    "range": Observer("minmax"),
    "ranges": Observer("minmax", 1),
}
LONG = 60.0


def values_of(name: str, kind: str, shape: tuple) -> np.ndarray:
    """The words of an array: gaussian, zeros and negative zeros, any bits, special bits, nothing finite."""
    generator = np.random.default_rng([len(name), *name.encode(), *kind.encode(), *shape])
    size = int(np.prod(shape))
    if name == "gaussian":
        words = generator.normal(size=size).astype(np.float32).view(np.uint32)
    elif name == "relu":
        words = np.maximum(generator.normal(size=size), 0).astype(np.float32).view(np.uint32)
        words[generator.integers(0, max(size, 1), size // 5)] = 0x80000000
    elif name == "bits":
        words = generator.integers(0, 2**32, size, dtype=np.uint32)
    elif name == "special":
        words = generator.choice(np.array(SPECIAL, np.uint32), size)
    else:
        words = generator.choice(np.array([0x7F800000, 0xFF800000, 0x7FC12345], np.uint32), size)
    if kind == "float32":
        return words.view(np.float32).reshape(shape)
    if kind == "bfloat16":
        return (words >> 16).astype(np.uint16).reshape(shape)
    if name in ("gaussian", "relu"):
        return words.view(np.float32).astype(np.float16).reshape(shape)
    return (words ^ words >> 16).astype(np.uint16).view(np.float16).reshape(shape)


def cases(kinds: List[str], shapes: List[tuple]) -> Dict[str, np.ndarray]:
    """Layers to arrays; a layer's name begins with that of its observer."""
    return {
        f"{observer}.{kind}.{name}.{'x'.join(map(str, shape))}": values_of(name, kind, shape)
        for shape in shapes
        for kind in kinds
        for name in ("gaussian", "relu", "bits", "special", "infinite")
        for observer in OBSERVERS
        if len(shape) > 1 or OBSERVERS[observer].channel_axis is None
    }


def create(connection: Connection, session: str, mantissa_bits: int) -> None:
    rules = tuple(Rule(f"{name}.*", observer) for name, observer in OBSERVERS.items())
    config = SessionConfig(rules, mantissa_bits).to_proto()
    connection.unary("CreateSession", service.CreateSessionRequest(session=session, config=config))


def held(connection: Connection, session: str) -> List[bytes]:
    """What the server has, page by page."""
    connection.unary("Flush", service.FlushRequest(session=session))
    request, pages = service.GetStatisticsRequest(session=session), []
    while True:
        response = connection.unary("GetStatistics", request)
        request.page_token = response.next_page_token
        response.next_page_token = ""
        pages.append(response.SerializeToString(deterministic=True))
        if not request.page_token:
            return pages


def kind_of(layer: str) -> str:
    return layer.split(".")[1]


def observe_here(connection: Connection, session: str, layers: Dict[str, np.ndarray]) -> None:
    with Worker(connection, session) as worker:
        for layer, array in layers.items():
            worker.observe(layer, array, kind_of(layer))


def count_on_the_server(connection: Connection, session: str, layers: Dict[str, np.ndarray]) -> None:
    """Raw, in one message each."""
    requests = [
        pb.ObserveRequest(open=pb.Open(session=session, worker_id="raw")),
        pb.ObserveRequest(register_layers=pb.RegisterLayers(name=list(layers))),
    ]
    for handle, (layer, array) in enumerate(layers.items()):
        kind = statistics_pb2.DataType.Value(f"DATA_TYPE_{kind_of(layer).upper()}")
        chunk = statistics_pb2.TensorChunk(layer=handle, data_type=kind, shape=array.shape, data=array.tobytes())
        requests.append(pb.ObserveRequest(update=pb.Update(first=handle + 1, last=handle + 1, tensor=chunk)))
    applied = 0
    for response in connection.calls().Observe(iter(requests), timeout=LONG):
        assert not response.HasField("refusal"), response
        applied = response.ack.applied
    assert applied == len(layers)


def push(server: Any, folder: pathlib.Path, session: str, layers: Dict[str, np.ndarray], *options: str) -> None:
    """By the C++ client, a file of one step each."""
    arguments = []
    for number, (layer, array) in enumerate(layers.items()):
        np.save(folder / f"{number}.npy", array[np.newaxis])
        arguments.append(f"{layer}={folder / str(number)}.npy")
    command = [str(CALIBCTL), "--server", server.address, "push", session, *arguments, *options]
    subprocess.run(command, check=True, timeout=LONG, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("mantissa_bits", [7, 4])
def test_all_ways_of_counting_give_the_same_bytes(server: Any, tmp_path: pathlib.Path, mantissa_bits: int) -> None:
    layers = cases(["float32", "float16"], [(1,), (257,), (7, 33), (5, 3, 4, 2), (2, 20000), (500, 9)])
    connection = Connection(server.address)
    for session in ("here", "raw", "pushed", "pushed-raw", "pushed-ranks"):
        create(connection, session, mantissa_bits)
    observe_here(connection, "here", layers)
    expected = held(connection, "here")
    count_on_the_server(connection, "raw", layers)
    assert held(connection, "raw") == expected
    for session, options in (("pushed", []), ("pushed-raw", ["--raw"]), ("pushed-ranks", ["--ranks", "3"])):
        push(server, tmp_path, session, layers, *options)
        assert held(connection, session) == expected, session
    connection.close()


def test_bfloat16_scalars_and_empty_arrays_are_counted_as_the_server_does(server: Any) -> None:
    layers = cases(["bfloat16"], [(), (1,), (257,), (7, 33), (5, 3, 4, 2), (500, 9)])
    layers.update(cases(["float32", "float16"], [(), (0,)]))
    connection = Connection(server.address)
    create(connection, "here", 7)
    create(connection, "raw", 7)
    observe_here(connection, "here", layers)
    count_on_the_server(connection, "raw", layers)
    assert held(connection, "here") == held(connection, "raw")
    connection.close()


def test_strides_and_byte_orders_change_nothing(server: Any) -> None:
    base = cases(["float32", "float16"], [(6, 8, 10)])
    views = {layer: array[::-2, 1:, ::3].swapaxes(0, 1) for layer, array in base.items()}
    swapped = {layer: array.astype(array.dtype.newbyteorder(">")) for layer, array in views.items()}
    connection = Connection(server.address)
    for session in ("raw", "views", "swapped"):
        create(connection, session, 7)
    count_on_the_server(connection, "raw", {layer: np.ascontiguousarray(array) for layer, array in views.items()})
    observe_here(connection, "views", views)
    observe_here(connection, "swapped", swapped)
    assert held(connection, "views") == held(connection, "raw") == held(connection, "swapped")
    connection.close()
