"""Layers of both kinds on servers that a test may stop, kill and reconfigure."""

from __future__ import annotations

import contextlib

import pytest

from fast_channels.layers import (
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)
from fast_channels.testing.server import ValkeyServer
from tests.chaos.servers import Authority

LAYERS = {
    "pubsub": RedisPubSubChannelLayer,
    "queue": RedisChannelLayer,
    "streams": RedisStreamsChannelLayer,
}


@pytest.fixture
def server():
    """A server that belongs to one test."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """A certificate authority for the tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def no_other_authorities(monkeypatch, tmp_path):
    """
    Trust only the authorities that a test names.

    The client library reads all authorities of the system for each connection. With OpenSSL 3
    that takes 60 ms, many times per test.
    """
    nobody = tmp_path / "nobody.pem"
    nobody.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(nobody))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))


@pytest.fixture(params=LAYERS)
def kind(request):
    """Each kind of layer in turn."""
    return request.param


@pytest.fixture
async def make_layer():
    """Make open layers, each of which looks like a process of its own to the servers."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(kind, hosts, **options):
            return await stack.enter_async_context(LAYERS[kind](hosts, **options))

        yield make
