"""Fixtures: a new layer for each test, and clients that end with it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from chat import app

from fast_channels import BaseChannelLayer, InMemoryChannelLayer, channel_layers
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import ValkeyServer

Join = Callable[..., Awaitable[WebsocketCommunicator]]


@pytest.fixture
async def layer() -> AsyncIterator[BaseChannelLayer]:
    """A layer for this test only, without messages of other tests."""
    async with InMemoryChannelLayer(history_size=100) as layer:
        yield layer


@pytest.fixture(autouse=True)
def registered(layer: BaseChannelLayer) -> Iterator[None]:
    """Register the layer under the alias of the consumers, and restore the registry afterwards."""
    before = {alias: channel_layers[alias] for alias in channel_layers.list_aliases()}
    channel_layers.clear()
    channel_layers.register("chat", layer)
    yield
    channel_layers.clear()
    for alias, original in before.items():
        channel_layers.register(alias, original)


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    """Connect clients to a path of the application; stop them at the end, even after a failure."""
    clients = []

    async def join(path: str, **options: Any) -> WebsocketCommunicator:
        client = WebsocketCommunicator(app, path, **options)
        clients.append(client)
        accepted, code = await client.connect(timeout=10)
        assert accepted, f"{path} was closed with {code}"
        return client

    yield join
    for client in clients:
        client.stop(exceptions=False)
    await asyncio.gather(*(client.future for client in clients), return_exceptions=True)


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """A real server for all tests of a run, on a free port, without files on disk."""
    with ValkeyServer() as server:
        yield server
