"""The code and the commands of README.md work as they are written."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import types

import pytest
from websockets.asyncio.client import connect

from fast_channels.testing.server import ValkeyServer, answers
from tests.documents.support import README, ROOT, block_with, served


@pytest.fixture
def chat(tmp_path):
    """Return a folder with the README's chat.py."""
    (tmp_path / "chat.py").write_text(block_with(README, "# chat.py"))
    return tmp_path


@pytest.fixture
def chat_server(chat):
    """Serve the README's chat with its command; yield the port."""
    with served(chat, block_with(README, "uvicorn chat:app", "console")) as port:
        yield port


async def test_both_clients_of_the_chat_see_a_message(chat_server):
    """Two clients see the text that one of them types."""
    url = f"ws://127.0.0.1:{chat_server}/ws/chat"
    async with connect(url) as one, connect(url) as two:
        await one.send("hello")
        assert [await one.recv(), await two.recv()] == ["hello", "hello"]


def test_chat_of_the_readme_is_tried_from_a_terminal(chat_server):
    """The client of the README shows a typed line that the chat has sent back."""
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


def test_server_of_the_embedded_extra_answers():
    """The extra `embedded` installs a server that starts and stops."""
    with ValkeyServer() as server:
        assert answers(server.port, timeout=15)
    assert not answers(server.port)


def test_readme_is_short_and_its_picture_follows_the_code():
    """The README has at most 120 lines, with code before the picture."""
    text = README.read_text()
    assert len(text.splitlines()) <= 120
    assert text.index("```python") < text.index("![")
    code = block_with(README, "# chat.py").splitlines()
    assert len([line for line in code if line and not line.startswith("#")]) <= 20


def test_chat_of_the_home_page_is_that_of_the_readme():
    """docs/index.md shows the chat of the README, which other tests run."""
    block = block_with(ROOT / "docs" / "index.md", "class ChatConsumer")
    assert f"# chat.py\n{block}" == block_with(README, "# chat.py")


def test_extras_of_the_readme_are_those_of_the_package():
    """The table lists each extra of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shown = re.findall(r"^\| `(\w+)` \|", README.read_text(), re.MULTILINE)
    assert set(shown) == set(project["optional-dependencies"])


@pytest.fixture
def hook(monkeypatch):
    """Return the hook of the build that prepares the README for a package index."""
    interface = types.ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    path = ROOT / ".ci" / "readme.py"
    spec = importlib.util.spec_from_file_location("readme_hook", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_of_the_package_lead_to_the_repository(hook):
    """With an address, no link of the README is relative, except to its own headings."""
    metadata = {"version": "2.0.0", "urls": {"Repository": "https://forge.example/fc/"}}
    hook.ReadmeHook().update(metadata)
    text = metadata["readme"]["text"]
    assert "](https://forge.example/fc/blob/v2.0.0/docs/performance.md#fan-out)" in text
    assert "](https://forge.example/fc/raw/v2.0.0/docs/showcase.png)" in text
    assert set(re.findall(r"\]\((?!https:)([^)]*)\)", text)) == {"#install"}


def test_readme_of_the_package_is_unchanged_without_an_address(hook):
    """The project has no public address yet."""
    metadata = {"version": "2.0.0"}
    hook.ReadmeHook().update(metadata)
    assert metadata["readme"]["text"] == README.read_text()
