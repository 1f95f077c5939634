"""docs/recipes/exclude-the-sender.md."""

from __future__ import annotations

import pytest

from fast_channels.testing import ResumingCommunicator


@pytest.fixture
async def server(serve):
    return await serve("exclude-the-sender")


async def test_others_see_where_one_points_and_the_sender_gets_nothing(server):
    """The next frame of the sender comes from another client."""
    async with server.socket("/ws/pointers") as one, server.socket("/ws/pointers") as two:
        await one.send([1, 2])
        assert await two.next() == [1, 2]
        await two.send([3, 4])
        assert await one.next() == [3, 4]


async def test_who_comes_back_is_not_sent_its_own(load_recipe):
    """The client gets everything that others have drawn meanwhile, although its channel is new."""
    module = load_recipe("exclude-the-sender")
    async with module.channel_layers["board"] as layer:
        client = ResumingCommunicator(module.StrokeConsumer.as_asgi(), "/?client=mine")
        await client.connect()
        await client.receive_told()
        await client.cut()
        for sender in ("mine", "other's"):
            message = {"type": "stroke.drawn", "stroke": sender, "sender": sender}
            await layer.group_send("strokes", message)
        client = await client.again()
        frame = await client.receive_frame()
        assert (frame.data, frame.replay) == ('"other\'s"', True)
        assert await client.receive_nothing()
        await client.cut()
