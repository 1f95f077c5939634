"""Whatever is killed with -9 comes back, and groups have lost nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from fast_channels.client import connect
from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import RedisStreamsChannelLayer
from fast_channels.testing.server import ValkeyServer
from tests.chaos.support import ROOM, number, within
from tests.chaos.web import WebProcess

# How many messages, and how often the server is killed meanwhile. `make soak` takes more.
MESSAGES, KILLS = (10_000, 10) if os.environ.get("SOAK") else (1_000, 3)

# Seconds for all of them on a busy machine.
PATIENCE = 300.0 if os.environ.get("SOAK") else 50.0

RESUMABLE = "uvicorn --port {port} resumable:app"


@pytest.fixture
def durable(tmp_path):
    """A server that has on disk what it has confirmed."""
    written = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with ValkeyServer(options=written) as server:
        yield server


async def send_all(layer, progress):
    """Send every number once, however often that takes."""
    for n in range(MESSAGES):
        progress.append(n)
        while True:
            try:
                await layer.group_send(ROOM, number(n), idempotency_key=str(n))
                break
            except LayerUnavailable:
                # It may have been accepted, so it is sent again under the same key.
                await asyncio.sleep(0.01)


async def read_all(inbox, found, gaps):
    while True:
        message = await inbox.get()
        if message["type"] == "layer.gap":
            gaps.append(message)
        else:
            found.append(message["n"])


async def killed_at_random(server, progress, rng):
    """Kill a server at moments that are spread over the sending."""
    for kill in range(KILLS):
        moment = rng.randrange(MESSAGES * kill // KILLS, MESSAGES * (kill + 1) // KILLS)
        await within(PATIENCE, lambda moment=moment: len(progress) > moment)
        server.kill()
        await asyncio.to_thread(server.start)


@pytest.mark.timeout(2 * PATIENCE)
async def test_server_that_is_killed_under_traffic_loses_nothing_and_doubles_nothing(
    durable, make_layer
):
    """Every receiver, in whatever process, sees every number once and in order."""
    rng = random.Random(7)
    sender, *receivers = [
        await make_layer("streams", [durable.url], capacity=MESSAGES, history_size=MESSAGES)
        for _ in range(3)
    ]
    reading, seen = [], []
    for layer in receivers:
        inbox = await layer.open_channel()
        await layer.group_add(ROOM, inbox.name)
        seen.append(([], []))
        reading.append(asyncio.create_task(read_all(inbox, *seen[-1])))
    progress = []
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(send_all(sender, progress), killed_at_random(durable, progress, rng))
    for found, gaps in seen:
        await within(PATIENCE, lambda found=found: len(found) >= MESSAGES)
        assert found == list(range(MESSAGES))
        # Nobody missed anything; what was killed again while it came up is one outage.
        assert 1 <= len(gaps) <= KILLS
        assert all(gap["recovered"] for gap in gaps)
    kept = await sender.history(ROOM)
    assert [entry.message["n"] for entry in kept.messages] == list(range(MESSAGES))
    for task in reading:
        task.cancel()


@pytest.fixture
def start_web(tmp_path, redis_url):
    """Starts web processes, and ends what is left of them."""
    started = []

    def start():
        log = tmp_path / f"web-{len(started)}.log"
        started.append(WebProcess(log, command=RESUMABLE, REDIS_URL=redis_url))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.mark.timeout(2 * PATIENCE)
async def test_web_process_that_is_killed_costs_its_clients_nothing(start_web, redis_url):
    """They come back to another one, and have got every number once and in order."""
    rng = random.Random(8)
    web = start_web()
    got = []
    moments = [
        rng.randrange(MESSAGES * kill // KILLS, MESSAGES * (kill + 1) // KILLS)
        for kill in range(KILLS)
    ]
    async with (
        asyncio.timeout(PATIENCE),
        RedisStreamsChannelLayer([redis_url], history_size=MESSAGES) as layer,
        connect(web.url("ws"), retry_base=0.01, retry_cap=0.01) as client,
    ):
        sending = asyncio.create_task(send_all(layer, []))
        async for message in client:
            got.append(int(message.data))
            if moments and got[-1] == moments[0]:
                del moments[0]
                os.kill(web.pid, signal.SIGKILL)
                web = await asyncio.to_thread(start_web)
                client.url = web.url("ws")
            if got[-1] == MESSAGES - 1:
                break
        await sending
    assert got == list(range(MESSAGES))
