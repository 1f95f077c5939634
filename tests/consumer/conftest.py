"""Layers under the alias that the consumers of these tests use."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from fast_channels.layers import InMemoryChannelLayer, channel_layers
from fast_channels.testing import ResumingCommunicator, WebsocketCommunicator
from tests.consumer.support import ALIAS, Clock, FragileLayer, until


@contextlib.asynccontextmanager
async def registered(layer):
    """Open and register a layer; check at the end that all channels, groups and tasks are gone."""
    async with layer:
        channel_layers.register(ALIAS, layer)
        tasks = asyncio.all_tasks()
        try:
            yield layer
        finally:
            channel_layers.unregister(ALIAS)
        await until(lambda: asyncio.all_tasks() - tasks <= {asyncio.current_task()})
        statistics = layer.statistics()
        assert (statistics.channels, statistics.groups, statistics.members) == (0, 0, 0)


@pytest.fixture
async def layer():
    async with registered(InMemoryChannelLayer()) as layer:
        yield layer


@pytest.fixture
async def small_layer():
    """A layer with a capacity of three messages per channel."""
    async with registered(InMemoryChannelLayer(capacity=3)) as layer:
        yield layer


@pytest.fixture
async def closing_layer():
    """A layer with a capacity of three messages; further messages close the channel."""
    async with registered(InMemoryChannelLayer(capacity=3, overflow="close")) as layer:
        yield layer


@pytest.fixture
async def durable_layer():
    """A layer that keeps ten messages of each group, with a capacity of five."""
    async with registered(InMemoryChannelLayer(history_size=10, capacity=5)) as layer:
        yield layer


@pytest.fixture
async def remembering_layer():
    """A layer that keeps a hundred messages of each group."""
    async with registered(InMemoryChannelLayer(history_size=100)) as layer:
        yield layer


@pytest.fixture
async def fragile_layer():
    async with registered(FragileLayer()) as layer:
        yield layer


@contextlib.asynccontextmanager
async def opening(kind):
    """
    Give a function that opens a WebSocket with a kind of communicator; stop the rest at the
    end.
    """
    opened = []

    async def open_websocket(application, path="/", **options):
        communicator = kind(application, path, **options)
        opened.append(communicator)
        accepted, _ = await communicator.connect()
        assert accepted
        return communicator

    yield open_websocket
    # Only a failed test leaves any of them running.
    for communicator in opened:
        communicator.stop(exceptions=False)
        await asyncio.gather(communicator.future, return_exceptions=True)


@pytest.fixture
async def connect():
    """Open a WebSocket to an application and return its communicator."""
    async with opening(WebsocketCommunicator) as connect:
        yield connect


@pytest.fixture
async def resume():
    """Open a WebSocket like `connect`, as a client that speaks the resume protocol."""
    async with opening(ResumingCommunicator) as resume:
        yield resume


@pytest.fixture
async def clock(monkeypatch):
    """A clock in place of the loop's time, which stands still until a test moves it."""
    return Clock(asyncio.get_running_loop(), monkeypatch)
