"""What README and CONTRIBUTING show works as it is written."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
import threading
import tomllib
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.log import History
from fast_channels.testing import ResumingCommunicator
from fast_channels.testing.server import ValkeyServer, answers, free_port

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
WORK = ROOT / "docs" / "work.md"


def blocks(document, language):
    """The code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)


def block_with(document, text):
    """The one Python block that contains a text."""
    (found,) = [block for block in blocks(document, "python") if text in block]
    return found


def run_pytest(folder):
    """Run the tests in a folder as a user would, with asyncio's mode set to auto."""
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def chat(tmp_path):
    """The folder with the README's chat.py."""
    (tmp_path / "chat.py").write_text(block_with(README, "# chat.py"))
    return tmp_path


@pytest.fixture
def chat_server(chat):
    """The README's chat, served by uvicorn; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "chat:app", "--port", str(port)]
    with subprocess.Popen(command, cwd=chat, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "Uvicorn running" in line:
                break
        yield port
        process.terminate()


async def test_chat_of_the_readme_shows_everybody_what_one_types(chat_server):
    """Two clients see a typed message, and one posted to the endpoint."""
    address = f"127.0.0.1:{chat_server}"
    async with connect(f"ws://{address}/ws/chat") as one, connect(f"ws://{address}/ws/chat") as two:
        await one.send("hello")
        assert [await one.recv(), await two.recv()] == ["hello", "hello"]
        async with httpx.AsyncClient() as client:
            posted = await client.post(f"http://{address}/announce", params={"text": "lunch"})
        assert posted.status_code == 200
        assert [await one.recv(), await two.recv()] == ["lunch", "lunch"]


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
    command = [sys.executable, "-X", "dev", "script.py"]
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


@pytest.mark.parametrize("document", [README, WORK], ids=lambda path: path.name)
async def test_work_is_taken_as_documents_show_it(document):
    """The block is run as it stands, in a function that has what it names."""
    block = block_with(document, "layer.take(")
    function = "async def example(layer, deliver):\n" + textwrap.indent(block, "    ")
    space: dict = {}
    exec(function, space)
    delivered = []

    async def deliver(message):
        delivered.append(message)

    async with InMemoryChannelLayer() as layer:
        await layer.send("mails", {"type": "mail.send", "to": "x"})
        await space["example"](layer, deliver)
    assert delivered == [{"type": "mail.send", "to": "x"}]


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


def test_worker_of_the_guide_works(tmp_path):
    """The file of docs/work.md, with the command that stands below it, and a handled message."""
    (tmp_path / "work.py").write_text(block_with(WORK, "# work.py"))
    (command,) = [
        line for line in WORK.read_text().splitlines() if line.startswith("fast-channels")
    ]
    with ValkeyServer() as server:
        text = (tmp_path / "work.py").read_text()
        layer = f"RedisStreamsChannelLayer([{server.url!r}])"
        (tmp_path / "work.py").write_text(text.replace("RedisStreamsChannelLayer()", layer))
        sender = (
            "import asyncio, work; from fast_channels import channel_layers; work.setup();"
            "asyncio.run(channel_layers['default'].send('mails', {'type': 'mail.send', 'to': 'x'}))"
        )
        subprocess.run([sys.executable, "-c", sender], cwd=tmp_path, check=True, timeout=30)
        with subprocess.Popen(
            [sys.executable, "-um", "fast_channels", *command.split()[1:]],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as worker:
            watchdog = threading.Timer(30, worker.kill)
            watchdog.start()
            assert worker.stdout.readline() == "to x, delivery 1\n"
            worker.terminate()
            assert worker.wait() == 0
            watchdog.cancel()


def test_every_python_block_of_the_readme_is_run_here():
    """A block that no test above takes is noticed."""
    runs = (
        "# chat.py",
        "WebsocketCommunicator",
        "RedisPubSubChannelLayer",
        "drain_timeout",
        "forwards = ",
        "resumable = ",
        "fast_channels.client",
        "layer.take(",
        "layer.join(",
    )
    for block in blocks(README, "python"):
        assert any(text in block for text in runs), block


def test_backend_of_the_guide_keeps_the_contract(tmp_path):
    """The example backend in CONTRIBUTING passes the suite that it shows."""
    (tmp_path / "test_wire.py").write_text(block_with(CONTRIBUTING, "class WireBroker"))
    result = run_pytest(tmp_path)
    assert result.returncode == 0, result.stdout[-3000:]
    assert re.search(r"\b\d\d passed", result.stdout)


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=lambda path: path.name)
def test_commands_in_documents_exist(document):
    """Make targets, extras and modules that a document names are there."""
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = document.read_text()
    for target in re.findall(r"make ([a-z-]+)\b", "\n".join(blocks(document, "console"))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for named in re.findall(r"'fast-channels\[([a-z,]+)\]'", text):
        assert set(named.split(",")) <= set(extras), named
    for module in re.findall(r"python -m ([\w.]+)", text):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_in_documents_lead_somewhere(document):
    """A relative link names a file of this repository."""
    for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
        assert (ROOT / link).exists(), link


def test_server_of_the_embedded_extra_answers():
    """The README's embedded server starts from what the extra installs."""
    with ValkeyServer() as server:
        assert answers(server.port)
    assert not answers(server.port)


GUARANTEES = ROOT / "docs" / "guarantees.md"


def test_every_guarantee_names_a_test_that_exists():
    """Each row of each table ends with one, of the contract or of a file."""
    rows = [line for line in GUARANTEES.read_text().splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith(("| layer", "| the client", "| |"))]
    rows = [row for row in rows if not row.endswith("| shown by |")]
    assert len(rows) > 40
    files = {
        "contract": "contract.py",
        "history": "history_contract.py",
        "work": "work_contract.py",
    }
    contracts = {
        name: (ROOT / "src" / "fast_channels" / "testing" / file).read_text()
        for name, file in files.items()
    }
    for row in rows:
        shown_by = row.split("|")[-2].strip()
        if match := re.fullmatch(r"(contract|history|work) `(test_\w+)`", shown_by):
            assert f"def {match[2]}(" in contracts[match[1]], row
        else:
            match = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", shown_by)
            assert match, row
            assert f"def {match[2]}(" in (ROOT / match[1]).read_text(), row
