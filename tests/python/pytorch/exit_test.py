"""What was watched is handed over when a process ends without having closed anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import calibd  # noqa: E402

TIMEOUT = 120

WATCH = """
import multiprocessing, sys
import torch, calibd, calibd.torch

def work():
    global watcher
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())
    session = calibd.connect(sys.argv[1]).session("exit")
    watcher = calibd.torch.watch(model, session, weights=False)
    model(torch.ones(5, 3))
    if sys.argv[3] == "after a hand-over":
        watcher._collector.hand_over()
        model(torch.ones(5, 3))

if sys.argv[2] == "process":
    work()
else:
    child = multiprocessing.get_context(sys.argv[2]).Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
"""


@pytest.mark.parametrize("batches, when", [(1, "before any hand-over"), (2, "after a hand-over")])
@pytest.mark.parametrize("how", ["process", "fork"])
def test_nothing_is_lost_at_exit(server, how, batches, when):
    with calibd.connect(server.address) as client:
        session = client.create_session("exit")
        subprocess.run([sys.executable, "-c", WATCH, server.address, how, when], check=True, timeout=TIMEOUT)
        found = session.statistics()
    assert {name: layer.values() for name, layer in found.items()} == {"0": batches * 10, "1": batches * 10}


AWAY = """
import sys
import torch, calibd, calibd.torch

session = calibd.connect(sys.argv[1], exit_timeout=0.1).session("exit", open_timeout=0.1)
session.config
print("known", flush=True)
input()
model = torch.nn.Linear(3, 2)
watcher = calibd.torch.watch(model, session, weights=False)
model(torch.ones(5, 3))
"""


def errors_without_server(server, script):
    """What a script, which waits for a line once it has the session, says on standard error when it goes on alone."""
    command = [sys.executable, "-c", script, server.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "known\n"
            server.kill()
            _, errors = process.communicate("\n", timeout=TIMEOUT)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    return errors


def test_what_is_lost_at_exit_is_said(server):
    with calibd.connect(server.address) as client:
        client.create_session("exit")
    errors = errors_without_server(server, AWAY)
    assert "what was observed last may be lost; close the watcher before: cannot reach calibd" in errors
    assert "is kept" not in errors


FULL = """
import sys
import torch, calibd
from calibd.torch.collector import Collector

session = calibd.connect(sys.argv[1], exit_timeout=0.1).session("exit", raw_window_bytes=1 << 20)
collector = Collector(session, interval=0.01, on_device=True)
step = torch.randn(500, 20)
collector.observe("a", step)
collector.hand_over()
session.flush()
print("known", flush=True)
input()
for _ in range(400):
    collector.observe("a", step)
"""


def test_a_process_ends_though_its_session_has_no_room_and_no_server(server):
    rule = calibd.Rule("*", calibd.Observer("ema", channel_axis=0))
    with calibd.connect(server.address) as client:
        client.create_session("exit", rules=[rule])
    errors = errors_without_server(server, FULL)
    assert "what was observed last may be lost; close the watcher before: the session has not taken it" in errors
