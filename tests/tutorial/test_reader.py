"""The folder as a reader changes it, under a server that starts again at each change."""

from __future__ import annotations

import asyncio

import httpx
from websockets.exceptions import WebSocketException

from sandbox.tutorial.steps import solve
from tests.documents.support import block_with
from tests.showcase.support import PATIENCE, Process, page_answers
from tests.tutorial.support import PAGES, assert_printed, console

PREPARATION = PAGES / "1-preparation.md"
SYSTEM_MESSAGES = PAGES / "2-system-messages.md"


async def test_reader_types_the_first_two_parts_while_the_server_runs(fresh_stage):
    """First there is no application, then no route; saving a file is enough to go on."""
    stage = fresh_stage(0, running=False)
    *program, option, port, _ = console(PREPARATION, "uvicorn")
    assert [*program, port] == ["uvicorn", "sandbox.main:app", "--port"]
    server = stage.web_server(option)
    Process.start(server)
    try:
        mistake = block_with(PREPARATION, "NameError", "text").strip()
        server.wait_until(lambda: mistake in server.output)

        solve(stage.folder, 1)
        server.wait_until(lambda: page_answers(server.url))
        async with httpx.AsyncClient() as client:
            health = await client.get(f"{server.url}/healthz")
        assert health.text == block_with(PREPARATION, "layers", "json").strip()
        # What the second page says of a route that is not there yet.
        assert await greeting(server) is None
        assert_printed(block_with(SYSTEM_MESSAGES, "403", "text"), server.output)

        solve(stage.folder, 2)
        async with asyncio.timeout(PATIENCE):
            while (told := await greeting(server)) is None:
                # The page tries again and again, too.
                await asyncio.sleep(0.05)
        assert told == "welcome: an echo, no layer involved"
    finally:
        server.stop()


async def greeting(server) -> str | None:
    """What the system socket says first, or None if there is none now."""
    try:
        async with server.socket("system") as client:
            return await client.next()
    except (OSError, WebSocketException):
        return None
