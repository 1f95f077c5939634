"""The primary changes; Sentinels know its address, and layers follow."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
import redis

from fast_channels.exceptions import LayerUnavailable
from tests.chaos.conftest import LAYERS
from tests.chaos.servers import FAILOVER, MASTER, SentinelServer, WatchedPair
from tests.chaos.support import RECOVERY, listening, within, works
from tests.chaos.traffic import Traffic, arrived
from tests.layers.redis.support import paused


@pytest.fixture
def pair():
    with WatchedPair() as pair:
        yield pair


@pytest.fixture
def sentinels(server):
    """Two Sentinels of a primary that has no replica."""
    with SentinelServer(server.port) as one, SentinelServer(server.port) as other:
        yield one, other


def known_to(*sentinels, name=MASTER, **more):
    """An entry of `hosts`."""
    addresses = [("127.0.0.1", sentinel.port) for sentinel in sentinels]
    return {"sentinels": addresses, "master_name": name, **more}


def names_of(client):
    return [entry["name"] for entry in client.client_list()]


async def test_sentinels_are_asked_and_hung_up_on(kind, make_layer, sentinels, server):
    """No connection to a Sentinel stays open, no matter how often a connection was lost."""
    name = {"sentinel_kwargs": {"client_name": "layer"}}
    layer = await make_layer(kind, [known_to(*sentinels, **name)])
    assert await works(layer)
    server.kill()
    await asyncio.to_thread(server.start)
    await within(RECOVERY, lambda: layer.statistics().gaps == 1)
    for sentinel in sentinels:
        with redis.Redis(port=sentinel.port) as client:
            # A question may be in transit at this moment.
            await within(RECOVERY, lambda client=client: "layer" not in names_of(client))


async def test_sentinel_that_hangs_is_passed_over(make_layer, sentinels):
    """The layer asks another Sentinel."""
    one, other = sentinels
    with paused(one):
        assert await works(await make_layer("queue", [known_to(one, other)]))


async def test_name_that_no_sentinel_knows_is_named(kind, make_layer, sentinels):
    """The error of opening the layer has the name."""
    with pytest.raises(LayerUnavailable, match="No master found for 'other'"):
        await make_layer(kind, [known_to(*sentinels, name="other")])


async def kill(pair):
    """Kill the primary; Sentinels notice and promote the replica."""
    await asyncio.to_thread(pair.kill_primary)


async def change_places(pair):
    """Swap the roles without a crash; the old primary continues as a replica."""
    await asyncio.to_thread(pair.fail_over)


@pytest.mark.parametrize("happens", [kill, change_places])
async def test_failover_under_traffic_is_one_gap(happens, pair, make_layer, registry):
    """Messages sent after the failover arrive once, without any help."""
    layers = {kind: await make_layer(kind, [pair.host]) for kind in LAYERS}
    for kind, layer in layers.items():
        registry.register(kind, layer)
    async with contextlib.AsyncExitStack() as stack:
        listeners = [await stack.enter_async_context(listening(kind)) for kind in LAYERS]
        everybody = [each for seen in listeners for each in seen]
        traffics = [Traffic(layers[kind]) for kind in LAYERS]
        for traffic in traffics:
            await traffic.flows(0)
        await happens(pair)
        await within(FAILOVER, lambda: all(each.gaps for each in everybody))
        for traffic, seen in zip(traffics, listeners, strict=True):
            recovered = traffic.next
            await traffic.flows(recovered)
            await traffic.stop()
            # Accepted messages that the primary lost must not be called recovered.
            whole = all(each.gaps[0]["recovered"] for each in seen)
            await arrived(traffic, seen, since=0 if whole else recovered)
        assert [len(each.gaps) for each in everybody] == [1] * len(everybody)
