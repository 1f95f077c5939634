"""The sender passes on one event at a time, and gives up on clients that do not read."""

from __future__ import annotations

import asyncio
import time

import pytest

from fast_channels.consumer.sender import INTERRUPT_AGAIN_SECONDS, Sender
from tests.consumer.support import settled, until

# Seconds: longer than any step here takes, and short enough to wait for.
SOON = 0.05


class Server:
    """A `send` that records its events, and does not return until a test allows it."""

    def __init__(self) -> None:
        self.began: list = []
        self.taken: list = []
        self.open = asyncio.Event()
        self.open.set()
        # The sends in progress, and the largest number of them at once.
        self.running = 0
        self.most = 0

    async def __call__(self, event) -> None:
        self.began.append(event)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
            self.taken.append(event)
        finally:
            self.running -= 1


def begin(sender, event):
    """Send in a task, as a handler or another task would."""

    async def send():
        return await sender(event)

    return asyncio.create_task(send())


@pytest.fixture
async def server():
    tasks = asyncio.all_tasks()
    server = Server()
    yield server
    await until(lambda: asyncio.all_tasks() - tasks <= {asyncio.current_task()})


async def test_event_is_handed_over(server):
    """The sender returns True."""
    sender = Sender(server, SOON)
    assert await sender({"n": 1}) is True
    assert server.taken == [{"n": 1}]
    sender.close()


async def test_second_send_waits_for_the_first(server):
    """Sends are passed on one at a time, in their order."""
    server.open.clear()
    sender = Sender(server, None)
    sends = [begin(sender, {"n": n}) for n in range(5)]
    await settled()
    assert server.began == [{"n": 0}]
    server.open.set()
    assert await asyncio.gather(*sends) == [True] * 5
    assert server.taken == [{"n": n} for n in range(5)]
    assert server.most == 1


async def test_nobody_overtakes_who_waits(server):
    """A task that sends again and again waits behind the others."""
    server.open.clear()
    sender = Sender(server, None)

    async def eager():
        for _ in range(3):
            await sender("eager")

    first = asyncio.create_task(eager())
    await settled()
    second = begin(sender, "patient")
    await settled()
    server.open.set()
    await asyncio.gather(first, second)
    assert server.taken[1] == "patient"


async def test_send_that_takes_too_long_is_interrupted(server, clock):
    """The interrupted sender continues uncancelled, and the next one has its turn."""
    server.open.clear()
    sender = Sender(server, SOON)
    stuck = begin(sender, "stuck")
    await settled()
    waiting = begin(sender, "waiting")
    await clock.pass_(SOON)
    assert await stuck is False
    assert sender.stuck
    assert stuck.cancelling() == 0
    await until(lambda: server.began == ["stuck", "waiting"])
    server.open.set()
    assert await waiting is True
    sender.close()


async def test_server_that_keeps_the_cancellation_is_given_up_all_the_same():
    """A server may catch CancelledError; the task must not stay marked as cancelled."""

    async def send(event):
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return

    sender = Sender(send, SOON)
    assert await sender("stuck") is False
    assert asyncio.current_task().cancelling() == 0
    sender.close()


async def test_server_that_makes_an_error_of_the_cancellation_is_given_up_all_the_same():
    """The error does not mean that the client left, and no cancellation of the sender remains."""

    async def send(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise OSError("broken off") from None

    sender = Sender(send, 0.02)
    assert await sender({"type": "slow"}) is False
    assert sender.stuck
    assert asyncio.current_task().cancelling() == 0


async def test_time_counts_from_the_beginning_of_each_send(server, clock):
    """The timer of an earlier event does not count for a later one."""
    sender = Sender(server, 10)
    server.open.clear()
    first = begin(sender, "first")
    await settled()
    await clock.pass_(8)
    server.open.set()
    assert await first is True
    server.open.clear()
    second = begin(sender, "second")
    await settled()
    await clock.pass_(9)
    assert not second.done()
    await clock.pass_(1)
    assert await second is False
    sender.close()


async def test_send_that_does_not_wait_sets_no_timer(server, clock):
    """Most sends do not wait; of the others, the first sets one timer for all."""
    server.open.clear()
    sender = Sender(server, SOON)
    waiting = begin(sender, "waits")
    await settled()
    timer = sender.timer
    assert timer is not None
    server.open.set()
    await waiting
    for number in range(10):
        await sender(number)
    assert sender.timer is timer
    await clock.pass_(SOON)
    assert sender.timer is None
    await sender("quick")
    assert sender.timer is None
    assert not sender.stuck
    sender.close()


async def test_server_may_return_any_awaitable():
    """The `send` of some servers is not a coroutine function."""
    loop = asyncio.get_running_loop()
    taken = []

    def send(event):
        taken.append(event)
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        return future

    sender = Sender(send, 3600)
    assert await sender("one") is True
    assert taken == ["one"]
    sender.close()


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "later"])
async def test_error_of_the_server_reaches_who_sent(waits):
    """The next send has its turn."""

    async def send(event):
        if waits:
            await asyncio.sleep(0)
        if event == "bad":
            raise OSError(event)

    sender = Sender(send, 3600)
    bad, good = begin(sender, "bad"), begin(sender, "good")
    with pytest.raises(OSError, match="bad"):
        await bad
    assert await good is True
    sender.close()


