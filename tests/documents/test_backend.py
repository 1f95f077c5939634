"""The backend of docs/backend.md keeps the contract, and behaves as the page says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys

import pytest

from fast_channels.exceptions import LayerUnavailable, MissingCapability
from fast_channels.layers import broker as interface
from fast_channels.testing.server import free_port
from tests.documents.support import ROOT, block_with, run_pytest

PAGE = ROOT / "docs" / "backend.md"
EXAMPLES = ROOT / "docs" / "examples" / "backend"

PATIENCE = 10.0


@pytest.fixture
def layer_class(monkeypatch):
    """The layer of the page; its modules are imported for this test alone."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("relay", "relay_layer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import relay_layer  # noqa: PLC0415 - not importable earlier

    yield relay_layer.RelayChannelLayer
    for name in ("relay", "relay_layer"):
        sys.modules.pop(name, None)


@contextlib.contextmanager
def relay(port=0):
    """Run relay.py; give its process and port."""
    with subprocess.Popen(
        [sys.executable, "relay.py", "--port", str(port)],
        cwd=EXAMPLES,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


async def arrives(mailbox):
    async with asyncio.timeout(PATIENCE):
        return await mailbox.get()


def test_backend_keeps_the_contract():
    """The backend keeps every guarantee except the ones for layers that store messages."""
    assert "pytest" in block_with(PAGE, "test_relay_layer.py", "console")
    result = run_pytest(EXAMPLES)
    assert result.returncode == 0, result.stdout[-3000:]
    passed, skipped = map(int, re.search(r"(\d+) passed, (\d+) skipped", result.stdout).groups())
    assert passed > 50
    # The number on the page.
    assert f"{skipped} tests are skipped" in " ".join(PAGE.read_text().split())


def test_two_processes_share_the_relay(tmp_path):
    """The script of backend.md runs twice: one process prints the messages of the other."""
    _, listen, speak = block_with(PAGE, "say.py", "console").splitlines()
    (tmp_path / "say.py").write_text(block_with(PAGE, "# say.py"))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    }
    with relay() as (_, port):
        listener, speaker = (
            subprocess.Popen(
                [sys.executable, *command.replace("7000", str(port)).split()[1:]],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stdin=subprocess.PIPE,
                text=True,
            )
            for command in (listen, speak)
        )
        with listener, speaker:
            try:
                # The speaker repeats its message until the listener has joined.
                assert listener.stdout.readline() == "hello\n"
                assert listener.wait(PATIENCE) == 0
            finally:
                for process in (listener, speaker):
                    process.kill()


async def test_outage_is_told_and_ends(layer_class):
    """Sending raises meanwhile, members get one gap, and afterwards everything works again."""
    port = free_port()
    with relay(port) as (process, _):
        layer = layer_class(port=port)
        async with layer:
            inbox = await layer.open_channel()
            await layer.group_add("room", inbox.name)
            process.kill()
            process.wait()
            async with asyncio.timeout(PATIENCE):
                while layer.health().state == "ready":
                    await asyncio.sleep(0.005)
            with pytest.raises(LayerUnavailable):
                await layer.group_send("room", {"type": "lost"})
            joining = asyncio.create_task(layer.group_add("other", inbox.name))
            with relay(port):
                gap = await arrives(inbox)
                assert (gap["type"], gap["groups"]) == ("layer.gap", ["room"])
                assert gap["recovered"] is False
                await joining
                for group in ("room", "other"):
                    await layer.group_send(group, {"type": "test", "group": group})
                    assert await arrives(inbox) == {"type": "test", "group": group}
                assert layer.health().state == "ready"
                assert layer.statistics().gaps == 1


async def test_relay_that_is_not_there_is_a_sentence(layer_class):
    """Opening the layer fails with the address."""
    port = free_port()
    with pytest.raises(LayerUnavailable, match=f"relay at 127.0.0.1:{port} does not answer"):
        await layer_class(port=port).open()


async def test_relay_that_hangs_is_left(layer_class):
    """A publish without an answer fails, and the next connection reports an outage."""
    hanging = True

    async def serve(reader, writer):
        import relay as module  # noqa: PLC0415 - see layer_class

        if hanging:
            # Reads everything, and answers only subscriptions.
            with contextlib.suppress(EOFError, OSError):
                while (await module.read_frame(reader))[0] != module.PUBLISH:
                    writer.write(module.frame(module.DONE))
                await reader.read()
            writer.close()
        else:
            await module.Relay().serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, layer_class(port=port, send_timeout=3) as layer:
        inbox = await layer.open_channel()
        with pytest.raises(LayerUnavailable):
            await layer.group_send("room", {"type": "test"})
        hanging = False
        assert (await arrives(inbox))["type"] == "layer.gap"


async def test_reply_that_nobody_asked_for_is_an_outage(layer_class, caplog):
    """The log has an unexpected reply with its traceback, and the reader continues."""
    clients = []

    async def serve(reader, writer):
        import relay as module  # noqa: PLC0415 - see layer_class

        clients.append(writer)
        await module.Relay().serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, layer_class(port=port) as layer:
        inbox = await layer.open_channel()
        # DONE, for no request.
        clients[0].write(b"\3" + bytes(6))
        gap = await arrives(inbox)
        assert (gap["type"], gap["recovered"]) == ("layer.gap", False)
        await layer.group_add("room", inbox.name)
        await layer.group_send("room", {"type": "test"})
        assert await arrives(inbox) == {"type": "test"}
    (record,) = [record for record in caplog.records if record.name == "relay_layer"]
    assert record.exc_info[0] is IndexError


async def test_missing_capability_is_a_sentence(layer_class):
    """The error has the missing feature, the backend, and an alternative, as the page quotes it."""
    with relay() as (_, port):
        async with layer_class(port=port) as layer:
            with pytest.raises(MissingCapability) as caught:
                async with layer.take("mails"):
                    pass
    assert str(caught.value) in PAGE.read_text().replace("\n> ", " ")


def test_missing_library_is_a_sentence(monkeypatch):
    """The block of the page raises the error that it shows, if the library is missing."""
    monkeypatch.setitem(sys.modules, "wombat", None)
    with pytest.raises(ImportError, match=r"pip install 'my-layers\[wombat\]'"):
        exec(block_with(PAGE, "wombat"), {})


def test_page_names_every_method_of_the_interface():
    """The page has the required methods of a backend, and the optional ones."""
    text = PAGE.read_text()
    for form in (interface.Broker, interface.Queue, interface.PopQueue, interface.BatchPublisher):
        methods = [name for name in vars(form) if not name.startswith("_")]
        for name in methods:
            assert f"`{name}" in text, name
