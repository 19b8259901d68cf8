"""Processes that fork: parent and child both go on, each with a worker of its own."""

import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref

import calibd
import numpy as np
import pytest
from calibd import fork

ONES = np.ones(1000, np.float32)
LIMIT = 60.0
needs_support = pytest.mark.skipif(not fork.SUPPORTED, reason="this grpcio can't call in forked children")


@pytest.fixture(autouse=True)
def no_warning_of_threads():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks beside threads
        yield


def in_child(function, *arguments):
    """Runs it in a forked child; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    process.join(LIMIT)
    if process.exitcode is None:
        process.kill()
        process.join(LIMIT)
        pytest.fail("the child hangs")
    return process.exitcode


def counts(session):
    return {layer.layer: layer.count for layer in session.describe().layers}


@needs_support
def test_a_child_observes_and_the_parent_goes_on(client):
    session = client.create_session("s")
    session.observe("parent", ONES)

    def child():
        session.observe("child", ONES)
        session.flush(LIMIT)

    for _ in range(3):
        assert in_child(child) == 0
        session.observe("parent", ONES)
    session.flush(LIMIT)
    assert counts(session) == {"parent": 4000, "child": 3000}
    assert len(session.describe().workers) == 4


def test_what_the_parent_has_not_sent_is_the_parents(start_server):
    server = start_server("--store", "memory")
    with calibd.connect(server.address) as client:
        session = client.create_session("s")
        session.observe("parent", ONES)

        def child():
            session.close(LIMIT)

        assert in_child(child) == 0
        session.flush(LIMIT)
        assert counts(session) == {"parent": 1000}


@needs_support
def test_a_child_that_ends_without_flush_sends_what_it_observed(client):
    session = client.create_session("s")
    session.observe("parent", ONES)
    assert in_child(session.observe, "child", ONES) == 0
    session.flush(LIMIT)
    assert counts(session) == {"parent": 1000, "child": 1000}


def test_a_child_of_a_parent_that_has_not_called_yet(server):
    program = f"""
        import multiprocessing
        import calibd, numpy as np

        client = calibd.connect({server.address!r})
        session = client.session("s")

        def work():
            session.observe("child", np.ones(1000, np.float32))
            session.flush({LIMIT})

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join({LIMIT})
        assert child.exitcode == 0
        session.observe("parent", np.ones(1000, np.float32))
        client.close()
    """
    with calibd.connect(server.address) as client:
        session = client.create_session("s")
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=2 * LIMIT)
        assert counts(session) == {"child": 1000, "parent": 1000}


@pytest.mark.skipif(fork.SUPPORTED, reason="this grpcio calls in forked children")
def test_a_child_that_can_make_no_call_says_so_and_the_parent_goes_on(client):
    session = client.create_session("s")
    session.observe("parent", ONES)

    def child():
        for call in (lambda: session.observe("child", ONES), session.describe):
            with pytest.raises(calibd.FailedPreconditionError, match="use 1.80 or newer"):
                call()

    for _ in range(20):
        assert in_child(child) == 0
        session.observe("parent", ONES)
    session.flush(LIMIT)
    assert counts(session) == {"parent": 21000}


def test_a_child_ends_as_a_program_does_with_what_it_inherited(server):
    code, said = exit_of(
        server,
        f"""
        import os, sys
        pid = os.fork()
        if pid == 0:
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        session.observe('a', np.ones(1000, np.float32))
        session.flush({LIMIT})
        """,
    )
    assert code == 0, said
    with calibd.connect(server.address) as client:
        assert counts(client.session("s")) == {"a": 2000}


@needs_support
def test_a_child_looks_at_steps_and_leaves_the_rank_to_its_parent(client):
    session = client.create_session("s", world_size=1, rank=0)
    session.step({"a": ONES}, timeout=LIMIT)

    def child():
        assert session.next_step == 2 and session.world == (1, 1)
        with pytest.raises(calibd.FailedPreconditionError, match="forked"):
            session.step({"a": ONES}, timeout=LIMIT)

    assert in_child(child) == 0
    assert session.step({"a": ONES}, timeout=LIMIT).step == 2


def exit_of(server, body):
    """Runs a program that has `session`; its exit code and what it said on stderr."""
    program = (
        "import calibd, numpy as np\n"
        f"client = calibd.connect({server.address!r}, timeout=5, exit_timeout=5)\n"
        "session = client.create_session('s')\n"
        "session.observe('a', np.ones(1000, np.float32))\n"
    ) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT)
    return done.returncode, done.stderr


def test_a_process_that_ends_sends_what_it_observed(server):
    assert exit_of(server, "") == (0, "")
    with calibd.connect(server.address) as client:
        assert counts(client.session("s")) == {"a": 1000}


def test_an_open_session_takes_what_functions_of_atexit_observe(server):
    program = (
        "import atexit, calibd, numpy as np\n"
        f"session = calibd.connect({server.address!r}).create_session('s')\n"
        "session.open()\n"
        "atexit.register(lambda: session.observe('a', np.ones(1000, np.float32)))\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT)
    with calibd.connect(server.address) as client:
        assert counts(client.session("s")) == {"a": 1000}


def test_a_process_that_ends_without_its_server_says_what_is_lost(server):
    code, said = exit_of(
        server,
        f"""
        session.flush()
        client._exit_timeout = 0.2
        other = client.session("s")
        other.observe("b", np.ones(3, np.float32))
        other.flush()
        import os, signal
        os.kill({server.process.pid}, signal.SIGKILL)
        other.observe("b", np.ones(3, np.float32))
        """,
    )
    assert code == 0
    assert "session s may be lost" in said


class Told(fork.Forkable):
    """Writes down what it is told."""

    def __init__(self):
        self.events = []
        fork.register(self)

    def before_fork(self):
        self.events.append("before")

    def after_fork_in_parent(self):
        self.events.append("parent")


def test_a_fork_leaves_no_closed_channel_behind(client):
    connection = client.connection
    client.health()
    channel = weakref.ref(connection._channel)
    connection.before_fork()
    connection.after_fork_in_parent()
    gc.collect()
    assert channel() is None
    client.health()


def test_what_is_made_while_a_fork_begins_is_not_told_of_its_end():
    late = []

    class Maker(Told):
        def before_fork(self):
            super().before_fork()
            late.append(Told())

    maker = Maker()
    fork._before()
    fork._after_in_parent()
    assert maker.events == ["before", "parent"] and late[0].events == []


def test_forks_while_another_thread_makes_sessions():
    many = [Told() for _ in range(3000)]  # one look at all of them takes a while
    stop = threading.Event()

    def make():
        while not stop.is_set():
            Told()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=make)
    thread.start()
    try:
        for _ in range(10):
            fork._before()
            fork._after_in_parent()
    finally:
        stop.set()
        thread.join(LIMIT)
        sys.setswitchinterval(interval)
    assert many[0].events == many[-1].events == ["before", "parent"] * 10


def test_forks_while_another_thread_calls(client):
    session = client.create_session("s")
    session.observe("parent", ONES)
    session.flush(LIMIT)
    stop, failures = threading.Event(), []

    def ask():
        while not stop.is_set():
            try:
                session.qparams()
            except calibd.CalibdError as error:
                failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        session.observe("parent", ONES)
        session.flush(LIMIT)
    finally:
        stop.set()
        thread.join(LIMIT)
    assert not failures and counts(session) == {"parent": 2000}
