#!/usr/bin/env python3
"""A worker of the crash tests (tests/e2e/crash/README.md) that observes with NumPy.

Takes the options of crash_worker.cc, writes its log, and goes on by its rules.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import subprocess
import sys
from typing import BinaryIO, List, Tuple

import numpy as np
from calibd.channel import Connection
from calibd.errors import CalibdError, DeadlineExceededError
from calibd.rpc import calibration_service_pb2 as service
from calibd.worker import Worker

LONG = 300.0  # seconds that nothing takes
CRASH_STEPS = pathlib.Path(__file__).resolve().parents[2] / "build" / "bin" / "crash_steps"


class Log:
    """The log's lines are written at once: this process may be killed at any time."""

    def __init__(self, path: str) -> None:
        self._files = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644), 1]

    def write(self, line: str) -> None:
        for file in self._files:
            os.write(file, f"{line}\n".encode())


def parse(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for option in ("--server", "--session", "--log"):
        parser.add_argument(option, required=True)
    for option in ("--worker", "--seed", "--steps"):
        parser.add_argument(option, required=True, type=int)
    parser.add_argument("--flush-every", type=int, default=1)
    parser.add_argument("--crash-steps", default=str(CRASH_STEPS), help="the program that knows the steps")
    return parser.parse_args(arguments)


def open_settled(connection: Connection, options: argparse.Namespace) -> Worker:
    """The worker, where what the server has of it is durable: then it is known for good which steps are done."""
    while True:
        worker = Worker(
            connection,
            options.session,
            worker_id=f"worker-{options.worker}",
            send_interval=0.001,
            min_backoff=0.005,
            max_backoff=0.1,
            open_timeout=LONG,
        )
        assert worker.config is not None
        stats = worker.stats()
        if stats.applied == stats.durable:
            return worker
        worker.abandon()
        connection.unary("Flush", service.FlushRequest(session=options.session))


def next_step(steps: BinaryIO) -> Tuple[str, np.ndarray]:
    """Layer and array of the next step."""
    layer, rows, columns = steps.readline().decode().split()
    size = int(rows) * int(columns)
    array = np.frombuffer(steps.read(4 * size), "<f4")
    assert len(array) == size, "crash_steps ended"
    return layer, array.reshape(int(rows), int(columns))


def flush(worker: Worker) -> None:
    while True:
        try:
            return worker.flush()
        except DeadlineExceededError:
            pass


def take_steps(connection: Connection, options: argparse.Namespace) -> None:
    worker = open_settled(connection, options)
    done = worker.stats().durable  # units, which are steps when each is flushed
    if done > 0 and options.flush_every != 1:
        raise SystemExit("crash_worker.py: a worker that merges steps can't tell where an earlier process stopped")
    log = Log(options.log)
    log.write(f"durable {done}")
    command = [options.crash_steps, "--worker", str(options.worker), "--seed", str(options.seed)]
    command += ["--first", str(done + 1)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        for number in range(done + 1, options.steps + 1):
            layer, array = next_step(program.stdout)
            log.write(f"begin {number}")
            worker.observe(layer, array)
            if number % options.flush_every == 0:
                flush(worker)
                log.write(f"durable {number}")
        program.kill()
    worker.close()
    log.write("done")


def main() -> int:
    options = parse(sys.argv[1:])
    try:
        take_steps(Connection(options.server, timeout=LONG), options)
    except CalibdError as error:
        print(f"crash_worker.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
