"""Tables, tasks and servers are as before after every visit, even one cancelled half-way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import tracemalloc

import pytest

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.in_memory import MemoryBroker
from fast_channels.testing import WebsocketCommunicator, inspect
from tests.chaos.backends import (
    KINDS,
    PATIENCE,
    a_while,
    address_for,
    becomes,
    make,
    on_server,
)

CYCLES = 2000
# Moments to cancel at: so many loop steps, or seconds in which a server or another thread may
# have answered a part of the requests.
MOMENTS = (*range(21), *(n * 0.0003 for n in range(1, 13)))
# Seconds that the slow broker takes to answer.
SLOW = 0.05
# Bytes. Keeping a single name per cycle would take five times as much.
GROWTH = 64 * 1024
MESSAGE = {"type": "chat.message", "text": "hello"}
ALIAS = "baseline"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def url(kind, request):
    return address_for(kind, request)


@pytest.fixture
async def layer(kind, url):
    async with make(kind, url) as layer:
        # Create the permanent parts first: readers, connections and the inbox of the process.
        inbox = await layer.open_channel()
        await layer.group_add("first", inbox.name)
        await layer.group_send("first", MESSAGE)
        await asyncio.wait_for(inbox.get(), PATIENCE)
        await layer.close_channel(inbox.name)
        await becomes(lambda: not inspect.table_sizes(layer)["subscription tasks"])
        yield layer


def tasks():
    """Return the names of all tasks, except the ones that come and go with each command."""
    return sorted(t.get_name() for t in asyncio.all_tasks() if "redis://" not in t.get_name())


@contextlib.asynccontextmanager
async def nothing_left(layer, url):
    """Check that tables, tasks and server are the same after the block as before it."""

    def state():
        return inspect.table_sizes(layer), tasks(), on_server(url) if url else None

    before = state()
    yield
    with contextlib.suppress(TimeoutError):
        await becomes(lambda: state() == before)
    assert state() == before


def memory() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


# -- many cycles -------------------------------------------------------------


async def cycles(layer, number, name):
    """Join and leave groups with unique names; every tenth time, close the whole channel."""
    inbox = await layer.open_channel()
    for n in range(number):
        group = f"{name}-{n}"
        await layer.group_add(group, inbox.name)
        if n % 10:
            await layer.group_discard(group, inbox.name)
        else:
            await layer.close_channel(inbox.name)
            inbox = await layer.open_channel()
    await layer.close_channel(inbox.name)


async def many_cycles(layer, number, name):
    """Run the cycles, 20 at a time."""
    await asyncio.gather(*(cycles(layer, number // 20, f"{name}-{n}") for n in range(20)))


async def test_two_thousand_joins_and_leaves_leave_nothing(layer, url):
    """The tables, the broker and the tasks are as before."""
    async with nothing_left(layer, url):
        await many_cycles(layer, CYCLES, "round")


@pytest.mark.slow
async def test_a_thousand_joins_and_leaves_take_no_memory(layer):
    """The layer forgets names that were used once."""
    tracemalloc.start()
    try:
        # Python rebuilds its table of interned names now and then. If that happened during the
        # measurement for the first time, the old table would look like growth.
        for n in range(100_000):
            sys.intern(f"filler-{n}")
        await many_cycles(layer, CYCLES // 10, "first")
        before = memory()
        await many_cycles(layer, CYCLES // 2, "second")
        assert memory() - before < GROWTH
    finally:
        tracemalloc.stop()


# -- cancelled at any moment ----------------------------------------------------


async def cancelled(coroutine, moment):
    """Run a coroutine for a while, then cancel it; return whether it was finished."""
    task = asyncio.create_task(coroutine)
    await a_while(moment)
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([task])
    if task.cancelled():
        return False
    task.result()
    return True


@contextlib.asynccontextmanager
async def member(layer, group="room"):
    inbox = await layer.open_channel()
    try:
        await layer.group_add(group, inbox.name)
        yield inbox
    finally:
        await layer.close_channel(inbox.name)


async def cancel_open_channel(layer, moment):
    """Cancelling open_channel leaves no channel, because no caller knows its name."""
    names = []

    async def opening():
        names.append((await layer.open_channel()).name)

    await cancelled(opening(), moment)
    for name in names:
        await layer.close_channel(name)


async def cancel_new_channel(layer, moment):
    names = []

    async def opening():
        names.append(await layer.new_channel())

    await cancelled(opening(), moment)
    for name in names:
        await layer.close_channel(name)


async def cancel_close_channel(layer, moment):
    """A close that has begun is completed."""
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await layer.group_add("hall", inbox.name)
    await cancelled(layer.close_channel(inbox.name), moment)
    if not moment:
        # The call was cancelled before it began.
        await layer.close_channel(inbox.name)


async def cancel_group_add(layer, moment):
    """The channel is in the group if and only if the call returned."""
    inbox = await layer.open_channel()
    done = await cancelled(layer.group_add("room", inbox.name), moment)

    def is_member():
        # The call may have been counted in the thread of the layer's home loop.
        with contextlib.suppress(RuntimeError):
            return layer.statistics().members
        return None

    await becomes(lambda: is_member() == done)
    await layer.close_channel(inbox.name)


async def cancel_group_discard(layer, moment):
    async with member(layer) as inbox:
        await cancelled(layer.group_discard("room", inbox.name), moment)


async def cancel_group_send(layer, moment):
    """The message arrives once or not at all."""
    async with member(layer) as inbox:
        await cancelled(layer.group_send("room", MESSAGE), moment)
        await layer.group_send("room", {"type": "end"})
        got = [await asyncio.wait_for(inbox.get(), PATIENCE) for _ in range(1)]
        while got[-1] != {"type": "end"}:
            got.append(await asyncio.wait_for(inbox.get(), PATIENCE))
        assert len(got) <= 2


async def cancel_receive(layer, moment):
    """A message that the cancelled call would have received is there for the next call."""
    name = await layer.new_channel()
    receiving = asyncio.create_task(cancelled(layer.receive(name), moment))
    await layer.send(name, MESSAGE)
    if not await receiving:
        assert await asyncio.wait_for(layer.receive(name), PATIENCE) == MESSAGE
    await layer.close_channel(name)


CANCELLED = [
    cancel_open_channel,
    cancel_new_channel,
    cancel_close_channel,
    cancel_group_add,
    cancel_group_discard,
    cancel_group_send,
    cancel_receive,
]


@pytest.mark.parametrize("what", CANCELLED, ids=lambda what: what.__name__)
async def test_call_cancelled_at_any_moment_leaves_nothing(layer, url, what):
    """The moments range from 0, before the call begins, to 20 loop steps."""
    async with nothing_left(layer, url):
        for moment in MOMENTS:
            await what(layer, moment)


@pytest.mark.parametrize("what", CANCELLED, ids=lambda what: what.__name__)
async def test_call_cancelled_on_another_loop_leaves_nothing(layer, url, what):
    """A call from another thread than the home loop's leaves nothing either."""

    async def all_moments():
        for moment in MOMENTS:
            await what(layer, moment)

    async with nothing_left(layer, url):
        await asyncio.to_thread(asyncio.run, all_moments())


