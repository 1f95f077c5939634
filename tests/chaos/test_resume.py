"""Clients miss no message although their sockets break again and again."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal

import pytest
import websockets

from fast_channels.client import connect
from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.consumer.resume.protocol import SUBPROTOCOL
from fast_channels.layers import RedisStreamsChannelLayer
from fast_channels.testing import ResumingCommunicator
from fast_channels.testing.resuming import encoded_places
from tests.chaos.proxy import Proxy
from tests.chaos.traffic import send_all
from tests.chaos.web import WebProcess
from tests.conftest import empty
from tests.servers.support import PATIENCE

MESSAGES = 5000
CUTS = 50

# Messages in transit between sender and client, so that the end is never all replay.
AHEAD = 400

UVICORN = "uvicorn --port {port} resumable:app"

# Number of messages, and of kills of the web process. `make soak` uses more.
SOAK = bool(os.environ.get("SOAK"))
KILLED_MESSAGES, KILLS, KILL_PATIENCE = (10_000, 10, 300.0) if SOAK else (1_000, 2, 50.0)


@pytest.fixture
def servers(tmp_path, redis_url):
    """Two processes; a client meets one or the other."""
    started = []
    try:
        for number in range(2):
            log = tmp_path / f"server-{number}.log"
            started.append(WebProcess(log, command=UVICORN, REDIS_URL=redis_url))
        yield started
    finally:
        for server in started:
            server.stop()


class Client:
    """Records its position and its messages."""

    def __init__(self) -> None:
        self.places = {}
        self.got = []
        self.replayed = 0
        # Set when a message arrives.
        self.progress = asyncio.Event()

    async def listen(self, server, until):
        """Connect, read until the client has `count` frames in all, and break the connection."""
        url = f"{server.url('ws')}&resume={encoded_places(self.places)}"
        async with websockets.connect(url, subprotocols=[SUBPROTOCOL], ping_interval=None) as ws:
            while len(self.got) < until or not self.places:
                self.take(json.loads(await ws.recv()))
            # Without a close frame, messages in transit are lost.
            ws.transport.abort()

    def take(self, frame):
        for group, report in frame.get("resume", {}).items():
            assert report.get("recovered", not self.got)
            self.places[group] = report["position"]
        self.places.update(frame.get("at", {}))
        if "t" in frame:
            group, position, k = frame["p"]
            self.places[group] = f"{position}+{k + 1}"
            self.got.append(int(frame["t"]))
            self.replayed += frame.get("replay", False)
            self.progress.set()


@pytest.mark.timeout(60)
async def test_client_that_is_cut_off_fifty_times_gets_every_message_once(servers, redis_url):
    """During 5,000 messages the client is cut off at random and meets a random server."""
    rng = random.Random(5)
    client = Client()
    async with RedisStreamsChannelLayer([redis_url], history_size=MESSAGES) as layer:

        async def send():
            for first in range(0, MESSAGES, 50):
                while first - len(client.got) > AHEAD:
                    client.progress.clear()
                    await client.progress.wait()
                numbers = range(first, first + 50)
                await layer.group_send_many("room", [{"type": "number", "n": n} for n in numbers])

        async with asyncio.timeout(PATIENCE * 1.5):
            # The client needs a position before the first message.
            await client.listen(servers[0], 0)
            sending = asyncio.create_task(send())
            for until in sorted(rng.sample(range(1, MESSAGES), CUTS)):
                await client.listen(rng.choice(servers), until)
            await client.listen(rng.choice(servers), MESSAGES)
            await sending
    assert client.got == list(range(MESSAGES))
    assert 0 < client.replayed < MESSAGES


@pytest.mark.timeout(60)
async def test_client_of_the_library_gets_every_message_once(servers, redis_url):
    """fast_channels.client does it behind a proxy that breaks its connections."""
    rng = random.Random(6)
    cuts = set(rng.sample(range(MESSAGES), CUTS))
    got, replayed = [], 0
    with Proxy(servers[0].port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        async with (
            asyncio.timeout(PATIENCE * 1.5),
            RedisStreamsChannelLayer([redis_url], history_size=MESSAGES) as layer,
            connect(url, retry_base=0.01, retry_cap=0.01) as socket,
        ):
            await layer.group_send("room", {"type": "number", "n": 0})
            async for message in socket:
                got.append(int(message.data))
                replayed += message.replayed
                if got[-1] % 100 == 0:
                    numbers = range(got[-1] + 1, min(got[-1] + 101, MESSAGES))
                    batch = [{"type": "number", "n": n} for n in numbers]
                    await layer.group_send_many("room", batch)
                if got[-1] in cuts:
                    await asyncio.to_thread(proxy.cut_now)
                if got[-1] == MESSAGES - 1:
                    break
    assert got == list(range(MESSAGES))
    assert 0 < replayed < MESSAGES


@pytest.fixture
def start_web(tmp_path, redis_url):
    """Start web processes, and end the remaining ones."""
    started = []

    def start():
        log = tmp_path / f"web-{len(started)}.log"
        started.append(WebProcess(log, command=UVICORN, REDIS_URL=redis_url))
        return started[-1]

    yield start
    for process in started:
        process.stop()


@pytest.mark.timeout(2 * KILL_PATIENCE)
async def test_web_process_that_is_killed_costs_its_clients_nothing(start_web, redis_url):
    """Clients reconnect to another process and get every number once and in order."""
    rng = random.Random(8)
    web = start_web()
    got = []
    moments = [
        rng.randrange(KILLED_MESSAGES * kill // KILLS, KILLED_MESSAGES * (kill + 1) // KILLS)
        for kill in range(KILLS)
    ]
    async with (
        asyncio.timeout(KILL_PATIENCE),
        RedisStreamsChannelLayer([redis_url], history_size=KILLED_MESSAGES) as layer,
        connect(web.url("ws"), retry_base=0.01, retry_cap=0.01) as client,
    ):
        sending = asyncio.create_task(send_all(layer, KILLED_MESSAGES, []))
        async for message in client:
            got.append(int(message.data))
            if moments and got[-1] == moments[0]:
                del moments[0]
                os.kill(web.pid, signal.SIGKILL)
                web = await asyncio.to_thread(start_web)
                client.url = web.url("ws")
            if got[-1] == KILLED_MESSAGES - 1:
                break
        await sending
    assert got == list(range(KILLED_MESSAGES))


class Snapshots(AsyncWebsocketConsumer):
    channel_layer_alias = "streams"
    groups = ("room",)
    resumable = True

    async def number(self, message):
        await self.send(text_data=str(message["n"]))

    async def not_recovered(self, group):
        await self.send(text_data="snapshot")


@pytest.mark.parametrize("connected", [True, False])
async def test_log_that_is_emptied_is_told_as_such(valkey, redis_url, registry, connected):
    """A connected and a disconnected client get `recovered` false and continue with the new log."""
    layer = RedisStreamsChannelLayer([redis_url], check_interval=0.05)
    registry.register("streams", layer)
    async with layer:
        client = ResumingCommunicator(Snapshots.as_asgi(), "/")
        await client.connect(PATIENCE)
        for n in range(3):
            await layer.group_send("room", {"type": "number", "n": n})
        assert [await client.receive_from(PATIENCE) for _ in range(3)] == ["0", "1", "2"]
        if not connected:
            await client.cut(PATIENCE)
        empty(valkey)
        if not connected:
            client = await client.again(timeout=PATIENCE)
        assert await client.receive_from(PATIENCE) == "snapshot"
        assert client.resumed["room"]["recovered"] is False
        for n in range(3, 6):
            await layer.group_send("room", {"type": "number", "n": n})
        assert [await client.receive_from(PATIENCE) for _ in range(3)] == ["3", "4", "5"]
        await client.cut(PATIENCE)
