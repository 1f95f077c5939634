"""The code of docs/fan-out.md works as it is written, on the chat of README.md."""

from __future__ import annotations

import json
import re
import statistics

import pytest
from websockets.asyncio.client import connect

from fast_channels.testing import WebsocketCommunicator
from tests.documents.support import README, ROOT, block_with, served

PAGE = ROOT / "docs" / "fan-out.md"


async def test_chat_runs_on_the_protocol_of_the_page(tmp_path):
    """The command that names it starts the same chat."""
    (tmp_path / "chat.py").write_text(block_with(README, "# chat.py"))
    with served(tmp_path, block_with(PAGE, "CoalescingWebSocketProtocol", "console")) as port:
        async with connect(f"ws://127.0.0.1:{port}/ws/chat") as client:
            await client.send("hello")
            assert await client.recv() == "hello"


async def test_chat_that_forwards_does_the_same(registry):
    """The class replaces that of the README, and both clients read a message."""
    forwarding = block_with(PAGE, "forwards = ")
    consumer = forwarding[forwarding.index("class ") :]
    first = re.compile(r"^class ChatConsumer.*?(?=^app = )", re.DOTALL | re.MULTILINE)
    source, replaced = first.subn(f"{consumer}\n\n", block_with(README, "# chat.py"))
    assert replaced == 1
    space: dict = {}
    exec(source, space)
    one, other = (WebsocketCommunicator(space["app"], "/ws/chat") for _ in range(2))
    for client in (one, other):
        assert (await client.connect())[0]
    await one.send_to(text_data="hello")
    assert [await one.receive_from(), await other.receive_from()] == ["hello", "hello"]
    for client in (one, other):
        await client.disconnect()


@pytest.mark.parametrize(
    ("document", "pattern", "contender"),
    [
        (README, r"delivers ([\d.]+) times as many messages as", "ours-pubsub"),
        (README, r"\[([\d.]+) times as many\]\(docs/fan-out.md\)", "ours-both"),
        (PAGE, r"coalesced writes delivers ([\d.]+) times", "ours-coalesced"),
        (PAGE, r"with `forwards` as well, ([\d.]+) times", "ours-both"),
    ],
)
def test_figures_are_those_that_were_measured(document, pattern, contender):
    """Each ratio to bare ASGI is the median of the ratios of the rounds."""
    measured = json.loads((ROOT / "docs" / "performance" / "fanout.json").read_text())
    rounds = {
        row["contender"]: row["rounds"]["per_second"]
        for row in measured["rows"]
        if row["case"] == "500 clients, 20 in flight"
    }
    ratios = [a / b for a, b in zip(rounds[contender], rounds["bare-pubsub"], strict=True)]
    (shown,) = re.findall(pattern, " ".join(document.read_text().split()))
    places = len(shown.partition(".")[2])
    assert float(shown) == round(statistics.median(ratios), places)
