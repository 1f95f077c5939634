"""Layers of both kinds on servers that a test may do anything to."""

from __future__ import annotations

import contextlib

import pytest

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.testing.server import ValkeyServer

LAYERS = {"pubsub": RedisPubSubChannelLayer, "queue": RedisChannelLayer}


@pytest.fixture
def server():
    """A server of this test's own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(params=LAYERS)
def kind(request):
    """Each kind of layer in turn."""
    return request.param


@pytest.fixture
async def make_layer():
    """Makes open layers, each a process of its own as far as servers can tell."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(kind, hosts, **options):
            return await stack.enter_async_context(LAYERS[kind](hosts, **options))

        yield make
