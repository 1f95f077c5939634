"""The code of docs/work.md works as it stands."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

from fast_channels.layers import InMemoryChannelLayer
from fast_channels.testing.server import ValkeyServer
from tests.documents.support import ROOT, block_with

WORK = ROOT / "docs" / "work.md"


async def test_work_is_taken_as_documents_show_it():
    """The block runs unchanged, in a function with the names that it uses."""
    block = block_with(WORK, "layer.take(")
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


def test_worker_of_the_guide_works(tmp_path):
    """The file of docs/work.md and the command below it handle a message."""
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
