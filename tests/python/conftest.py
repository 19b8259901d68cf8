"""Servers for tests, of the programs in build/bin (or the environment's CALIBD_BIN)."""

from __future__ import annotations

import os
import pathlib

import calibd
import pytest
from calibd_server import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def programs():
    """The folder of calibd and calibctl."""
    return pathlib.Path(os.environ.get("CALIBD_BIN") or ROOT / "build" / "bin")


@pytest.fixture
def start_server(programs):
    """start_server(OPTION...): a server with these options."""
    servers = []

    def start(*options):
        servers.append(Server(programs, options or ("--store", "memory")))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def server(start_server, tmp_path):
    """A server of its own, which remembers when it is started again."""
    return start_server("--store", f"rocksdb:{tmp_path}/store")


@pytest.fixture
def client(server):
    """A client of `server`."""
    with calibd.connect(server.address) as client:
        yield client