async def test_error_of_who_had_waited_leaves_the_turn_to_the_next(server):
    """The next send has its turn even if the server fails at once."""

    async def send(event):
        if event == "bad":
            raise OSError(event)
        await server(event)

    server.open.clear()
    sender = Sender(send, None)
    first, bad, good = [begin(sender, event) for event in ("first", "bad", "good")]
    await settled()
    server.open.set()
    assert await first is True
    with pytest.raises(OSError, match="bad"):
        await bad
    async with asyncio.timeout(5):
        assert await good is True


async def test_server_may_catch_what_is_thrown_into_it(server):
    """The server sees one coroutine per send, no matter how its steps are run."""
    steps = []

    async def send(event):
        try:
            async with asyncio.timeout(SOON):
                await asyncio.sleep(3600)
        except TimeoutError:
            steps.append("timeout")
        await asyncio.sleep(0)
        steps.append("done")

    sender = Sender(send, 3600)
    assert await sender("one") is True
    assert steps == ["timeout", "done"]
    sender.close()


async def test_without_a_timeout_a_send_may_take_for_ever(server):
    """None means no limit."""
    server.open.clear()
    sender = Sender(server, None)
    sending = begin(sender, "slow")
    await asyncio.sleep(2 * SOON)
    assert not sending.done()
    assert sender.timer is None
    server.open.set()
    assert await sending is True


async def test_cancelled_send_leaves_the_turn_to_the_next(server):
    """The cancelled caller gets the cancellation."""
    server.open.clear()
    sender = Sender(server, None)
    first, second, third = [begin(sender, n) for n in range(3)]
    await settled()
    second.cancel()
    first.cancel()
    server.open.set()
    assert await third is True
    assert first.cancelled()
    assert second.cancelled()
    assert server.taken == [2]


async def test_task_that_is_cancelled_when_its_turn_comes_passes_it_on(server):
    """The turn has been assigned already at that moment, and only this task can pass it on."""
    server.open.clear()
    sender = Sender(server, None)
    first, second, third = [begin(sender, n) for n in range(3)]
    await settled()
    server.open.set()
    # One turn later the first send has ended and the second has been woken.
    while not first.done():
        await asyncio.sleep(0)
    second.cancel()
    assert await first is True
    assert await third is True
    assert second.cancelled()


async def test_cancelled_by_others_while_it_is_interrupted_stays_cancelled(server):
    """The interruption must not swallow a cancellation by another task."""
    server.open.clear()
    sender = Sender(server, None)
    sending = begin(sender, "stuck")
    await settled()
    sending.cancel()
    sender.close()
    with pytest.raises(asyncio.CancelledError):
        await sending


async def test_nothing_follows_the_last_event(server):
    """Waiting senders and later ones are told so."""
    server.open.clear()
    sender = Sender(server, None)
    first = begin(sender, "first")
    await settled()
    waiting = begin(sender, "waiting")
    await settled()
    last = asyncio.create_task(sender.last("last", 5))
    await settled()
    server.open.set()
    assert await asyncio.gather(first, waiting, last) == [True, False, True]
    assert await sender("later") is False
    assert server.taken == ["first", "last"]


async def test_last_event_that_finds_no_turn_in_time_lets_everybody_go(server):
    """A send that hangs delays no other end, with or without its own timeout."""
    server.open.clear()
    sender = Sender(server, None)
    stuck = begin(sender, "stuck")
    await settled()
    assert await sender.last("last", SOON) is False
    assert await stuck is False
    assert not sender.stuck
    assert server.began == ["stuck"]


@pytest.mark.parametrize("stands_still", [False, True])
async def test_last_event_ends_although_the_server_keeps_a_cancellation(stands_still):
    """The send is interrupted once more, in a later turn of the loop."""
    kept = []

    async def send(event):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            kept.append(event)
        await asyncio.Event().wait()

    if stands_still:
        asyncio.get_running_loop().call_soon(time.sleep, SOON + INTERRUPT_AGAIN_SECONDS + 0.1)
    async with asyncio.timeout(15):
        assert await Sender(send, None).last({"type": "last"}, SOON) is False
    assert kept == [{"type": "last"}]
    assert asyncio.current_task().cancelling() == 0


async def test_closed_sender_leaves_no_timer(server):
    """The timer would keep the connection in memory for as long as send_timeout."""
    server.open.clear()
    sender = Sender(server, 3600)
    sending = begin(sender, "one")
    await settled()
    assert sender.timer is not None
    sender.close()
    assert sender.timer is None
    assert await sending is False
    assert await sender("two") is False
