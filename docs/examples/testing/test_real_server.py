"""Tests on a real server, with a second layer in place of another process."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest
from conftest import Join

from fast_channels import BaseChannelLayer, RedisPubSubChannelLayer, channel_layers
from fast_channels.testing.server import ValkeyServer


def made(server: ValkeyServer, prefix: str) -> RedisPubSubChannelLayer:
    return RedisPubSubChannelLayer(hosts=[server.url], prefix=prefix)


@pytest.fixture
def prefix() -> str:
    """A prefix of its own, so that tests on one server do not share groups."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
async def layer(valkey: ValkeyServer, prefix: str) -> AsyncIterator[BaseChannelLayer]:
    """Override the fixture: conftest.py registers this layer for the tests in this file."""
    async with made(valkey, prefix) as layer:
        yield layer


async def test_message_of_another_process_arrives(
    join: Join, valkey: ValkeyServer, prefix: str
) -> None:
    """Two layers on one server with one prefix behave like two processes."""
    ann = await join("/ws/room/lobby?token=token-of-ann")
    message = {"type": "chat.message", "who": "elsewhere", "text": "hello"}
    async with made(valkey, prefix) as other_process:
        await other_process.group_send("room.lobby", message)
    assert await ann.receive_json_from(timeout=5) == {"who": "elsewhere", "text": "hello"}


async def test_outage_is_told_to_channels(prefix: str) -> None:
    """A test that kills its server starts one of its own."""
    with ValkeyServer() as server:
        async with made(server, prefix) as layer:
            channel_layers.register("chat", layer)
            mailbox = await layer.open_channel()
            await layer.group_add("room.lobby", mailbox.name)
            server.kill()
            server.start()
            async with asyncio.timeout(10):
                gap = await mailbox.get()
            assert (gap["type"], gap["groups"]) == ("layer.gap", ["room.lobby"])
            assert gap["recovered"] is False
