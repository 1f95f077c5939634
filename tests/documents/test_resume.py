"""The code of docs/resume.md works as it is written."""

from __future__ import annotations

import textwrap

from websockets.asyncio.server import serve

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.position import History
from fast_channels.testing import ResumingCommunicator
from tests.documents.support import ROOT, block_with

PAGE = ROOT / "docs" / "resume.md"


async def test_chat_of_the_page_misses_nothing(registry):
    """The client receives missed messages, and a notice if the history has lost them."""
    names = {}
    exec(block_with(PAGE, "resumable = "), names)
    layer = registry["chat"]
    async with layer:
        client = ResumingCommunicator(names["DurableChat"].as_asgi(), "/")
        assert await client.connect() == (True, "fast-channels.resume.v1")
        await client.receive_told()
        await client.cut()
        await layer.group_send("lobby", {"type": "chat.message", "text": "hello"})
        client = await client.again()
        assert await client.receive_from() == "hello"
        await client.cut()
        for n in range(1001):
            await layer.group_send("lobby", {"type": "chat.message", "text": str(n)})
        client = await client.again()
        assert await client.receive_from() == "You were away for too long: please reload."
        await client.cut()


async def test_client_of_the_page_prints_each_frame(capsys):
    """The client listens until the server closes."""

    async def serve_one(connection):
        await connection.send("hello")

    names = {}
    exec(block_with(PAGE, "fast_channels.client"), names)
    async with serve(serve_one, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await names["listen"](f"ws://127.0.0.1:{port}")
    assert capsys.readouterr().out.split() == ["hello"]


async def test_history_of_the_page_is_read(registry):
    """The block runs as it stands; a channel that joins with the position has missed nothing."""
    block = block_with(PAGE, "layer.join(")
    function = "async def example(layer, channel):\n" + textwrap.indent(block, "    ")
    space: dict = {}
    exec(function + "    return missed, joined, position\n", space)
    async with InMemoryChannelLayer(history_size=10) as layer:
        inbox = await layer.open_channel()
        missed, joined, position = await space["example"](layer, inbox.name)
    assert missed == joined == History([], recovered=True, position=position)
