"""Timeouts: none and infinity are no limit, in every call that takes one."""

import math
import subprocess
import sys

import calibd
import numpy as np
import pytest
from calibd import deadline
from calibd.worker import Worker
from scripted_server import LONG

ONES = np.ones(10, np.float32)


@pytest.mark.parametrize("no_limit", [None, math.inf, 1e300, 1e9])
def test_no_limit_is_no_limit_everywhere(server, no_limit):
    with calibd.connect(server.address, timeout=no_limit, exit_timeout=no_limit) as client:
        client.health(no_limit)
        session = client.create_session("s")
        session.observe("a", ONES)
        session.flush(no_limit)
        assert session.qparams(timeout=no_limit)[0].count == 10
        assert session.compare(timeout=no_limit)
        assert session.export("json", timeout=no_limit).layers == ("a",)
        session.close(no_limit)
        ranked = client.create_session("steps", world_size=1, rank=0)
        assert ranked.step({"a": ONES}, timeout=no_limit).step == 1
        ranked.flush(no_limit)
        ranked.close(no_limit)
        with Worker(client.connection, "s", open_timeout=no_limit) as worker:
            worker.observe("a", ONES)
            worker.flush(no_limit)
        client.close(no_limit)


def test_without_a_word_calls_have_the_time_of_the_connection(server):
    server.stop()
    with calibd.connect(server.address, timeout=0.1) as client:
        for call in (client.health, client.session("s").qparams, client.session("s").compare):
            with pytest.raises(calibd.UnavailableError):
                call()


@pytest.mark.parametrize("no_limit", ["None", "float('inf')"])
def test_the_exit_of_a_process_may_take_any_time(server, client, no_limit):
    program = (
        "import calibd, numpy as np\n"
        f"session = calibd.connect('{server.address}', exit_timeout={no_limit}).create_session('s')\n"
        "session.observe('a', np.ones(10, np.float32))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LONG)
    assert (done.returncode, done.stderr) == (0, "")
    assert client.session("s").qparams()[0].count == 10


@pytest.mark.parametrize("bad", ["1", math.nan, [1]])
def test_what_is_no_timeout_changes_nothing(client, bad):
    session = client.create_session("s")
    session.observe("a", ONES)
    ranked = client.create_session("steps", world_size=1, rank=0)
    for call in (
        session.flush,
        session.close,
        client.close,
        client.health,
        lambda timeout: session.qparams(timeout=timeout),
        lambda timeout: session.export("json", timeout=timeout),
        lambda timeout: ranked.step({"a": ONES}, timeout=timeout),
    ):
        with pytest.raises(calibd.InvalidArgumentError, match="timeout is .*number of seconds, or None"):
            call(bad)
    session.observe("a", ONES)
    session.flush()
    assert session.qparams()[0].count == 20


@pytest.mark.parametrize("option", ["timeout", "exit_timeout"])
@pytest.mark.parametrize("bad", ["5", -1, math.nan])
def test_options_that_are_no_timeouts_are_refused_by_connect(option, bad):
    with pytest.raises(calibd.InvalidArgumentError, match=f"^{option} is .*None for no limit"):
        calibd.connect("127.0.0.1:1", **{option: bad})


def test_what_is_left_is_never_below_nothing():
    assert deadline.remaining(deadline.deadline_in(-5)) == 0
    assert deadline.remaining(deadline.deadline_in(None)) is None
    assert deadline.remaining(deadline.deadline_in(math.inf)) is None
