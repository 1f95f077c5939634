"""The server is killed and restarted with its data: groups lose nothing."""

from __future__ import annotations

import asyncio
import os
import random

import pytest

from fast_channels.testing.server import ValkeyServer
from tests.chaos.support import ROOM, within
from tests.chaos.traffic import send_all

# Number of messages, and of kills meanwhile. `make soak` uses more.
MESSAGES, KILLS = (10_000, 10) if os.environ.get("SOAK") else (1_000, 3)

# Upper bound in seconds for all of them on a busy machine.
PATIENCE = 300.0 if os.environ.get("SOAK") else 50.0


@pytest.fixture
def durable(tmp_path):
    """A server that writes to disk before it confirms."""
    written = ("--appendonly", "yes", "--appendfsync", "always", "--dir", str(tmp_path))
    with ValkeyServer(options=written) as server:
        yield server


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
    """Every receiver, in every process, sees each number once and in order."""
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
        await asyncio.gather(
            send_all(sender, MESSAGES, progress), killed_at_random(durable, progress, rng)
        )
    for found, gaps in seen:
        await within(PATIENCE, lambda found=found: len(found) >= MESSAGES)
        assert found == list(range(MESSAGES))
        # No member missed anything; a second kill during startup belongs to the same outage.
        assert 1 <= len(gaps) <= KILLS
        assert all(gap["recovered"] for gap in gaps)
    kept = await sender.history(ROOM)
    assert [entry.message["n"] for entry in kept.messages] == list(range(MESSAGES))
    for task in reading:
        task.cancel()
