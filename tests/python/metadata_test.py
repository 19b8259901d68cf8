"""Credentials and metadata of calls, and the functions of callers that make it."""

from __future__ import annotations

import shutil
import subprocess

import calibd
import grpc
import numpy as np
import pytest
from calibd.channel import Connection
from calibd.errors import InvalidArgumentError, UnavailableError
from calibd.rank import Rank
from calibd.worker import Worker
from rank_support import LONG, create_steps
from scripted_server import ScriptedServer, Stream

ONES = np.ones(10, np.float32)
SECRET = "Bearer secret"


class Refresh:
    """Raises at the calls whose numbers it is given, from 1 on."""

    def __init__(self, *failing):
        self.calls = 0
        self._failing = failing

    def __call__(self):
        self.calls += 1
        if self.calls in self._failing:
            raise ValueError("no token today")
        return [("authorization", SECRET)]


def always_failing():
    raise ValueError("no token today")


@pytest.mark.parametrize("metadata", [[("authorization", SECRET)], lambda: [("authorization", SECRET)]])
def test_metadata_goes_with_every_kind_of_call(metadata):
    def durable_when_asked(stream):
        stream.welcome()
        unit = stream.next_update().last
        stream.ack(unit, 0)
        scripted.flushed.wait(LONG)
        stream.ack(unit, unit)
        stream.await_end()

    scripted = ScriptedServer(durable_when_asked)
    with calibd.connect(scripted.address, metadata=metadata) as client:
        client.health(LONG)
        session = client.session("s")
        session.observe("a", ONES)
        session.flush(LONG)
        assert session.export("json").data == b""
    assert sorted(scripted.metadata) == ["Export", "Flush", "Health", "Observe"]
    for sent in scripted.metadata.values():
        assert sent["authorization"] == SECRET
    scripted.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the certificate is made by openssl")
def test_credentials_are_used(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True, timeout=LONG)
    pair = (key.read_bytes(), certificate.read_bytes())
    scripted = ScriptedServer(Stream.await_end, credentials=grpc.ssl_server_credentials([pair]))
    credentials = grpc.ssl_channel_credentials(root_certificates=certificate.read_bytes())
    with calibd.connect(scripted.address, credentials=credentials) as client:
        client.health(LONG)
    with calibd.connect(scripted.address) as plain, pytest.raises(UnavailableError):
        plain.health(0.3)
    scripted.stop()


@pytest.mark.parametrize(
    "metadata",
    [
        [("Authorization", SECRET)],
        [("authorization", SECRET + "\n")],
        [("authorization", SECRET), ("number", 7)],
        [SECRET],
    ],
)
def test_what_can_not_be_sent_is_said_without_its_value(server, metadata):
    with pytest.raises(InvalidArgumentError) as caught:
        calibd.connect(server.address, metadata=metadata)
    with calibd.connect(server.address, metadata=lambda: metadata) as client:
        with pytest.raises(InvalidArgumentError) as late:
            client.sessions()
        with pytest.raises(InvalidArgumentError) as observing:
            Worker(client.connection, "s").observe("a", ONES)
    for error in (caught, late, observing):
        assert "metadata" in str(error.value) and "secret" not in str(error.value)


def test_binary_values_may_be_anything(server):
    with calibd.connect(server.address, metadata=[("token-bin", b"\x00\xff")]) as client:
        client.health()


def test_a_call_says_that_the_function_raised(server):
    with calibd.connect(server.address, metadata=Refresh(1)) as client:
        with pytest.raises(UnavailableError, match="the metadata function raised ValueError: no token today"):
            client.sessions()
        assert client.sessions() == []


def test_a_worker_outlives_a_refresh_that_fails(server):
    client = calibd.connect(server.address)
    client.create_session("s")
    refresh = Refresh(1, 2)
    worker = Worker(Connection(server.address, metadata=refresh), "s", min_backoff=0.001, max_backoff=0.01)
    worker.observe("a", ONES)
    worker.close(LONG)
    assert refresh.calls >= 3 and client.session("s").describe().values == 10


def test_a_rank_outlives_a_refresh_that_fails(server):
    connection = Connection(server.address)
    create_steps(connection, "s", 1)
    refresh = Refresh(1, 2)
    with Rank(Connection(server.address, metadata=refresh), "s", 0, min_backoff=0.001, max_backoff=0.01) as rank:
        assert rank.step({"a": ONES}, timeout=LONG).step == 1
    assert refresh.calls >= 3


def test_the_last_error_of_the_function_is_told(server):
    connection = Connection(server.address, metadata=always_failing)
    with pytest.raises(UnavailableError, match="the metadata function raised"):
        Worker(connection, "s", open_timeout=0.1).observe("a", ONES)
    with pytest.raises(UnavailableError, match="the metadata function raised"):
        Rank(connection, "s", 0, open_timeout=0.1)