class Visitor(AsyncWebsocketConsumer):
    """Joins groups before and during its connect()."""

    channel_layer_alias = ALIAS
    groups = ("room", "hall")

    async def connect(self):
        await self.channel_layer.group_add("more", self.channel_name)
        await self.accept()
        await self.channel_layer.group_send("more", MESSAGE)

    async def chat_message(self, message):
        await self.send(message["text"])

    async def disconnect(self, code):
        await self.channel_layer.group_discard("more", self.channel_name)


async def test_consumer_cancelled_at_any_moment_leaves_nothing(layer, url, registry):
    """Tables are as before even if the cleanup is cancelled in its turn."""
    registry.register(ALIAS, layer)
    async with nothing_left(layer, url):
        for moment in MOMENTS:
            for again in (None, 0, 1, 3):
                await cancel_consumer(moment, again)


async def test_consumer_cancelled_on_another_loop_leaves_nothing(layer, url, registry):
    """A consumer in another thread than the home loop's leaves nothing either."""
    registry.register(ALIAS, layer)

    async def all_moments():
        for moment in MOMENTS:
            for again in (None, 0, 1, 3):
                await cancel_consumer(moment, again)

    async with nothing_left(layer, url):
        await asyncio.to_thread(asyncio.run, all_moments())


async def cancel_consumer(moment, again):
    client = WebsocketCommunicator(Visitor.as_asgi(), "/")
    await client.send_input({"type": "websocket.connect"})
    await a_while(moment)
    client.future.cancel()
    if again is not None:
        await a_while(again)
        client.future.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([client.future])


# -- concurrent joins ------------------------------------------------------------


class SlowBroker(MemoryBroker):
    """
    Answers after 50 ms, and delivers only topics with a subscription.

    Requests take effect in their order, as on a connection.
    """

    delivers_everything = False

    def __init__(self, *args):
        super().__init__(*args)
        self.topics = set()

    async def start(self, deliver, report_outage):
        def heard(topic, payload, *, positions):
            return deliver(topic, payload, positions=positions) if topic in self.topics else 0

        await super().start(heard, report_outage)

    async def subscribe(self, topic):
        await asyncio.sleep(SLOW / 2)
        self.topics.add(topic)
        await asyncio.sleep(SLOW / 2)

    async def unsubscribe(self, topic):
        await asyncio.sleep(SLOW / 2)
        self.topics.discard(topic)
        await asyncio.sleep(SLOW / 2)


class SlowLayer(InMemoryChannelLayer):
    """A layer with a slow broker; `broker` is the one of the present session."""

    def _make_broker(self):
        self.broker = SlowBroker(self._store, self.get_capacity)
        return self.broker


