"""The library that `make shake` preloads changes order and timing of events."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fast_channels.testing.server import ValkeyServer

SOURCE = Path(__file__).with_name("shake.c")

# Only `make shake` needs a compiler; all other tests must pass on a machine without one.
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("shake") / "shake.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, SOURCE, "-ldl", "-lpthread"], check=True)
    return path


@pytest.fixture
def shaken(library, monkeypatch):
    """Make a server under the preloaded library."""
    monkeypatch.setenv("LD_PRELOAD", str(library))

    def make(**settings):
        for name, value in settings.items():
            monkeypatch.setenv(f"SHAKE_{name}", str(value))
        return ValkeyServer()

    return make


def test_commands_of_two_connections_change_places(shaken):
    """Commands of two connections are executed out of order now and then; none is lost."""
    with shaken(PAUSES=0.5) as server:
        address = ("127.0.0.1", server.port)
        with socket.create_connection(address) as one, socket.create_connection(address) as other:
            overtaken = False
            for _ in range(500):
                one.sendall(b"SET key first\r\n")
                other.sendall(b"SET key second\r\n")
                assert one.recv(64) == other.recv(64) == b"+OK\r\n"
                one.sendall(b"GET key\r\n")
                overtaken = b"first" in one.recv(64)
                if overtaken:
                    break
    assert overtaken


def test_process_stands_still(shaken):
    """The process stops for the configured time."""
    with shaken(PAUSES=1, SECONDS=0.2) as server:
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port)) as one:
            for _ in range(10):
                one.sendall(b"PING\r\n")
                assert one.recv(64) == b"+PONG\r\n"
        # Each of the two waits takes a tenth of a second on average.
        assert time.monotonic() - began > 0.5
