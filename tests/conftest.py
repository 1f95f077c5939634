"""Servers for all tests: one Valkey process for a run, empty for each test."""

from __future__ import annotations

import socket

import pytest

from fast_channels.layers import channel_layers
from fast_channels.testing.server import ValkeyServer


@pytest.fixture(scope="session")
def valkey():
    """A running server. A test that stops a server starts its own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def second_valkey():
    """Another running server, for layers on two hosts."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def redis_url(valkey):
    """The address of a server without any data."""
    empty(valkey)
    return valkey.url


@pytest.fixture
def registry():
    """The registry that consumers use, empty before and after the test."""
    channel_layers.clear()
    yield channel_layers
    channel_layers.clear()


def empty(server):
    """Delete everything on a server, without a client library."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(16).startswith(b"+OK")
