"""Names are spread over two and three servers; losing one server loses only its share."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.redis.utils import consistent_hash
from fast_channels.testing.server import ValkeyServer
from tests.chaos.proxy import Proxy
from tests.chaos.support import MARGIN, RECOVERY, SEND_TIMEOUT, within
from tests.conftest import empty

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_channels.layers.mailbox import Mailbox

# Number of groups, and of channels of each process.
NAMES = 30

# Both layers in one test, because it takes long.
TWO = ("pubsub", "queue")

# Seconds for steps that do not need the server that is away.
PROMPT = 4.0


@pytest.fixture(scope="module")
def valkeys():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ValkeyServer()) for _ in range(3)]


@pytest.fixture
def network(valkeys):
    """Make proxies in front of the first servers; the servers are empty."""
    with contextlib.ExitStack() as stack:

        def make(hosts):
            for server in valkeys[:hosts]:
                empty(server)
            return [stack.enter_context(Proxy(server.port)) for server in valkeys[:hosts]]

        yield make


@dataclass(eq=False)
class Way:
    """A name to send to, the one channel that receives it, and the hosts that this needs."""

    send: Callable[[dict], Awaitable[None]]
    inbox: Mailbox
    hosts: set[int]


@dataclass
class Ways:
    """All names in use, and the messages that have arrived for each."""

    of: list[Way] = field(default_factory=list)
    # How often each round's message has arrived, by way and round.
    arrived: Counter[tuple[int, int]] = field(default_factory=Counter)
    gaps: Counter[Mailbox] = field(default_factory=Counter)
    readers: dict[Mailbox, asyncio.Task] = field(default_factory=dict)

    def add(self, way: Way) -> None:
        self.of.append(way)
        if way.inbox not in self.readers:
            self.readers[way.inbox] = asyncio.create_task(self._read(way.inbox))

    async def _read(self, inbox: Mailbox) -> None:
        while True:
            message = await inbox.get()
            if message["type"] == "layer.gap":
                self.gaps[inbox] += 1
            else:
                assert self.of[message["way"]].inbox is inbox
                self.arrived[message["way"], message["round"]] += 1

    async def all_send(self, round_: int, *, patience: float) -> set[int]:
        """Send to all names at once; return the ways on which the layer was unavailable."""

        async def send(index: int) -> None:
            message = {"type": "test", "way": index, "round": round_}
            async with asyncio.timeout(patience):
                await self.of[index].send(message)

        sends = map(send, range(len(self.of)))
        results = await asyncio.gather(*sends, return_exceptions=True)
        failed = {index: result for index, result in enumerate(results) if result is not None}
        assert all(isinstance(result, LayerUnavailable) for result in failed.values()), failed
        return set(failed)

    def have_arrived(self, indices: set[int], round_: int) -> bool:
        return all(self.arrived[index, round_] == 1 for index in indices)

    def through(self, host: int) -> set[int]:
        return {index for index, way in enumerate(self.of) if host in way.hosts}

    @property
    def everything(self) -> set[int]:
        return set(range(len(self.of)))

    async def stop(self) -> None:
        """Stop reading; raise the first exception of a reader."""
        for reader in self.readers.values():
            reader.cancel()
        results = await asyncio.gather(*self.readers.values(), return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results), results


def hosts_of_channel(kind, name, ring):
    """Return the host that a channel lives on: for the queue, the host of its process's inbox."""
    address = name[: name.index("!") + 1] if kind == "queue" else name
    return {consistent_hash(address, ring)}


def hosts_of_group(kind, group, name, ring):
    """Return the hosts that a group with this member needs."""
    if kind == "pubsub":
        return {consistent_hash(f"asgi__group__{group}", ring)}
    return {consistent_hash(group, ring)} | hosts_of_channel(kind, name, ring)


async def add_ways(ways, kind, ring, sender, receiver, groups):
    """Add one channel of `receiver` for each of the groups, reachable in two ways."""
    for group in groups:
        inbox = await receiver.open_channel()
        await receiver.group_add(group, inbox.name)
        by_group = functools.partial(sender.group_send, group)
        ways.add(Way(by_group, inbox, hosts_of_group(kind, group, inbox.name, ring)))
        by_name = functools.partial(sender.send, inbox.name)
        ways.add(Way(by_name, inbox, hosts_of_channel(kind, inbox.name, ring)))


