from __future__ import annotations

import pytest

from fast_channels.layers import InMemoryChannelLayer, RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.testing.server import ValkeyServer

REDIS_LAYERS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


@pytest.fixture(scope="session")
def server():
    with ValkeyServer() as running:
        yield running


@pytest.fixture(params=REDIS_LAYERS)
def kind(request):
    return request.param


@pytest.fixture
def redis_layer(kind, server):
    """Make layers of one kind, all on the same server."""
    return lambda **options: REDIS_LAYERS[kind](hosts=[server.url], **options)


@pytest.fixture(params=["in_memory", *REDIS_LAYERS])
async def layer(request, server):
    """An open layer of each kind."""
    if request.param == "in_memory":
        made = InMemoryChannelLayer()
    else:
        made = REDIS_LAYERS[request.param](hosts=[server.url])
    async with made:
        yield made
        await made.flush()
