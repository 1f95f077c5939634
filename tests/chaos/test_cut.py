"""A connection breaks while the server lives."""

from __future__ import annotations

import pytest

from tests.chaos.proxy import Proxy, having_sent
from tests.chaos.support import RECOVERY, listening, within
from tests.chaos.traffic import Traffic, arrived

# Number of times that a connection is cut, each at another moment of the traffic.
CUTS = 3


@pytest.fixture
def proxy(server):
    with Proxy(server.port) as proxy:
        yield proxy


async def test_cut_subscription_is_one_gap_and_what_follows_arrives(proxy, make_layer, registry):
    """Publishing continues on its own connection; messages sent meanwhile are lost and reported."""
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
        # No send was refused.
        assert traffic.accepted[:recovered] == list(range(recovered))
        await arrived(traffic, seen, since=recovered)
        assert [len(each.gaps) for each in seen] == [CUTS] * len(seen)


async def test_cut_of_the_publishing_connection_is_no_gap(proxy, make_layer, registry):
    """Every accepted message arrives, because messages arrive on another connection."""
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
    """Messages wait in Redis meanwhile, even messages in transit; the gap says so."""
    sender = await make_layer("queue", [server.url])
    layer = await make_layer("queue", [proxy.url])
    registry.register("queue", layer)
    # With this much latency, some messages are always in transit.
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