@pytest.mark.parametrize("ring", [2, 3])
async def test_every_message_arrives_on_many_hosts(kind, ring, make_layer, network):
    """Messages arrive once, by group and by name, in both directions between two processes."""
    urls = [proxy.url for proxy in network(ring)]
    one, other = await make_layer(kind, urls), await make_layer(kind, urls)
    ways = Ways()
    await add_ways(ways, kind, ring, one, other, [f"there-{n}" for n in range(NAMES)])
    await add_ways(ways, kind, ring, other, one, [f"back-{n}" for n in range(NAMES)])
    # With unused hosts, this would test fewer hosts.
    assert set().union(*(way.hosts for way in ways.of)) == set(range(ring))
    for round_ in range(3):
        assert not await ways.all_send(round_, patience=SEND_TIMEOUT)
    await within(RECOVERY, lambda: ways.arrived.total() >= 3 * len(ways.of))
    await ways.stop()
    assert all(ways.have_arrived(ways.everything, round_) for round_ in range(3))
    assert not ways.gaps


async def receivers_around(lost, kind, make_layer, urls):
    """Make two processes; if they have inboxes in Redis, one of those is on the lost host."""
    if kind == "pubsub":
        return [await make_layer(kind, urls), await make_layer(kind, urls)]
    found = {}
    while len(found) < 2:
        layer = await make_layer(kind, urls)
        inbox = await layer.open_channel()
        affected = lost in hosts_of_channel(kind, inbox.name, len(urls))
        await layer.close_channel(inbox.name)
        if found.setdefault(affected, layer) is not layer:
            await layer.close()
    return list(found.values())


async def lose_one(kind, lose, make_layer, proxies, *, gaps):
    """
    Lose one of the hosts and get it back, sending to all names meanwhile.

    Return the outcome, and the channels that are reached through the host, once each of them
    has had `gaps` gaps.
    """
    lost, ring = 1, len(proxies)
    urls = [proxy.url for proxy in proxies]
    sender = await make_layer(kind, urls)
    ways = Ways()
    for n, receiver in enumerate(await receivers_around(lost, kind, make_layer, urls)):
        groups = [f"{'ab'[n]}-{number}" for number in range(NAMES // 2)]
        await add_ways(ways, kind, ring, sender, receiver, groups)
    assert not await ways.all_send(0, patience=SEND_TIMEOUT)
    await within(RECOVERY, lambda: ways.have_arrived(ways.everything, 0))

    affected = ways.through(lost)
    assert affected
    assert affected < ways.everything
    lose(proxies[lost])
    sending = asyncio.create_task(ways.all_send(1, patience=SEND_TIMEOUT + MARGIN))
    await within(PROMPT, lambda: ways.have_arrived(ways.everything - affected, 1))
    assert await sending == affected
    # A refusal detects it at once, or a heartbeat without an answer does later.
    lame = {url: "degraded" if url == urls[lost] else "ready" for url in urls}
    await within(RECOVERY, lambda: health_of(sender) == ("degraded", lame))
    proxies[lost].restore()

    async with asyncio.timeout(RECOVERY):
        round_ = 2
        while await ways.all_send(round_, patience=SEND_TIMEOUT) or not await soon(
            functools.partial(ways.have_arrived, ways.everything, round_)
        ):
            round_ += 1
    assert not await ways.all_send(1000, patience=SEND_TIMEOUT)
    await within(RECOVERY, lambda: ways.have_arrived(ways.everything, 1000))
    concerned = {ways.of[index].inbox for index in affected}
    # A connection that has carried nothing for this test may take longer to recover.
    await within(RECOVERY, lambda: all(ways.gaps[inbox] >= gaps for inbox in concerned))
    assert health_of(sender) == ("ready", dict.fromkeys(urls, "ready"))
    await ways.stop()
    assert max(ways.arrived.values()) == 1
    return ways, concerned


def health_of(layer):
    """Return the state of a layer as a whole, and of each of its servers."""
    health = layer.health()
    return health.state, {url: part.state for url, part in health.servers.items()}


async def soon(condition):
    """Return whether a condition becomes true soon."""
    try:
        await within(0.2, condition)
    except TimeoutError:
        return False
    return True


async def test_host_that_is_cut_off_takes_its_share_with_it(make_layer, network):
    """Sends to the lost host fail at once and all others arrive; affected channels get one gap."""
    kinds = (
        lose_one(kind, Proxy.cut, make_layer, network(3), gaps=1) for kind in ("pubsub", "queue")
    )
    (pubsub, concerned), (queue, _) = await asyncio.gather(*kinds)
    assert pubsub.gaps == dict.fromkeys(concerned, 1)
    # Other channels may get a gap too: an inbox is read on all hosts, because peers may write
    # to any of them.
    assert set(queue.gaps.values()) == {1}


async def test_host_that_swallows_everything_takes_its_share_with_it(make_layer, network):
    """Sends to the lost host fail in time and delay no others; there is at most one gap."""
    kinds = (
        lose_one(kind, Proxy.blackhole, make_layer, network(3), gaps=0)
        for kind in ("pubsub", "queue")
    )
    for ways, _ in await asyncio.gather(*kinds):
        assert set(ways.gaps.values()) <= {1}
