"""What README.md shows works as it is written."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import textwrap

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.log import History
from fast_channels.testing import ResumingCommunicator
from fast_channels.testing.server import ValkeyServer, answers, free_port
from tests.documents.support import README, block_with, blocks, run_pytest


@pytest.fixture
def chat(tmp_path):
    """The folder with the README's chat.py."""
    (tmp_path / "chat.py").write_text(block_with(README, "# chat.py"))
    return tmp_path


@contextlib.contextmanager
def served(folder, block):
    """Run the line of a block that starts uvicorn; gives its port."""
    port = free_port()
    (line,) = [line for line in block.splitlines() if line.startswith("uvicorn")]
    command = [sys.executable, "-m", *line.split(), "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        for said in process.stderr:
            if "Uvicorn running" in said:
                break
        yield port
        process.terminate()


@pytest.fixture
def chat_server(chat):
    """The README's chat, served as it says; gives its port."""
    with served(chat, block_with(README, "uvicorn chat:app", "console")) as port:
        yield port


async def test_chat_of_the_readme_shows_everybody_what_one_types(chat_server):
    """Two clients see a typed message, and one posted to the endpoint."""
    address = f"127.0.0.1:{chat_server}"
    async with connect(f"ws://{address}/ws/chat") as one, connect(f"ws://{address}/ws/chat") as two:
        await one.send("hello")
        assert [await one.recv(), await two.recv()] == ["hello", "hello"]
        async with httpx.AsyncClient(timeout=15) as client:
            posted = await client.post(f"http://{address}/announce", params={"text": "lunch"})
        assert posted.status_code == 200
        assert [await one.recv(), await two.recv()] == ["lunch", "lunch"]


def test_chat_of_the_readme_is_tried_from_a_terminal(chat_server):
    """The client of the README shows what is typed into it, as the chat sent it back."""
    line = block_with(README, "python -m websockets", "console").strip()
    _, *command = line.replace(":8000", f":{chat_server}").split()
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert "Connected" in client.stdout.readline()
        client.stdin.write("hello\n")
        client.stdin.flush()
        assert any("< hello" in said for said in client.stdout)
        client.terminate()


async def test_chat_of_the_readme_runs_on_the_protocol_that_coalesces(chat):
    """The command that names it starts the same chat."""
    with served(chat, block_with(README, "CoalescingWebSocketProtocol", "console")) as port:
        async with connect(f"ws://127.0.0.1:{port}/ws/chat") as client:
            await client.send("hello")
            assert await client.recv() == "hello"


def test_test_of_the_readme_passes(chat):
    """The test that the README shows passes on the chat that it shows."""
    (chat / "test_chat.py").write_text(block_with(README, "WebsocketCommunicator"))
    result = run_pytest(chat)
    assert "1 passed" in result.stdout, result.stdout


def test_chat_of_the_readme_that_forwards_does_the_same(chat):
    """Its class takes the place of the first one, and the test that the README shows passes."""
    forwarding = block_with(README, "forwards = ")
    consumer = forwarding[forwarding.index("class ") :]
    first = re.compile(r"^class ChatConsumer.*?(?=^app = )", re.DOTALL | re.MULTILINE)
    source, replaced = first.subn(f"{consumer}\n\n", (chat / "chat.py").read_text())
    assert replaced == 1
    (chat / "chat.py").write_text(source)
    (chat / "test_chat.py").write_text(block_with(README, "WebsocketCommunicator"))
    result = run_pytest(chat)
    assert "1 passed" in result.stdout, result.stdout


async def test_client_of_the_readme_prints_what_it_is_sent(capsys):
    """It listens until the server has nothing more to say."""

    async def serve_one(connection):
        await connection.send("hello")

    names = {}
    exec(block_with(README, "fast_channels.client"), names)
    async with serve(serve_one, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await names["listen"](f"ws://127.0.0.1:{port}")
    assert capsys.readouterr().out.split() == ["hello"]


def test_script_of_the_readme_sends(tmp_path, redis_url):
    """The other Python blocks run in a script; only the server's address is another here."""
    script = "\n".join(
        block.replace("redis://localhost:6399", redis_url)
        for block in blocks(README, "python")
        if "RedisPubSubChannelLayer" in block
    )
    (tmp_path / "script.py").write_text(script)
    # Not the development mode of Python, which complains of a machine that is busy.
    command = [sys.executable, "-W", "default", "script.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_times_of_the_readme_are_settings(tmp_path):
    """A lifespan begins and ends with them; what it would not look at is an error."""
    check = """
import asyncio
async def main():
    async with channel_layers.lifespan():
        print(sorted(set(vars(channel_layers)) - set(vars(type(channel_layers)()))))
asyncio.run(main())
"""
    command = [sys.executable, "-c", block_with(README, "drain_timeout") + check]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


async def test_chat_of_the_readme_that_is_durable_misses_nothing(registry):
    """Its client gets what was said while it was away, and is told if that is too long ago."""
    names = {}
    exec(block_with(README, "resumable = "), names)
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
        assert await client.receive_from() == "You were away for long: please reload."
        await client.cut()


async def test_history_of_the_readme_is_one(registry):
    """The block is run as it stands; who joins with the position has missed nothing since."""
    block = block_with(README, "layer.join(")
    function = "async def example(layer, channel):\n" + textwrap.indent(block, "    ")
    space: dict = {}
    exec(function + "    return missed, joined, position\n", space)
    async with InMemoryChannelLayer(history_size=10) as layer:
        inbox = await layer.open_channel()
        missed, joined, position = await space["example"](layer, inbox.name)
    assert missed == joined == History([], recovered=True, position=position)


def test_server_of_the_embedded_extra_answers():
    """The README's embedded server starts from what the extra installs."""
    with ValkeyServer() as server:
        assert answers(server.port, timeout=15)
    assert not answers(server.port)
