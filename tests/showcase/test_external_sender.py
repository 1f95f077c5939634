"""The script that sends from outside the server."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from contextlib import AsyncExitStack

from fast_channels.testing.server import free_port
from tests.showcase.support import ROOT, run_module

EVENTS = ("user_login", "page_view", "button_click", "session_duration", "error")


async def test_messages_of_every_kind_arrive_and_are_printed(showcase):
    """The script reaches both chats, notifications and analytics, and prints its messages."""
    async with AsyncExitStack() as stack:
        chat, reliable, notifications, analytics = [
            await stack.enter_async_context(showcase.socket(route))
            for route in ("chat", "reliable", "notifications", "analytics")
        ]
        sender = asyncio.create_task(
            asyncio.to_thread(
                run_module,
                *("sandbox.external_sender", "--count", "2", "--interval", "0.05"),
                *("--rounds", "1"),
                redis_url=showcase.redis_url,
            )
        )
        assert await chat.next() == "script: hello from outside the server"
        assert await reliable.next() == "script: This line waits for you if you are disconnected"
        assert (await notifications.next_json())["title"] == "Deployment"
        for event in EVENTS:
            await analytics.until(event)
        broadcast = "maintenance tonight, sent over three layers"
        assert await chat.next() == f"script: {broadcast}"
        assert await reliable.next() == f"script: {broadcast}"
        assert (await notifications.next_json())["message"] == broadcast
        for number in (1, 2):
            assert await chat.next() == f"script: announcement {number} of 2"
            assert await reliable.next() == f"script: announcement {number} of 2"
        done = await sender
    assert done.returncode == 0, done.stderr
    for printed in ("hello from outside", "This line waits", "Deployment", *EVENTS, "2 of 2"):
        assert printed in done.stdout


def test_broker_that_does_not_answer_is_one_line_and_no_traceback():
    """The line names the broker and what to check."""
    port = free_port()
    done = run_module("sandbox.external_sender", redis_url=f"redis://127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("external_sender: ")
    assert f"127.0.0.1:{port}" in line
    assert "does not answer" in line


def test_command_on_the_page_runs_the_script():
    """`make sender` in the repository's folder starts the module that the tests above run."""
    page = (ROOT / "sandbox" / "static" / "index.html").read_text()
    (shown,) = re.findall("<code>(make .+?)</code>", page)
    program, *arguments = shlex.split(shown)
    done = subprocess.run(
        [program, "--dry-run", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.rstrip().endswith("python -m sandbox.external_sender")
