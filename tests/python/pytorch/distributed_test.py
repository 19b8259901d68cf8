"""Ranks of torch.distributed share a session with one call."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import calibd  # noqa: E402
from calibd.errors import AlreadyExistsError  # noqa: E402
from calibd.torch import distributed_session, rank_and_world_size  # noqa: E402

WORKER = pathlib.Path(__file__).with_name("gloo_worker.py")
TIMEOUT = 120


def run(address, rendezvous, world_size):
    processes = [
        subprocess.Popen(
            [sys.executable, str(WORKER), address, str(rendezvous), str(rank), str(world_size)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        for process in processes:
            assert process.communicate(timeout=TIMEOUT)[0] == "done\n"
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")
def test_two_gloo_ranks_give_what_one_process_gives(server, tmp_path):
    for world_size in (1, 2):
        run(server.address, tmp_path / "rendezvous", world_size)
    with calibd.connect(server.address) as client:
        one, two = (client.session(f"watched-{world_size}") for world_size in (1, 2))
        for method in ("minmax", "mse"):
            expected, found = one.qparams(method=method), two.qparams(method=method)
            assert [layer.layer for layer in found] == [layer.layer for layer in expected]
            assert "head" in [layer.layer for layer in found]
            for a, b in zip(expected, found):
                assert (a.scale.tolist(), a.zero_point.tolist()) == (b.scale.tolist(), b.zero_point.tolist())
                assert (a.count, a.min, a.max, a.mse) == (b.count, b.min, b.max, b.mse)
        assert max(layer.workers for layer in two.qparams()) == 2
        assert [worker.connected for worker in two.describe().workers] == [False, False]


def test_rank_and_world_size(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert rank_and_world_size() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert rank_and_world_size() == (3, 8)


def test_another_world_size_is_refused(server, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with calibd.connect(server.address) as client:
        distributed_session(client, "steps", synchronous=True)
        monkeypatch.setenv("WORLD_SIZE", "4")
        with pytest.raises(AlreadyExistsError):
            distributed_session(client, "steps", synchronous=True)
