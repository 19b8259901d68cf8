"""Ranks as processes, which are killed and started again like their server: every step has every rank once."""

from __future__ import annotations

import pathlib
import random
import subprocess
import sys

from calibd.channel import Connection
from rank_support import (
    LONG,
    create_steps,
    expected_bytes,
    open_rank,
    run_rank,
    statistics_bytes,
    synchronous_status,
    together,
)

RANKS = 3


class Process:
    """A rank as a process."""

    def __init__(self, address: str, rank: int, steps: int) -> None:
        worker = pathlib.Path(__file__).with_name("rank_worker.py")
        command = [sys.executable, worker, address, "s", str(RANKS), str(rank), str(steps)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def await_step(self) -> bool:
        """Returns once it has the result of its next step; False when there is none."""
        return bool(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LONG)
        self.process.stdout.close()

    def end(self) -> None:
        self.process.communicate(timeout=LONG)
        assert self.process.returncode == 0


def test_ranks_and_their_server_are_killed_and_started_again(start_server, tmp_path):
    steps = 40
    server = start_server("--store", f"rocksdb:{tmp_path}/store")
    connection = Connection(server.address)
    create_steps(connection, "s", RANKS)
    choices = random.Random(1)
    ranks = [Process(server.address, rank, steps) for rank in range(RANKS)]
    try:
        for _ in range(8):
            victim = choices.randrange(RANKS + 1)
            for _ in range(1 + choices.randrange(3)):
                ranks[victim % RANKS].await_step()
            if victim == RANKS:
                server.kill()
                server.start()
            else:
                ranks[victim].kill()
                ranks[victim] = Process(server.address, victim, steps)
        for rank in ranks:
            rank.end()
    finally:
        for rank in ranks:
            rank.kill()
    status = synchronous_status(connection, "s")
    assert status.folded_step == status.durable_step == steps
    assert statistics_bytes(connection, "s") == expected_bytes(connection, steps)


def test_a_restarted_server_gets_more_than_a_window_again(start_server, tmp_path):
    # Nothing becomes durable without being asked for.
    server = start_server("--store", f"rocksdb:{tmp_path}/store", "--checkpoint-interval", "1h")
    connection = Connection(server.address)
    create_steps(connection, "s", RANKS, window=2)
    workers = [open_rank(connection, "s", rank) for rank in range(RANKS)]
    for turn in range(3):
        together(RANKS, lambda rank, first=7 * turn + 1: run_rank(workers[rank], RANKS, rank, first, first + 6))
        server.kill()
        server.start()
    together(RANKS, lambda rank: workers[rank].flush(LONG))
    for worker in workers:
        assert worker.next_step == 22
        assert worker.stats().reconnections >= 3
        worker.close(LONG)
    assert statistics_bytes(connection, "s") == expected_bytes(connection, 21)


def test_memory_is_bounded_while_nothing_becomes_durable(start_server, tmp_path):
    server = start_server("--store", f"rocksdb:{tmp_path}/store", "--checkpoint-interval", "1h")
    connection = Connection(server.address)
    create_steps(connection, "s", 1)
    with open_rank(connection, "s", 0, kept_bytes=20000) as worker:
        for step in range(1, 31):
            run_rank(worker, 1, 0, step, step)
            assert worker.stats().kept_bytes <= 22000
        assert worker.stats().durable_step > 10
