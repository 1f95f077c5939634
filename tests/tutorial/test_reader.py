"""The folder of a reader who changes files, under a server that restarts at each change."""

from __future__ import annotations

import asyncio
import contextlib

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from sandbox.tutorial.steps import solve
from tests.documents.support import block_with
from tests.showcase.support import Process, page_answers
from tests.tutorial.support import PAGES, assert_printed, console

PREPARATION = PAGES / "1-preparation.md"
SYSTEM_MESSAGES = PAGES / "2-system-messages.md"


async def test_server_that_runs_goes_on_when_a_file_is_saved(fresh_stage):
    """At first there is no application, then the one of part 1 without a route."""
    stage = fresh_stage(0, running=False)
    *program, option, port, _ = console(PREPARATION, "uvicorn")
    assert [*program, port] == ["uvicorn", "sandbox.main:app", "--port"]
    server = stage.web_server(option)
    Process.start(server)
    try:
        mistake = block_with(PREPARATION, "NameError", "text").strip()
        server.wait_until(lambda: mistake in server.output)

        # A server that has just started may not watch the files yet.
        for _ in range(10):
            solve(stage.folder, 1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(4):
                    while "detected changes" not in server.output:
                        await asyncio.sleep(0.02)
                break
        server.wait_until(lambda: page_answers(server.url))
        async with httpx.AsyncClient() as client:
            health = await client.get(f"{server.url}/healthz")
        assert health.text == block_with(PREPARATION, "layers", "json").strip()
        # The second page quotes this for a missing route.
        with pytest.raises(InvalidStatus):
            async with server.socket("system"):
                pass
        assert_printed(block_with(SYSTEM_MESSAGES, "403", "text"), server.output)
    finally:
        server.stop()
