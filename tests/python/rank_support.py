"""Sessions with synchronous steps for tests, what their ranks give, and what the server then holds."""

from __future__ import annotations

import threading
import zlib
from typing import Callable, Dict, List, Tuple

import numpy as np
from calibd import config
from calibd.channel import Connection
from calibd.config import Observer, Rule, SessionConfig, Synchronous
from calibd.observer import Learned, ReferenceHistogram
from calibd.rank import Rank
from calibd.rpc import calibration_service_pb2 as service

LONG = 60.0  # seconds that nothing takes
ROWS = 12  # of a step's tensors, of all ranks together
COLUMNS = 3
LAYERS = (
    "mxnet",
    "ema",
    "debug",
    "channels",
    "a",
    "passive",
    "megengine",
    "pytorch",
    "pytorch_current",
    "ema_channels",
)


def reference(rule: str, bins: int) -> Observer:
    return Observer("reference_histogram", reference_histogram=ReferenceHistogram(rule, bins))


def step_config(synchronous: Synchronous, learned: Learned = Learned()) -> SessionConfig:
    rules = (
        Rule("ema_channels*", Observer("ema", channel_axis=1)),
        Rule("ema*", Observer("ema")),
        Rule("mxnet*", reference("mxnet", 65)),
        Rule("megengine*", reference("megengine", 64)),
        Rule("pytorch_current*", reference("pytorch_current", 64)),
        Rule("pytorch*", reference("pytorch", 64)),
        Rule("channels*", Observer("minmax", channel_axis=1)),
        Rule("learned*", Observer("learned", learned=learned)),
        Rule("passive*", Observer("passive")),
        Rule("debug*", None),
        Rule("*", Observer()),
    )
    return SessionConfig(rules=rules, synchronous=synchronous)


def create(connection: Connection, session: str, session_config: config.SessionConfig) -> None:
    connection.unary("CreateSession", service.CreateSessionRequest(session=session, config=session_config.to_proto()))


def create_steps(connection: Connection, session: str, ranks: int, window: int = 16) -> None:
    create(connection, session, step_config(Synchronous(ranks, window=window)))


def open_rank(connection: Connection, session: str, rank: int, **options: object) -> Rank:
    return Rank(connection, session, rank, min_backoff=0.001, max_backoff=0.05, open_timeout=LONG, **options)


def whole_tensor(layer: str, step: int) -> np.ndarray:
    """The tensor of a step of all ranks together; wider from step to step."""
    rng = np.random.default_rng([zlib.crc32(layer.encode()), step])
    tensor = ((rng.integers(0, 2001, (ROWS, COLUMNS)) - 900) / 128 * (1 + step // 3)).astype(np.float32)
    if step % 4 == 2:
        tensor[rng.integers(ROWS), rng.integers(COLUMNS)] = np.nan
    return tensor


def given(ranks: int, rank: int, step: int) -> Dict[str, np.ndarray]:
    """What a rank gives for a step: its rows."""
    rows = slice(ROWS * rank // ranks, ROWS * (rank + 1) // ranks)
    return {layer: whole_tensor(layer, step)[rows] for layer in LAYERS}


def run_rank(worker: Rank, ranks: int, rank: int, first: int, last: int) -> None:
    """Steps `first` to `last` as one rank, in lock-step with the others."""
    for step in range(first, last + 1):
        result = worker.step(given(ranks, rank, step), step=step, timeout=LONG)
        assert (result.step, result.ranks, result.counted) == (step, ranks, True)
        assert tuple(result.layers) == LAYERS


def together(ranks: int, run: Callable[[int], None]) -> None:
    """Calls run(rank) on a thread for each rank; raises what the first one of them raised."""
    failures: List[Tuple[int, BaseException]] = []

    def guarded(rank: int) -> None:
        try:
            run(rank)
        except BaseException as error:
            failures.append((rank, error))

    threads = [threading.Thread(target=guarded, args=(rank,), daemon=True) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LONG)
        assert not thread.is_alive(), failures
    if failures:
        raise failures[0][1]


def statistics(connection: Connection, session: str) -> service.GetStatisticsResponse:
    return connection.unary("GetStatistics", service.GetStatisticsRequest(session=session))


def statistics_bytes(connection: Connection, session: str) -> bytes:
    return statistics(connection, session).SerializeToString(deterministic=True)


def expected_bytes(connection: Connection, steps: int, first: int = 1) -> bytes:
    """What a session holds after one rank gave these steps whole."""
    create_steps(connection, "expected", 1)
    with open_rank(connection, "expected", 0) as worker:
        for step in range(first, steps + 1):
            worker.step(given(1, 0, step), step=step - first + 1, timeout=LONG)
    return statistics_bytes(connection, "expected")


def synchronous_status(connection: Connection, session: str):
    request = service.GetSessionRequest(session=session)
    return connection.unary("GetSession", request).session.synchronous


def set_world(connection: Connection, session: str, expected_epoch: int, size: int) -> None:
    request = service.SetWorldRequest(session=session, expected_epoch=expected_epoch, world_size=size)
    assert connection.unary("SetWorld", request).world.epoch == expected_epoch + 1