class Relay:
    """Forwards bytes to a server and back, with a delay of half of SLOW each way."""

    def __init__(self, port):
        self._port = port
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        return f"redis://127.0.0.1:{port}"

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        finally:
            writer.close()
            back.close()

    async def _pass(self, reader, writer):
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            # Scheduled in order, so that a chunk does not delay the next one.
            loop.call_later(SLOW / 2, writer.write, data)
        loop.call_later(SLOW / 2, writer.close)


@pytest.fixture(params=KINDS)
async def slow(request):
    """A layer whose broker takes 50 ms, and the groups that the broker was asked to deliver."""
    if request.param == "memory":
        async with SlowLayer() as layer:
            yield layer, lambda: sorted(layer.broker.topics)
        return
    url = request.getfixturevalue("redis_url")
    relay = Relay(int(url.rpartition(":")[2]))
    # A subscription or, for the queue, a key with members.
    where, mark = {
        "pubsub": ("topics", "__group__"),
        "queue": ("keys", ":group:"),
        "streams": ("topics", "__log__"),
    }[request.param]
    async with relay as slow_url, make(request.param, slow_url) as layer:
        yield layer, lambda: [name for name in on_server(url)[where] if mark in name]


async def hears(layer, group, inboxes):
    """Return whether every inbox receives a message that is sent to the group now."""
    await layer.group_send(group, MESSAGE)
    async with asyncio.timeout(PATIENCE):
        for inbox in inboxes:
            assert await inbox.get() == MESSAGE


async def test_twenty_first_joins_at_once_hear_everything(slow):
    """A channel hears everything as soon as its own group_add has returned."""
    layer, subscribed = slow
    inboxes = await asyncio.gather(*(layer.open_channel() for _ in range(20)))
    joins = [asyncio.create_task(layer.group_add("room", i.name)) for i in inboxes]
    for join in asyncio.as_completed(joins):
        await join
    await hears(layer, "room", inboxes)
    await asyncio.gather(*(layer.close_channel(i.name) for i in inboxes))
    await becomes(lambda: subscribed() == [])


async def test_join_while_the_last_member_leaves_hears_everything(slow):
    """The join may come at any moment of the leaving."""
    layer, subscribed = slow
    leaver, joiner = await layer.open_channel(), await layer.open_channel()
    for part in range(6):
        await layer.group_add("room", leaver.name)
        leaving = asyncio.create_task(layer.group_discard("room", leaver.name))
        await asyncio.sleep(part * SLOW / 4)
        await layer.group_add("room", joiner.name)
        await hears(layer, "room", [joiner])
        await leaving
        await layer.group_discard("room", joiner.name)
    await becomes(lambda: subscribed() == [])


async def test_random_joins_leaves_and_cancellations_end_in_what_was_wanted_last(slow):
    """Ten channels join and leave at random; only the channels that stayed hear the group."""
    layer, subscribed = slow
    rng = random.Random(1)
    inboxes = await asyncio.gather(*(layer.open_channel() for _ in range(10)))

    async def fickle(inbox):
        for _ in range(15):
            change = rng.choice([layer.group_add, layer.group_discard])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rng.choice([0, 0.01, 0.03, 0.2])):
                    await change("room", inbox.name)

    await asyncio.gather(*map(fickle, inboxes))
    staying, leaving = inboxes[:5], inboxes[5:]
    changes = [layer.group_add("room", i.name) for i in staying]
    changes += [layer.group_discard("room", i.name) for i in leaving]
    await asyncio.gather(*changes)
    await hears(layer, "room", staying)
    assert not any(map(len, leaving))
    await asyncio.gather(*(layer.close_channel(i.name) for i in inboxes))
    await becomes(lambda: subscribed() == [])


async def test_cancelled_join_does_not_take_another_one_of_the_same_channel_with_it(slow):
    """Two tasks add one channel to a group; the task that is not cancelled counts."""
    layer, _ = slow
    inbox = await layer.open_channel()
    joins = [asyncio.create_task(layer.group_add("room", inbox.name)) for _ in range(2)]
    await asyncio.sleep(0)
    joins[0].cancel()
    await joins[1]
    await hears(layer, "room", [inbox])


async def test_cancelled_receive_does_not_take_another_one_of_the_same_channel_with_it(slow):
    """Two tasks receive from a channel that the first task opens."""
    layer, _ = slow
    name = await layer.new_channel()
    await layer.close_channel(name)
    receives = [asyncio.create_task(layer.receive(name)) for _ in range(2)]
    await asyncio.sleep(0)
    receives[0].cancel()
    await asyncio.wait([receives[0]])
    await becomes(lambda: layer.statistics().channels == 1)
    sending = asyncio.create_task(layer.send(name, MESSAGE))
    assert await asyncio.wait_for(receives[1], PATIENCE) == MESSAGE
    await sending
