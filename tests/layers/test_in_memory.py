"""Properties of the layer within one process that other layers lack."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers import in_memory as module
from fast_channels.testing import inspect
from tests.layers.support import arrives, received, turns


@pytest.fixture
def clock(monkeypatch):
    """A clock in place of the broker's; set clock.now."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


async def test_channels_and_groups_can_be_inspected(memory):
    """The names lead to waiting messages and to members."""
    name = await memory.new_channel()
    await memory.group_add("room", name)
    await memory.group_add("room", "shared")
    await memory.group_send("room", {"type": "test"})
    assert set(memory.channels) == {name, "shared"}
    assert len(memory.channels[name]) == len(memory.channels["shared"]) == 1
    assert memory.groups == {"room": [name, "shared"]}


async def test_nothing_is_listed_of_channels_and_groups_that_ended(memory):
    """Channels and groups are removed once they are read, left and closed."""
    name = await memory.new_channel()
    await memory.group_add("room", name)
    await memory.group_add("room", "shared")
    await memory.send("shared", {"type": "test"})
    await received(memory, "shared")
    await memory.group_discard("room", "shared")
    await memory.close_channel(name)
    assert (memory.channels, memory.groups) == ({}, {})


async def test_flush_empties_the_tables(memory):
    """The tables include queues and shared memberships."""
    await memory.group_add("room", "shared")
    await memory.group_add("room", await memory.new_channel())
    await memory.group_send("room", {"type": "test"})
    await memory.flush()
    assert (memory.channels, memory.groups) == ({}, {})


async def test_message_expires_after_its_time(memory, clock):
    """Each message expires by its own age."""
    await memory.send("shared", {"type": "test", "n": 0})
    clock.now += 30
    await memory.send("shared", {"type": "test", "n": 1})
    clock.now += 31
    assert await received(memory, "shared") == {"type": "test", "n": 1}


async def test_expired_messages_take_no_room(clock):
    """A full queue accepts messages again."""
    async with InMemoryChannelLayer(expiry=10, capacity=1) as layer:
        await layer.send("shared", {"type": "test", "n": 0})
        with pytest.raises(ChannelFull):
            await layer.send("shared", {"type": "test", "n": 1})
        clock.now += 11
        await layer.send("shared", {"type": "test", "n": 2})
        assert (await received(layer, "shared"))["n"] == 2


async def test_receivers_of_a_queue_are_served_in_turn(memory):
    """The receiver that waits longest comes first."""
    served = []

    async def receive(number):
        served.append((number, (await memory.receive("shared"))["n"]))

    receivers = [asyncio.create_task(receive(number)) for number in range(5)]
    await turns()
    for n in range(5):
        await memory.send("shared", {"type": "test", "n": n})
    async with asyncio.timeout(5):
        await asyncio.gather(*receivers)
    assert served == [(n, n) for n in range(5)]


async def test_turn_of_a_cancelled_receiver_passes_to_the_next(memory):
    """A message that arrived at this moment is not left in the queue."""
    first, second = (asyncio.create_task(memory.receive("shared")) for _ in range(2))
    await turns()
    await inspect.broker(memory).push("shared", inspect.encode(memory, {"type": "test"}), 10)
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == {"type": "test"}
    assert inspect.broker(memory)._waiting == {}


async def test_cancelled_receivers_leave_nothing_behind(memory):
    """After ten thousand of them, no list has grown."""
    for _ in range(100):
        receivers = [asyncio.create_task(memory.receive("shared")) for _ in range(100)]
        await turns(2)
        for receiver in receivers:
            receiver.cancel()
        await asyncio.gather(*receivers, return_exceptions=True)
    assert inspect.broker(memory)._waiting == {}
    assert memory._store.queues == {}


async def test_reader_has_turns_while_a_sender_sends_in_a_loop():
    """The reader gets far more messages than its mailbox holds."""
    async with InMemoryChannelLayer(capacity=3) as layer:
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        seen = []

        async def read():
            while len(seen) < 200:
                seen.append((await inbox.get())["n"])

        reading = asyncio.create_task(read())
        for n in range(100):
            await layer.group_send("room", {"type": "test", "n": 2 * n})
            await layer.send(inbox.name, {"type": "test", "n": 2 * n + 1})
        async with asyncio.timeout(5):
            await reading
        assert seen == list(range(200))
        assert inbox.dropped == 0


def test_named_channel_keeps_its_messages_between_two_loops():
    """Tests for fast-channels 1.1 that run one loop each depend on it."""
    layer = InMemoryChannelLayer()
    asyncio.run(layer.send("shared", {"type": "test"}))
    assert asyncio.run(received(layer, "shared")) == {"type": "test"}


def test_loop_that_was_paused_does_not_end_its_successor():
    """The layer has moved on, and the first loop closes only its own session."""
    layer = InMemoryChannelLayer()
    first = asyncio.new_event_loop()
    first.run_until_complete(layer.open())
    moved, checked = threading.Event(), threading.Event()

    async def successor():
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        moved.set()
        await asyncio.to_thread(checked.wait)
        await layer.group_send("room", {"type": "test"})
        return await arrives(inbox)

    with concurrent.futures.ThreadPoolExecutor() as threads:
        result = threads.submit(asyncio.run, successor())
        assert moved.wait(10)
        first.run_until_complete(turns())
        first.close()
        checked.set()
        assert result.result() == {"type": "test"}


async def test_layer_used_while_it_is_closed_works_afterwards(memory):
    """A join in progress does not let the old session end the new one."""
    old = await memory.open_channel()
    joining = asyncio.create_task(memory.group_add("room", old.name))
    closing = asyncio.create_task(memory.close())
    await asyncio.wait([joining, closing])
    joining.exception()
    inbox = await memory.open_channel()
    await memory.group_add("room", inbox.name)
    await memory.group_send("room", {"type": "test"})
    assert await arrives(inbox) == {"type": "test"}


@pytest.mark.parametrize("steps", range(6))
async def test_reopening_while_closing_does_not_silence_the_layer(memory, steps):
    """The reopening may come at any step of the closing."""
    inbox = await memory.open_channel()
    joining = asyncio.create_task(memory.group_add("room", inbox.name))
    closing = asyncio.create_task(memory.close())
    await turns(steps)
    await memory.open()
    await asyncio.wait([joining, closing])
    joining.exception()
    again = await memory.open_channel()
    await memory.group_add("room", again.name)
    await memory.group_send("room", {"type": "test"})
    assert await arrives(again) == {"type": "test"}


async def test_health_is_that_of_the_process(memory):
    """The layer has no connection that could break."""
    assert (memory.health().state, memory.health().servers) == ("ready", {})
    await memory.close()
    assert memory.health().state == "closed"
    assert InMemoryChannelLayer().health().state == "closed"


async def test_receiver_that_came_while_others_were_served_is_served_later(memory):
    """The third receiver begins to wait before both of the served ones have ended."""
    receivers = [asyncio.create_task(memory.receive("shared")) for _ in range(2)]
    await turns()
    await inspect.broker(memory).push("shared", inspect.encode(memory, {"type": "test"}), 10)
    await inspect.broker(memory).push("shared", inspect.encode(memory, {"type": "test"}), 10)
    receivers += [asyncio.create_task(memory.receive("shared")) for _ in range(3)]
    await turns()
    for _ in range(3):
        await memory.send("shared", {"type": "test"})
    async with asyncio.timeout(5):
        assert await asyncio.gather(*receivers) == [{"type": "test"}] * 5
