"""A server that a test may stop, and a client to inspect a server."""

from __future__ import annotations

import pytest
import redis

from fast_channels.testing.server import ValkeyServer


@pytest.fixture
def server():
    """A server that belongs to one test."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def client(redis_url):
    """A blocking client of the shared server."""
    with redis.Redis.from_url(redis_url) as client:
        yield client
