"""A mailbox has two queues, a capacity, a policy and a counter."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading

import pytest

from fast_channels.layers.mailbox import (
    FRAME_BYTES,
    FRAME_LIMIT,
    Mailbox,
    Notice,
    ThreadsafeMailbox,
)
from tests.layers.support import RecordingReader, arrives, becomes, turns


def message(n):
    return {"type": "test", "n": n}


def taken(mailbox):
    """Take all waiting messages: their numbers, and {"dropped": n} for a report."""
    found = []
    while (item := mailbox.take()) is not None:
        found.append(item["n"] if item["type"] == "test" else {"dropped": item["dropped"]})
    return found


def fill(mailbox, numbers):
    return [mailbox.put(message(n)) for n in numbers]


# -- within capacity -----------------------------------------------------------


def test_messages_come_out_in_the_order_they_went_in():
    """An empty mailbox gives None."""
    mailbox = Mailbox("a", 10)
    assert fill(mailbox, range(5)) == [True] * 5
    assert len(mailbox) == 5
    assert taken(mailbox) == [0, 1, 2, 3, 4]
    assert mailbox.take() is None
    assert (len(mailbox), mailbox.dropped) == (0, 0)


def test_mailbox_is_full_at_its_capacity():
    """The mailbox is not full before."""
    mailbox = Mailbox("a", 2)
    mailbox.put(message(0))
    assert not mailbox.full
    mailbox.put(message(1))
    assert mailbox.full
    mailbox.take()
    assert not mailbox.full


# -- overflow ------------------------------------------------------------------


def test_drop_oldest_forgets_what_waited_longest():
    """The report is in the place of the lost messages: first."""
    mailbox = Mailbox("a", 3, "drop_oldest")
    assert fill(mailbox, range(5)) == [True] * 5
    assert (mailbox.dropped, len(mailbox), mailbox.overflowed) == (2, 3, False)
    assert taken(mailbox) == [{"dropped": 2}, 2, 3, 4]


def test_drop_newest_refuses_what_arrives():
    """The report is in the place of the lost messages: last."""
    mailbox = Mailbox("a", 3, "drop_newest")
    assert fill(mailbox, range(5)) == [True, True, True, False, False]
    assert (mailbox.dropped, len(mailbox), mailbox.overflowed) == (2, 3, False)
    assert taken(mailbox) == [0, 1, 2, {"dropped": 2}]


def test_close_refuses_and_asks_the_reader_to_end():
    """Messages that waited before can still be read."""
    mailbox = Mailbox("a", 2, "close")
    assert fill(mailbox, range(3)) == [True, True, False]
    assert (mailbox.dropped, mailbox.overflowed) == (1, True)
    assert taken(mailbox) == [0, 1, {"dropped": 1}]
    assert mailbox.overflowed


def test_drop_newest_reports_between_what_waited_and_what_follows():
    """The place is right even if the mailbox was read only in part."""
    mailbox = Mailbox("a", 3, "drop_newest")
    fill(mailbox, range(5))
    assert mailbox.take() == message(0)
    mailbox.put(message(5))
    assert taken(mailbox) == [1, 2, {"dropped": 2}, 5]


def test_drop_newest_reports_in_a_mailbox_that_was_read_empty():
    """No further message is needed for that."""
    mailbox = Mailbox("a", 1, "drop_newest")
    fill(mailbox, range(2))
    assert mailbox.take() == message(0)
    assert mailbox.take() == {"type": "layer.overflow", "dropped": 1}
    mailbox.put(message(2))
    assert taken(mailbox) == [2]


def test_drop_oldest_reports_after_a_mailbox_was_read_in_part():
    """A later loss has its own report, before the remaining messages."""
    mailbox = Mailbox("a", 3, "drop_oldest")
    fill(mailbox, range(4))
    assert mailbox.take() == {"type": "layer.overflow", "dropped": 1}
    assert mailbox.take() == message(1)
    fill(mailbox, range(4, 7))
    assert taken(mailbox) == [{"dropped": 2}, 4, 5, 6]


@pytest.mark.parametrize(
    ("overflow", "expected"),
    [
        ("drop_oldest", [{"dropped": 1}, 1, 2, {"dropped": 2}, 12, 13]),
        ("drop_newest", [0, 1, {"dropped": 1}, 10, 11, {"dropped": 2}]),
    ],
)
def test_second_overflow_is_reported_by_itself(overflow, expected):
    """Each report counts the losses since the one before; the counter counts all."""
    mailbox = Mailbox("a", 2, overflow)
    fill(mailbox, range(3))
    first = taken(mailbox)
    fill(mailbox, range(10, 14))
    assert first + taken(mailbox) == expected
    assert mailbox.dropped == 3


def test_overflow_twice_without_reading_is_one_report():
    """The number grows until the report is read."""
    mailbox = Mailbox("a", 2, "drop_newest")
    for _ in range(3):
        fill(mailbox, range(4))
    assert taken(mailbox) == [0, 1, {"dropped": 10}]


def test_report_is_a_notice():
    """A message of the same type cannot forge a report."""
    mailbox = Mailbox("a", 1)
    fill(mailbox, range(2))
    assert isinstance(mailbox.take(), Notice)


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "close"])
def test_notice_is_never_dropped(overflow):
    """The notice waits among the messages, even if all of those are dropped."""
    mailbox = Mailbox("a", 3, overflow)
    mailbox.put(message(0))
    mailbox.put_notice(Notice(type="layer.gap"))
    fill(mailbox, range(1, 20))
    found = []
    while (item := mailbox.take()) is not None:
        found.append(item["type"])
    assert found.count("layer.gap") == 1
    assert found.count("layer.overflow") == 1


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "close"])
def test_notice_enters_a_full_mailbox(overflow):
    """The capacity is for messages."""
    mailbox = Mailbox("a", 2, overflow)
    fill(mailbox, range(2))
    mailbox.put_notice(Notice(type="layer.gap"))
    assert mailbox.dropped == 0
    assert [mailbox.take()["type"] for _ in range(3)] == ["test", "test", "layer.gap"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "close"])
def test_what_is_taken_and_what_was_dropped_is_what_was_put(overflow):
    """This holds even for a mailbox that contains only notices."""
    mailbox = Mailbox("a", 2, overflow)
    for _ in range(2):
        mailbox.put_notice(Notice(type="layer.gap"))
    fill(mailbox, range(5))
    seen, reported = 0, 0
    while (item := mailbox.take()) is not None:
        seen += item["type"] == "test"
        reported += item.get("dropped", 0)
    assert seen + mailbox.dropped == 5
    assert reported == mailbox.dropped


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
def test_random_reading_and_writing_accounts_for_every_message(overflow):
    """Every loss is counted, no message comes twice, and the order is kept."""
    chance = random.Random(3)
    mailbox = Mailbox("a", 5, overflow)
    seen, reported, put = [], 0, 0
    for _ in range(3000):
        if chance.random() < 0.55:
            mailbox.put(message(put))
            put += 1
        elif (item := mailbox.take()) is not None:
            if item["type"] == "layer.overflow":
                # The messages after the report come after a hole of exactly this size.
                reported += item["dropped"]
            else:
                assert item["n"] == len(seen) + reported
                seen.append(item["n"])
    rest = taken(mailbox)
    total = len(seen) + reported
    total += sum(item["dropped"] if isinstance(item, dict) else 1 for item in rest)
    assert total == put


# -- waiting -------------------------------------------------------------------


async def test_get_waits_for_a_message():
    """The call returns a message that is put later."""
    mailbox = Mailbox("a", 10)
    getting = asyncio.create_task(mailbox.get())
    await turns()
    assert not getting.done()
    mailbox.put(message(1))
    assert await getting == message(1)


@pytest.mark.parametrize("what", ["message", "notice", "frame", "refused"])
async def test_wait_returns_when_there_is_something_to_take(what):
    """A message, a notice, a frame or the end wakes the reader; waiting takes nothing."""
    mailbox = Mailbox("a", 1, "close")
    waiting = asyncio.create_task(mailbox.wait())
    await turns()
    assert not waiting.done()
    if what == "message":
        mailbox.put(message(1))
    elif what == "notice":
        mailbox.put_notice(Notice(type="layer.gap"))
    elif what == "frame":
        await mailbox.put_frame({"type": "websocket.receive"})
    else:
        mailbox.capacity = 0
        mailbox.put(message(1))
    await asyncio.wait_for(waiting, 1)
    assert mailbox.take() is not None or mailbox.take_frame() is not None


async def test_refused_message_wakes_the_reader_of_a_report():
    """A waiting reader gets the report without another message."""
    mailbox = Mailbox("a", 1, "drop_newest")
    fill(mailbox, range(2))
    mailbox.take()
    async with asyncio.timeout(1):
        await mailbox.wait()
    assert mailbox.take() == {"type": "layer.overflow", "dropped": 1}


async def test_get_under_timeouts_loses_nothing():
    """
    Three hundred messages arrive once and in order at a reader that times out again and again.
    """
    mailbox = Mailbox("a", 1000)
    chance = random.Random(5)
    seen = []

    async def put_all():
        for n in range(300):
            mailbox.put(message(n))
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)

    putting = asyncio.create_task(put_all())
    async with asyncio.timeout(20):
        while len(seen) < 300:
            getting = asyncio.create_task(mailbox.get())
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            getting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                seen.append((await getting)["n"])
    await putting
    assert seen == list(range(300))


async def test_get_with_wait_for_loses_nothing():
    """Real timeouts change nothing."""
    mailbox = Mailbox("a", 1000)
    loop = asyncio.get_running_loop()
    chance = random.Random(11)
    for n in range(300):
        loop.call_later(chance.uniform(0, 0.3), mailbox.put, message(n))
    seen = []
    async with asyncio.timeout(20):
        while len(seen) < 300:
            with contextlib.suppress(asyncio.TimeoutError):
                received = await asyncio.wait_for(mailbox.get(), chance.uniform(0, 0.002))
                seen.append(received["n"])
    assert sorted(seen) == list(range(300))


async def test_cancelled_waits_leave_nothing_behind():
    """After ten thousand of them, no reader is listed as waiting."""
    mailbox = Mailbox("a", 10)
    for wait in (mailbox.wait, mailbox.get):
        for _ in range(100):
            tasks = [asyncio.create_task(wait()) for _ in range(50)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    assert mailbox._waiters == []
    mailbox.put(message(1))
    assert await arrives(mailbox) == message(1)


async def test_several_readers_share_the_messages():
    """Each message goes to one reader."""
    mailbox = Mailbox("a", 100)
    readers = [asyncio.create_task(mailbox.get()) for _ in range(10)]
    await turns()
    fill(mailbox, range(10))
    async with asyncio.timeout(5):
        assert sorted([(await reader)["n"] for reader in readers]) == list(range(10))
    assert mailbox._waiters == []


async def test_wake_up_of_a_cancelled_reader_is_not_lost():
    """Another reader gets the message that arrived at this moment."""
    mailbox = Mailbox("a", 100)
    first, second = (asyncio.create_task(mailbox.get()) for _ in range(2))
    await turns()
    mailbox.put(message(1))
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    async with asyncio.timeout(5):
        assert await second == message(1)


# -- frames --------------------------------------------------------------------


async def test_frames_and_messages_wait_apart():
    """Each queue keeps its own order, and len() counts messages only."""
    mailbox = Mailbox("a", 10)
    await mailbox.put_frame({"n": "f0"})
    mailbox.put(message(0))
    await mailbox.put_frame({"n": "f1"})
    assert len(mailbox) == 1
    assert mailbox.take() == message(0)
    assert [mailbox.take_frame()["n"] for _ in range(2)] == ["f0", "f1"]
    assert mailbox.take_frame() is None


async def test_frames_do_not_count_against_the_capacity():
    """A full mailbox accepts frames, and waiting frames take no capacity of messages."""
    mailbox = Mailbox("a", 1)
    mailbox.put(message(0))
    for n in range(FRAME_LIMIT):
        await asyncio.wait_for(mailbox.put_frame({"n": n}), 1)
    assert (mailbox.dropped, len(mailbox)) == (0, 1)
    assert [mailbox.take_frame()["n"] for _ in range(FRAME_LIMIT)] == list(range(FRAME_LIMIT))


async def test_frame_writer_waits_while_the_lane_is_full():
    """The writer continues when one frame is taken, and no frame is lost."""
    mailbox = Mailbox("a", 1)
    total = FRAME_LIMIT + 20

    async def write():
        for n in range(total):
            await mailbox.put_frame({"n": n})

    writing = asyncio.create_task(write())
    await turns(3 * total)
    assert not writing.done()
    seen = [mailbox.take_frame()["n"]]
    await turns()
    assert not writing.done()
    while len(seen) < total:
        await mailbox.wait()
        seen.append(mailbox.take_frame()["n"])
        await asyncio.sleep(0)
    await writing
    assert seen == list(range(total))


async def test_frame_writer_waits_while_frames_take_too_much_memory():
    """An empty queue accepts one frame of any size; beyond FRAME_BYTES the next one waits."""
    mailbox = Mailbox("a", 1)
    large = {"type": "websocket.receive", "bytes": bytes(2 * FRAME_BYTES)}
    await asyncio.wait_for(mailbox.put_frame(large), 1)
    writing = asyncio.create_task(mailbox.put_frame({"type": "websocket.receive", "text": "x"}))
    await turns()
    assert not writing.done()
    assert mailbox.holds_frame_back
    assert mailbox.take_frame() == large
    await writing
    assert not mailbox.holds_frame_back
    assert mailbox.take_frame()["text"] == "x"


@pytest.mark.parametrize("key", ["text", "bytes", "body"])
async def test_frames_of_every_kind_are_weighed(key):
    """The waiting frames have at most FRAME_BYTES, and taking one makes space again."""
    mailbox = Mailbox("a", 1)
    data = "x" * 100_000 if key == "text" else b"x" * 100_000

    async def write():
        for _ in range(20):
            await mailbox.put_frame({key: data})

    writing = asyncio.create_task(write())
    await turns(100)
    waiting = 0
    while mailbox.take_frame():
        waiting += 1
    assert waiting == FRAME_BYTES // 100_000
    await turns(100)
    while mailbox.take_frame():
        waiting += 1
    await writing
    assert waiting == 20


async def test_cancelled_frame_writer_leaves_the_lane_usable():
    """The frame that was not written is absent; the next one arrives."""
    mailbox = Mailbox("a", 1)
    for n in range(FRAME_LIMIT):
        await mailbox.put_frame({"n": n})
    writing = asyncio.create_task(mailbox.put_frame({"n": "cancelled"}))
    await turns()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert mailbox.take_frame() == {"n": 0}
    await asyncio.wait_for(mailbox.put_frame({"n": "last"}), 1)
    rest = [mailbox.take_frame()["n"] for _ in range(FRAME_LIMIT)]
    assert rest == [*range(1, FRAME_LIMIT), "last"]


# -- a reader that deliveries may run ----------------------------------------------


@pytest.mark.parametrize("kind", [Mailbox, ThreadsafeMailbox])
@pytest.mark.parametrize("wake", ["put", "put_back", "put_notice", "put_frame", "wake", "close"])
async def test_idle_reader_is_woken_once(kind, wake):
    """Any entry wakes it; a reader that is not idle looks into its mailbox anyway."""
    mailbox = kind("a", 3)
    reader = RecordingReader(mailbox)
    mailbox.listen(reader)
    arguments = [] if wake in ("wake", "close") else [Notice(type="test", n=0)]
    for _ in range(2):
        done = getattr(mailbox, wake)(*arguments)
        if wake == "put_frame":
            await done
    await becomes(lambda: reader.woken)
    assert (reader.woken, reader.idle) == (1, False)


async def test_reader_on_another_loop_is_not_run_by_deliveries():
    """The thread that delivers must not run its code."""
    mailbox, elsewhere = Mailbox("a", 1), ThreadsafeMailbox("a", 1)
    for each in (mailbox, elsewhere):
        each.listen(RecordingReader(each))
    assert mailbox.eager_reader is not None
    assert elsewhere.eager_reader is None


# -- from another thread -------------------------------------------------------


async def test_threadsafe_mailbox_takes_messages_from_other_threads():
    """Each thread's messages keep their order."""
    mailbox = ThreadsafeMailbox("a", 1000)

    def put_all(thread):
        for n in range(100):
            mailbox.put({"type": "test", "thread": thread, "n": n})

    threads = [threading.Thread(target=put_all, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    messages = [await arrives(mailbox) for _ in range(400)]
    for thread in threads:
        thread.join()
    for thread in range(4):
        assert [m["n"] for m in messages if m["thread"] == thread] == list(range(100))


async def test_threadsafe_mailbox_keeps_its_policy():
    """Capacity and counter are the same as in a plain mailbox."""
    mailbox = ThreadsafeMailbox("a", 2, "drop_oldest")
    await asyncio.to_thread(lambda: fill(mailbox, range(5)))
    await becomes(lambda: mailbox.dropped == 3)
    assert taken(mailbox) == [{"dropped": 3}, 3, 4]


async def test_threadsafe_mailbox_takes_notices_from_other_threads():
    """A waiting reader is woken."""
    mailbox = ThreadsafeMailbox("a", 1)
    getting = asyncio.create_task(arrives(mailbox))
    await asyncio.to_thread(mailbox.put_notice, Notice(type="layer.gap"))
    assert await getting == {"type": "layer.gap"}


def test_threadsafe_mailbox_of_a_closed_loop_swallows_messages():
    """The reader has ended with the loop, and the sender gets no error."""

    async def make():
        return ThreadsafeMailbox("a", 1)

    mailbox = asyncio.run(make())
    mailbox.put(message(1))
    mailbox.put_notice(Notice(type="layer.gap"))
    assert mailbox.take() is None
