"""docs/recipes/clients.md: the part for React. The plain page is in test_browser.py."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.clients.support import run_node_tests
from tests.recipes.support import EXAMPLES

FOLDER = EXAMPLES / "clients"
TESTS = Path(__file__).with_name("react.test.js")


@pytest.fixture
async def server(serve):
    """The application of the page, and controls to disturb it."""
    server = await serve("clients")
    saying = asyncio.Lock()
    consumer = server.module.ChatConsumer
    connect = consumer.websocket_connect

    async def connect_afterwards(self, message) -> None:
        async with saying:
            await connect(self, message)

    # The pause before a client reconnects is random and may be shorter than these steps.
    consumer.websocket_connect = connect_afterwards

    @server.module.app.post("/cut-and-say")
    async def cut_and_say(text: str, times: int = 1) -> None:
        async with saying:
            server.cut_sockets()
            messages = [{"type": "chat.message", "text": text}] * times
            await server.module.channel_layers["chat"].group_send_many("lobby", messages)

    @server.module.app.get("/clients")
    async def clients() -> int:
        return server.module.channel_layers["chat"].statistics().channels

    return server


async def test_hook_and_component_do_what_their_tests_say(server):
    """All tests of react.test.js pass, with the React that package.json asks for."""
    if not (FOLDER / "node_modules" / "react").exists():
        # On CI, a skipped test would look like a success.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"run `npm install` in {FOLDER}")
    environment = {"RECIPE": str(FOLDER), "SERVER": f"ws://127.0.0.1:{server.port}"}
    assert await run_node_tests(TESTS, **environment) == 4
