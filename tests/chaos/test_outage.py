"""The server dies, hangs or is silent, and consumers live on."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from fast_channels.testing.server import ValkeyServer
from tests.chaos.conftest import LAYERS
from tests.chaos.support import (
    MARGIN,
    RECOVERY,
    ROOM,
    listening,
    number,
    refused_in_time,
    until_sent,
    within,
)
from tests.layers.redis.support import paused
from tests.layers.support import arrives

# redis-py 8 closes a connection that was silent for 5 s, unless configured otherwise.
LONGER_THAN_A_CLIENT_WAITS = 7.0


@pytest.fixture
async def registered(registry, make_layer):
    """Make a layer of a kind on one server, and register it under the name of the kind."""

    async def make(kind, server):
        layer = await make_layer(kind, [server.url])
        registry.register(kind, layer)
        return layer

    return make


def told(caplog):
    """Return the levels of the log records about connections, in order."""
    caught = [r for r in caplog.records if r.name.startswith("fast_channels.layers")]
    return [record.levelname for record in caught if record.levelno >= logging.INFO]


async def test_death_of_the_server_is_one_gap_and_two_lines(kind, server, registered, caplog):
    """Five consumers survive it; senders get an error, and joins wait."""
    caplog.set_level(logging.INFO)
    layer = await registered(kind, server)
    late = await layer.open_channel()
    async with listening(kind) as seen:
        await layer.group_send(ROOM, number(1))
        await within(RECOVERY, lambda: all(each.numbers == [1] for each in seen))
        died = time.time()
        server.kill()
        for send in (layer.group_send, layer.send):
            await refused_in_time(lambda send=send: send("somebody-else", number(0)))
        joining = asyncio.create_task(layer.group_add("later", late.name))
        # The comparison with other libraries uses an outage of one second.
        await asyncio.wait([joining], timeout=1.0 - (time.time() - died))
        assert not joining.done()
        await asyncio.to_thread(server.start)
        back = time.time()
        await within(RECOVERY, lambda: all(each.gaps for each in seen))
        async with asyncio.timeout(RECOVERY):
            await joining
        await layer.group_send(ROOM, number(2))
        await layer.group_send("later", number(3))
        await within(RECOVERY, lambda: all(each.numbers == [1, 2] for each in seen))
    for each in seen:
        (gap,) = each.gaps
        assert gap["groups"] == [ROOM]
        assert gap["recovered"] is False
        assert gap["since"] <= died + MARGIN
        assert back - MARGIN <= gap["until"] <= time.time()
    gap, message = await arrives(late), await arrives(late)
    assert (gap["type"], message["n"]) == ("layer.gap", 3)
    assert (layer.statistics().gaps, layer.statistics().reconnects) == (1, 1)
    assert told(caplog) == ["WARNING", "INFO"]


async def test_server_that_hangs_or_has_nothing_to_say_ends_nothing(server, make_layer, registry):
    """
    Senders to a hanging server get an error in time; later all works, with at most one gap.

    A silent server causes no new connection. Both run in one test, because both take long.
    """
    with ValkeyServer() as quiet:
        for kind in LAYERS:
            registry.register(f"{kind} that hangs", await make_layer(kind, [server.url]))
            registry.register(f"idle {kind}", await make_layer(kind, [quiet.url]))
        hanging = [f"{kind} that hangs" for kind in LAYERS]
        idle = [f"idle {kind}" for kind in LAYERS]
        await asyncio.gather(hang(server, hanging, registry), be_idle(idle, registry))


async def hang(server, aliases, registry):
    layers = [registry[alias] for alias in aliases]
    async with listening(aliases[0]) as some, listening(aliases[1]) as others:
        with paused(server):
            sends = [
                refused_in_time(lambda send=send: send("somebody-else", number(0)))
                for layer in layers
                for send in (layer.group_send, layer.send)
            ]
            await asyncio.gather(*sends)
        for layer in layers:
            await until_sent(layer, number(1))
        await within(RECOVERY, lambda: all(each.numbers == [1] for each in some + others))
        for each in (some, others):
            assert [len(seen.gaps) for seen in each] in ([0] * 5, [1] * 5)


async def be_idle(aliases, registry):
    layers = [registry[alias] for alias in aliases]
    async with listening(aliases[0]) as some, listening(aliases[1]) as others:
        await asyncio.sleep(LONGER_THAN_A_CLIENT_WAITS)
        for layer in layers:
            await layer.group_send(ROOM, number(1))
        await within(RECOVERY, lambda: all(each.numbers == [1] for each in some + others))
        assert not any(each.gaps for each in some + others)
    for layer in layers:
        assert (layer.statistics().gaps, layer.statistics().reconnects) == (0, 0)
