"""Connections that break or die silently while the server is healthy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time

import pytest

from fast_channels.exceptions import LayerUnavailable
from tests.chaos.conftest import LAYERS
from tests.chaos.proxy import Proxy, having_sent
from tests.chaos.support import (
    RECOVERY,
    ROOM,
    SEND_TIMEOUT,
    number,
    refused_in_time,
    until_sent,
    within,
)
from tests.layers.support import arrives

# Seconds; short, to keep the test of silently dead connections short.
INTERVAL = 0.5


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def interval():
    """Seconds between the heartbeats of the layer; a test may parametrize it."""
    return 5.0


@pytest.fixture
async def layer(kind, proxy, make_layer, interval):
    """A layer that reaches the server through the proxy."""
    return await make_layer(kind, [proxy.url], heartbeat_interval=interval, capacity=5000)


@pytest.fixture
async def peer(kind, server, make_layer):
    """Another process with a direct connection to the server."""
    return await make_layer(kind, [server.url])


@pytest.fixture
async def member(layer, peer):
    """The channel of a member of ROOM that receives the peer's messages."""
    mailbox = await layer.open_channel()
    await layer.group_add(ROOM, mailbox.name)
    await peer.group_send(ROOM, number(-1))
    assert await arrives(mailbox) == number(-1)
    return mailbox


async def all_until(mailbox, last):
    """Return the numbers that arrive up to `last`, and the gaps among them."""
    numbers, gaps = [], []
    async with asyncio.timeout(RECOVERY):
        while not numbers or numbers[-1] != last:
            message = await mailbox.get()
            if message["type"] == "layer.gap":
                gaps.append(message)
            else:
                numbers.append(message["n"])
    return numbers, gaps


async def until_heard(sender, mailbox):
    """Send until a message arrives; return the gaps before it."""
    gaps = []

    async def listen():
        while (message := await mailbox.get())["type"] == "layer.gap":
            gaps.append(message)

    async with asyncio.timeout(RECOVERY):
        listening = asyncio.create_task(listen())
        while not listening.done():
            await until_sent(sender, number(0))
            await asyncio.wait([listening], timeout=0.1)
    return gaps


@pytest.mark.parametrize("interval", [INTERVAL])
@pytest.mark.parametrize("which", ["all", "reading", "publishing"])
async def test_connections_that_died_silently_are_replaced(layer, peer, member, proxy, which):
    """TCP alone would wait for many minutes, because nothing is refused or closed."""
    present, reads = proxy.present(), having_sent("SUBSCRIBE")
    chosen = {
        "all": present,
        "reading": lambda c: present(c) and reads(c),
        "publishing": lambda c: present(c) and not reads(c),
    }[which]
    accepted = proxy.accepted
    proxy.blackhole(chosen)
    if which == "publishing":
        # The first send on the connection notices it, within send_timeout.
        with contextlib.suppress(LayerUnavailable):
            await layer.group_send(ROOM, number(0))
        await until_heard(layer, member)
    else:
        # Two intervals, which may start again on a busy machine.
        await within(RECOVERY, lambda: layer.statistics().gaps)
        assert len(await until_heard(peer, member)) == 1
        await until_heard(layer, member)
        # The reading connection and the sending connection.
        assert proxy.accepted >= accepted + 2


async def test_what_is_sent_while_the_connection_is_gone(kind, layer, peer, member, proxy, caplog):
    """A queue and a log lose nothing and say so; pub/sub reports a possible loss."""
    caplog.set_level(logging.INFO)
    proxy.cut()
    await within(RECOVERY, lambda: layer.health().state == "degraded")
    for n in range(100):
        await peer.group_send(ROOM, number(n))
    proxy.restore()
    await within(RECOVERY, lambda: layer.statistics().gaps)
    await peer.group_send(ROOM, number(100))
    numbers, gaps = await all_until(member, 100)
    assert numbers == ([100] if kind == "pubsub" else list(range(101)))
    (gap,) = gaps
    assert gap["recovered"] is (kind != "pubsub")
    assert gap["groups"] == [ROOM]
    await within(RECOVERY, lambda: layer.health().state == "ready")
    lines = [r.levelname for r in caplog.records if r.name == "fast_channels.layers.redis"]
    assert lines == ["WARNING", "INFO"]


@pytest.mark.parametrize("kind", ["queue"], indirect=True)
async def test_connections_that_break_again_and_again_lose_nothing(layer, peer, member, proxy):
    """
    All of 500 messages arrive in order, once, while connections are cut every few milliseconds.
    """
    dice = random.Random(7)

    async def send_all():
        for n in range(500):
            await peer.group_send(ROOM, number(n))

    sending = asyncio.create_task(send_all())
    cuts = 0
    while not sending.done():
        await asyncio.sleep(dice.uniform(0.005, 0.1))
        cuts += proxy.cut_now()
    await sending
    numbers, gaps = await all_until(member, 499)
    assert numbers == list(range(500))
    assert cuts > 0
    assert gaps
    assert all(gap["recovered"] for gap in gaps)


async def test_publish_that_is_stuck_delays_nobodys_joining(layer, member, proxy):
    """A publish waits for its own connection only."""
    # The first command on the sending connection.
    proxy.blackhole(having_sent("PING"))
    sending = asyncio.create_task(layer.group_send("elsewhere", number(0)))
    # Shorter than send_timeout.
    async with asyncio.timeout(SEND_TIMEOUT - 1):
        await layer.group_add("another", member.name)
    assert not sending.done()
    sending.cancel()
    proxy.restore()


async def test_sending_gives_up_after_send_timeout(kind, proxy, make_layer):
    """A send gives up no matter whether it waits for an answer or for a connection."""
    layer = await make_layer(kind, [proxy.url], send_timeout=1)
    proxy.blackhole()
    for _ in range(2):
        assert await refused_in_time(lambda: layer.group_send(ROOM, number(0))) < SEND_TIMEOUT
    proxy.restore()
    await until_sent(layer, number(0))


async def test_health_tells_what_is_going_on(kind, proxy, make_layer, server):
    """health() is right from before the first connection until after the last one."""
    layer = await make_layer(kind, [proxy.url, server.url])
    assert layer.health().state == "ready"
    mailbox = await layer.open_channel()
    # Enough for each server to have some.
    for n in range(20):
        await layer.group_add(f"group-{n}", mailbox.name)
    began = time.time()
    proxy.cut()
    await within(RECOVERY, lambda: layer.health().state == "degraded")
    health = layer.health()
    assert health.since >= began
    assert health.error
    assert {url: part.state for url, part in health.servers.items()} == {
        proxy.url: "degraded",
        server.url: "ready",
    }
    proxy.restore()
    await within(RECOVERY, lambda: layer.health().state == "ready")
    assert layer.health().error == layer.health().servers[proxy.url].error is not None
    await layer.close()
    assert layer.health().state == "closed"


async def test_layer_that_cannot_open_says_why_afterwards(kind, proxy):
    """The layer is closed, and its health keeps the error."""
    layer = LAYERS[kind]([proxy.url])
    assert (layer.health().state, layer.health().error) == ("closed", None)
    proxy.cut()
    with pytest.raises(LayerUnavailable):
        await layer.open()
    assert layer.health().state == "closed"
    assert proxy.url in layer.health().error
