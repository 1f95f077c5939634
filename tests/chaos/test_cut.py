"""The server lives, but a connection to it breaks."""

from __future__ import annotations

import pytest

from tests.chaos.proxy import Proxy, having_sent
from tests.chaos.support import RECOVERY, listening, within
from tests.chaos.traffic import Traffic, arrived

# Times that a connection is cut, each at another moment of the traffic.
CUTS = 3


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


async def test_cut_subscription_is_one_gap_and_what_follows_arrives(proxy, make_layer, registry):
    """Publishing goes on over its own connection; only what came between is lost, and told."""
    layer = await make_layer("pubsub", [proxy.url])
    registry.register("pubsub", layer)
    async with listening("pubsub") as seen:
        traffic = Traffic(layer)
        for cuts in range(1, CUTS + 1):
            await traffic.flows(traffic.next)
            assert proxy.cut_now(having_sent("SUBSCRIBE")) == 1
            await within(RECOVERY, lambda n=cuts: all(len(each.gaps) == n for each in seen))
        recovered = traffic.next
        await traffic.flows(recovered)
        await traffic.stop()
        # None was refused.
        assert traffic.accepted[:recovered] == list(range(recovered))
        await arrived(traffic, seen, since=recovered)
        assert [len(each.gaps) for each in seen] == [CUTS] * len(seen)


async def test_cut_of_the_publishing_connection_is_no_gap(proxy, make_layer, registry):
    """Whatever was accepted arrives: it was not the connection that messages come by."""
    layer = await make_layer("pubsub", [proxy.url])
    registry.register("pubsub", layer)
    async with listening("pubsub") as seen:
        traffic = Traffic(layer)
        for _ in range(CUTS):
            await traffic.flows(traffic.next)
            assert proxy.cut_now(having_sent("PUBLISH")) == 1
        await traffic.flows(traffic.next)
        await traffic.stop()
        await arrived(traffic, seen)
        assert [each.gaps for each in seen] == [[]] * len(seen)


async def test_cut_connections_of_the_queue_lose_nothing(proxy, server, make_layer, registry):
    """Messages wait in Redis meanwhile, those on their way too; the gap says so."""
    sender = await make_layer("queue", [server.url])
    layer = await make_layer("queue", [proxy.url])
    registry.register("queue", layer)
    # With this much latency there always is something on its way.
    proxy.delay(0.03)
    async with listening("queue") as seen:
        traffic = Traffic(sender)
        for cuts in range(1, CUTS + 1):
            await traffic.flows(traffic.next)
            assert proxy.cut_now() >= 1
            await within(RECOVERY, lambda n=cuts: all(len(each.gaps) == n for each in seen))
        await traffic.flows(traffic.next)
        await traffic.stop()
        await arrived(traffic, seen)
        assert [len(each.gaps) for each in seen] == [CUTS] * len(seen)
        assert {gap["recovered"] for each in seen for gap in each.gaps} == {True}
