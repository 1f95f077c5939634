"""Every way to receive is safe to cancel: nothing is lost, doubled or reordered."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.chaos.backends import KINDS, PATIENCE, Crowd, address_for, make

COUNT = 100
# Longest time in seconds that a receiver waits before it gives up.
HURRY = 0.006
# More than COUNT, so that messages wait for a slow receiver and none is dropped.
CAPACITY = 1000
SEED = 20260


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
async def layers(kind, request):
    """A layer that receives, and one that sends, in another process if possible."""
    url = address_for(kind, request)
    async with make(kind, url, capacity=CAPACITY) as layer:
        if kind == "memory":
            yield layer, layer
            return
        async with make(kind, url, capacity=CAPACITY) as peer:
            yield layer, peer


async def numbers(get, rng) -> list[int]:
    """Receive COUNT messages, giving up again and again; fail if they do not arrive."""
    got, given_up, hurry = [], 0, HURRY
    async with asyncio.timeout(PATIENCE):
        while len(got) < COUNT:
            try:
                message = await asyncio.wait_for(get(), rng.uniform(0, hurry))
            except TimeoutError:
                given_up += 1
                # A busy machine may never be that quick.
                hurry *= 1.1
            else:
                hurry = HURRY
                got.append(message["n"])
    assert given_up >= 10, "the receiver was not impatient enough to show anything"
    return got


async def send_all(send, rng):
    """Send the numbers with random pauses."""
    for n in range(COUNT):
        await send({"type": "number", "n": n})
        if rng.random() < 0.7:
            await asyncio.sleep(rng.uniform(0, HURRY))


async def opened(layer, way):
    """Open a channel; return its name and the function that receives its next message."""
    if way == "mailbox":
        inbox = await layer.open_channel()
        return inbox.name, inbox.get
    name = await layer.new_channel()
    return name, lambda: layer.receive(name)


def in_thread(coroutine) -> asyncio.Future:
    """Run a coroutine on an event loop of another thread."""
    return asyncio.ensure_future(asyncio.to_thread(asyncio.run, coroutine))


@pytest.mark.parametrize("way", ["mailbox", "receive"])
async def test_messages_of_a_group_survive_an_impatient_receiver(layers, way):
    """The receiver gets 0 to 299 in order, each once, while 50 other channels come and go."""
    layer, sender = layers
    rng = random.Random(SEED)
    name, get = await opened(layer, way)
    await layer.group_add("room", name)
    async with Crowd(layer, rng).around("room") as crowd:
        sending = asyncio.create_task(send_all(lambda m: sender.group_send("room", m), rng))
        assert await numbers(get, rng) == list(range(COUNT))
        await sending
        async with asyncio.timeout(PATIENCE):
            while crowd.visits <= 50 or crowd.cut_short <= 50:
                await asyncio.sleep(HURRY)


async def test_messages_to_a_channel_survive_an_impatient_receiver(layers):
    """Messages to the channel itself arrive in order, each once."""
    layer, sender = layers
    rng = random.Random(SEED + 1)
    name, get = await opened(layer, "receive")
    async with Crowd(layer, rng).around("room"):
        sending = asyncio.create_task(send_all(lambda m: sender.send(name, m), rng))
        assert await numbers(get, rng) == list(range(COUNT))
        await sending


@pytest.mark.parametrize("kind", ["memory", "queue"], indirect=True)
async def test_messages_to_a_shared_channel_survive_an_impatient_receiver(layers):
    """Between two receives, messages wait at the broker and keep their order there."""
    layer, sender = layers
    rng = random.Random(SEED + 2)
    async with Crowd(layer, rng).around("room"):
        sending = asyncio.create_task(send_all(lambda m: sender.send("shared", m), rng))
        assert await numbers(lambda: layer.receive("shared"), rng) == list(range(COUNT))
        await sending


@pytest.mark.parametrize("way", ["mailbox", "receive"])
async def test_messages_of_a_group_survive_an_impatient_receiver_on_another_loop(layers, way):
    """The receiver runs in another thread than the layer's home loop."""
    layer, sender = layers
    rng = random.Random(SEED + 3)

    async def elsewhere():
        name, get = await opened(layer, way)
        await layer.group_add("room", name)
        joined.set()
        return await numbers(get, random.Random(SEED + 4))

    joined = Joined()
    receiving = in_thread(elsewhere())
    await joined.wait()
    async with Crowd(layer, rng).around("room"):
        await send_all(lambda m: sender.group_send("room", m), rng)
        assert await receiving == list(range(COUNT))


@pytest.mark.parametrize("kind", ["memory", "queue"], indirect=True)
async def test_messages_to_a_shared_channel_survive_an_impatient_receiver_on_another_loop(layers):
    """A message in transit to the other thread returns to its place when its receiver gives up."""
    layer, sender = layers
    rng = random.Random(SEED + 5)

    async def elsewhere():
        return await numbers(lambda: layer.receive("shared"), random.Random(SEED + 6))

    receiving = in_thread(elsewhere())
    async with Crowd(layer, rng).around("room"):
        await send_all(lambda m: sender.send("shared", m), rng)
        assert await receiving == list(range(COUNT))


class Joined:
    """An event that is set in one thread and awaited on a loop of another thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self):
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self):
        async with asyncio.timeout(PATIENCE):
            await self._event.wait()
