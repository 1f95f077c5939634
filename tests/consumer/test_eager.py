"""Idle consumers handle a message within its delivery."""

from __future__ import annotations

import asyncio
import contextvars
import io

import pytest

from fast_channels.exceptions import StopConsumer
from fast_channels.layers import InMemoryChannelLayer
from tests.consumer.conftest import registered
from tests.consumer.support import LEAVE, Recorder, closes, errors, settled, text, until
from tests.consumer.test_forwards import GROUP, chat, connected, deliver, leave, note, texts
from tests.layers.support import PATIENCE, becomes

MARK = contextvars.ContextVar("mark", default="nobody's")


class Saying(Recorder):
    """Sends each message, in several steps if it has them, and records the task."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []
        self.go_on = asyncio.Event()

    async def connect(self):
        MARK.set(id(self))
        self.mine = asyncio.current_task()
        await super().connect()

    def look(self):
        self.seen.append((asyncio.current_task() is self.mine, MARK.get() == id(self)))

    async def chat_message(self, message):
        self.look()
        await self.send(text_data=message["text"])
        if message["text"] == "wait":
            await self.go_on.wait()
            self.look()
            await self.send(text_data="waited")


async def warmed(*consumers):
    """Open connections that have handled a message each, and are idle again."""
    wires = [await connected(consumer) for consumer in consumers]
    for consumer in consumers:
        await consumer.channel_layer.send(consumer.channel_name, chat("first"))
    await until(lambda: all("first" in texts(wire.sent) for wire in wires))
    await settled()
    for consumer, wire in zip(consumers, wires, strict=True):
        consumer.seen.clear()
        wire.sent.clear()
    return wires


async def test_idle_consumer_handles_a_message_while_it_is_delivered(layer):
    """The handler runs in its own task and context, and the delivery wakes no reader."""
    consumers = [Saying(), Saying()]
    wires = await warmed(*consumers)
    mine = asyncio.current_task()
    assert deliver(layer, chat("hello")) == 2
    assert [texts(wire.sent) for wire in wires] == [["hello"], ["hello"]]
    assert [consumer.seen for consumer in consumers] == [[(True, True)], [(True, True)]]
    assert asyncio.current_task() is mine
    await leave(*wires)


async def test_handler_that_waits_goes_on_in_its_connection(layer):
    """Messages and frames that come meanwhile wait for the handler."""
    consumer = Saying()
    (wire,) = await warmed(consumer)
    deliver(layer, chat("wait"))
    assert texts(wire.sent) == ["wait"]
    for content in "abc":
        deliver(layer, chat(content))
    await settled()
    assert texts(wire.sent) == ["wait"]
    consumer.go_on.set()
    await until(lambda: len(texts(wire.sent)) == 5)
    assert texts(wire.sent) == ["wait", "waited", "a", "b", "c"]
    assert set(consumer.seen) == {(True, True)}
    await leave(wire)


async def test_messages_that_came_together_are_handled_one_connection_after_the_other(layer):
    """All connections handle them in order, before the delivery is over."""
    log = []

    class Logging(Saying):
        async def chat_message(self, message):
            await super().chat_message(message)
            log.append((consumers.index(self), message["text"]))

    consumers = [Logging(), Logging()]
    wires = await warmed(*consumers)
    log.clear()
    assert deliver(layer, chat("a"), chat("b"), chat("c")) == 6
    assert log == [(number, text) for number in (0, 1) for text in "abc"]
    await leave(*wires)


async def test_what_comes_together_waits_for_a_handler_in_its_midst(layer):
    """No other consumer waits."""
    held, free = Saying(), Saying()
    wires = await warmed(held, free)
    free.go_on.set()
    deliver(layer, chat("a"), chat("wait"), chat("b"), chat("c"))
    assert texts(wires[0].sent) == ["a", "wait"]
    await until(lambda: len(texts(wires[1].sent)) == 5)
    assert texts(wires[0].sent) == ["a", "wait"]
    held.go_on.set()
    await until(lambda: len(texts(wires[0].sent)) == 5)
    assert [texts(wire.sent) for wire in wires] == [["a", "wait", "waited", "b", "c"]] * 2
    await leave(*wires)


async def test_type_that_is_new_is_handled_in_its_place(layer):
    """The first message of a type is handled within its delivery like any other."""

    class Versatile(Saying):
        async def other_message(self, message):
            await self.chat_message(message)

    (wire,) = await warmed(Versatile())
    for _ in range(2):
        deliver(layer, chat("a"), {"type": "other.message", "text": "b"}, chat("c"))
    assert texts(wire.sent) == [*"abcabc"]
    await leave(wire)


@pytest.mark.parametrize("how", ["close", "stop", "raise"])
async def test_nothing_is_handled_after_the_message_that_ends_a_connection(layer, how):
    """Other connections get all messages of the batch."""

    class Ending(Saying):
        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "end":
                if how == "stop":
                    raise StopConsumer
                await (self.close() if how == "close" else asyncio.wait(()))

    ending, other = Ending(), Saying()
    wires = await warmed(ending, other)
    deliver(layer, chat("a"), chat("end"), chat("b"))
    await wires[0].ended()
    assert texts(wires[0].sent) == ["a", "end"]
    assert texts(wires[1].sent) == ["a", "end", "b"]
    assert len(closes(wires[0].sent)) == 1
    await leave(wires[1])


class Patient(Saying):
    """Gives a message ten milliseconds, and continues after that when a test allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.timed_out = asyncio.Event()
        self.recover = asyncio.Event()

    async def chat_message(self, message):
        try:
            async with asyncio.timeout(0.01):
                await super().chat_message(message)
        except TimeoutError:
            self.timed_out.set()
            await self.recover.wait()
            await self.send(text_data="too late")


async def test_message_waits_for_a_handler_that_was_interrupted(layer):
    """A delivery began the handler, its own timeout ended a step, and it continues."""
    consumer = Patient()
    (wire,) = await warmed(consumer)
    deliver(layer, chat("wait"))
    async with asyncio.timeout(PATIENCE):
        await consumer.timed_out.wait()
    deliver(layer, chat("next"))
    await settled()
    assert texts(wire.sent) == ["wait"]
    consumer.recover.set()
    await until(lambda: texts(wire.sent) == ["wait", "too late", "next"])
    await leave(wire)


async def test_timeout_in_a_handler_ends_what_it_is_around(layer):
    """The delivery may even have run the step that entered the timeout."""
    consumer = Patient()
    consumer.recover.set()
    (wire,) = await warmed(consumer)
    deliver(layer, chat("wait"))
    await becomes(lambda: len(texts(wire.sent)) == 2)
    assert texts(wire.sent) == ["wait", "too late"]
    deliver(layer, chat("next"))
    assert texts(wire.sent)[2:] == ["next"]
    await leave(wire)


@pytest.mark.parametrize("late", [False, True])
async def test_error_in_a_handler_closes_its_connection_alone(layer, caplog, late):
    """The code is 1011, once; the delivery and its caller continue."""

    class Failing(Saying):
        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "fail":
                await asyncio.sleep(0.001 if late else 0)
                raise LookupError("of the test")

    consumers = [Saying(), Failing(), Saying()]
    wires = await warmed(*consumers)
    assert deliver(layer, chat("fail")) == 3
    await wires[1].ended()
    assert closes(wires[1].sent) == [(1011, "")]
    assert [type(record.exc_info[1]) for record in errors(caplog)] == [LookupError]
    assert texts(wires[0].sent) == texts(wires[2].sent) == ["fail"]
    await leave(wires[0], wires[2])


async def test_cancelled_connection_ends_with_the_handler_that_waits(layer):
    """The effect is the same as if the reader had begun the handler."""
    seen = []

    class Ending(Saying):
        async def chat_message(self, message):
            try:
                await super().chat_message(message)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    (wire,) = await warmed(Ending())
    deliver(layer, chat("wait"))
    await settled()
    wire.task.cancel()
    await asyncio.wait([wire.task])
    assert seen == ["cancelled"]
    assert wire.task.cancelled()


async def test_handlers_that_send_to_one_another_do_not_stack_up(layer):
    """More handlers take part than the interpreter's stack has room for."""
    number = 1200
    consumers = []

    class Passing(Saying):
        async def chat_message(self, message):
            await self.send(text_data=message["text"])
            following = consumers.index(self) + 1
            if message["text"] == "pass" and following < len(consumers):
                name = consumers[following].channel_name
                await self.channel_layer.send(name, chat("pass"))

    consumers.extend(Passing() for _ in range(number))
    wires = await warmed(*consumers)
    await layer.send(consumers[0].channel_name, chat("pass"))
    await until(lambda: texts(wires[-1].sent) == ["pass"])
    assert all(texts(wire.sent) == ["pass"] for wire in wires)
    await leave(*wires)


async def test_nested_delivery_of_several_begins_no_handler(layer):
    """The messages wait for the task of each connection, in order."""

    class Both(Saying):
        forwards = ("note",)

        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "pass":
                assert deliver(layer, note("a"), chat("b")) == 4
                nested.append(texts(wires[1].sent))

    nested = []
    wires = await warmed(Both(), Both())
    await layer.send(wires[0].application.channel_name, chat("pass"))
    assert nested == [[]]
    await until(lambda: [texts(wire.sent) for wire in wires] == [["pass", "a", "b"], ["a", "b"]])
    await leave(*wires)


async def test_members_may_leave_while_they_handle(layer):
    """Every channel that was a member at the time of the delivery gets the message."""

    class Leaving(Saying):
        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "leave":
                await self.channel_layer.group_discard(GROUP, self.channel_name)

    wires = await warmed(*(Leaving() for _ in range(5)))
    assert deliver(layer, chat("leave")) == 5
    await until(lambda: GROUP not in layer.groups)
    assert [texts(wire.sent) for wire in wires] == [["leave"]] * 5
    assert deliver(layer, chat("more")) == 0
    await leave(*wires)


async def test_own_dispatch_sees_every_message(layer):
    """No message bypasses it."""
    dispatched = []

    class Own(Saying):
        async def dispatch(self, message):
            dispatched.append(message["type"])
            await super().dispatch(message)

    (wire,) = await warmed(Own())
    deliver(layer, chat("x"))
    await until(lambda: texts(wire.sent) == ["x"])
    assert dispatched.count("chat.message") == 2
    wire.put(LEAVE)
    await wire.ended()


@pytest.mark.parametrize("way", ["cancelled", "timed out"])
async def test_cancellation_reaches_what_a_handler_waits_for(layer, way):
    """The task that the handler awaits is cancelled, even before the reader has resumed it."""
    children = []

    class Parent(Saying):
        async def chat_message(self, message):
            await self.send(text_data=message["text"])
            if message["text"] == "wait":
                children.append(asyncio.create_task(self.go_on.wait()))
                async with asyncio.timeout(0 if way == "timed out" else None):
                    await children[0]

    (wire,) = await warmed(Parent())
    deliver(layer, chat("wait"))
    if way == "cancelled":
        wire.task.cancel()
    await wire.ended()
    assert children[0].cancelled()


class Uncommon(BaseException):
    """An exception that only ends a task."""


async def test_exception_that_is_no_error_ends_its_own_connection(layer):
    """The delivering task never sees the exception."""

    class Failing(Saying):
        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "fail":
                raise Uncommon

    consumers = [Saying(), Failing(), Saying()]
    wires = await warmed(*consumers)
    assert deliver(layer, chat("fail"), chat("next")) == 6
    with pytest.raises(Uncommon):
        await wires[1].ended()
    assert texts(wires[1].sent) == ["fail"]
    assert consumers[1].disconnects == [1001]
    assert texts(wires[0].sent) == texts(wires[2].sent) == ["fail", "next"]
    await leave(wires[0], wires[2])


EAGER = getattr(asyncio, "eager_task_factory", None)


@pytest.mark.skipif(EAGER is None, reason="needs Python 3.12")
async def test_tasks_may_be_eager(layer):
    """The connection may be accepted before the caller has the task."""
    asyncio.get_running_loop().set_task_factory(EAGER)
    consumer = Saying()
    (wire,) = await warmed(consumer)
    deliver(layer, chat("a"), chat("wait"), chat("b"))
    assert texts(wire.sent) == ["a", "wait"]
    consumer.go_on.set()
    await until(lambda: texts(wire.sent) == ["a", "wait", "waited", "b"])
    assert set(consumer.seen) == {(True, True)}
    await leave(wire)


@pytest.mark.parametrize("waits", [False, True])
async def test_cancellation_that_is_taken_back_is_none(layer, waits):
    """A TaskGroup with a failed eager child does this; the connection was never interrupted."""

    class Wavering(Saying):
        async def chat_message(self, message):
            await super().chat_message(message)
            if message["text"] == "change":
                self.mine.cancel()
                self.mine.uncancel()
                if waits:
                    await asyncio.sleep(0)
                    await self.send(text_data="waited")

    (wire,) = await warmed(Wavering())
    deliver(layer, chat("change"))
    await settled()
    deliver(layer, chat("next"))
    assert texts(wire.sent) == ["change", *(["waited"] if waits else []), "next"]
    await leave(wire)


# -- what tools see ------------------------------------------------------------------


def awaited_functions(task):
    """Return the names along the `cr_await` chain of a task, from the outside in."""
    coroutine, found = task.get_coro(), []
    while coroutine is not None and hasattr(coroutine, "cr_frame"):
        found.append(coroutine.cr_frame.f_code.co_name)
        coroutine = coroutine.cr_await
    return found


@pytest.mark.parametrize("begun_by", ["delivery", "task"])
async def test_handler_that_hangs_is_in_the_stack_of_its_connection(layer, begun_by):
    """The stack has the frame of the handler and of its awaitable, however the handler began."""

    class Hanging(Saying):
        async def chat_message(self, message):
            if message["text"] == "hang":
                await self.hang()
            await super().chat_message(message)

        async def receive(self, text_data=None, bytes_data=None):
            await self.chat_message({"text": text_data})

        async def hang(self):
            await self.go_on.wait()

    consumer = Hanging()
    (wire,) = await warmed(consumer)
    if begun_by == "delivery":
        deliver(layer, chat("hang"))
    else:
        wire.put(text("hang"))
        await settled()
    for _ in range(2):
        # At first only the delivery has seen it, later the task waits for it, too.
        frames = [frame.f_code.co_name for frame in consumer.mine.get_stack()]
        assert frames == ["chat_message" if begun_by == "delivery" else "receive"]
        printed = io.StringIO()
        consumer.mine.print_stack(file=printed)
        assert __file__ in printed.getvalue()
        assert awaited_functions(consumer.mine)[-3:-1] == ["chat_message", "hang"]
        await settled()
    assert "test_eager.py" in repr(consumer.mine)
    consumer.go_on.set()
    await until(lambda: "hang" in texts(wire.sent))
    await leave(wire)


async def test_idle_connection_has_a_stack_too(layer):
    """The one frame in it belongs to the library."""
    consumer = Saying()
    (wire,) = await warmed(consumer)
    [frame] = consumer.mine.get_stack()
    assert frame.f_globals["__name__"].startswith("fast_channels.consumer")
    await leave(wire)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("begun_by", ["delivery", "task"])
def test_interrupt_in_a_handler_ends_the_loop_and_not_the_sender(exception, begun_by):
    """As in any task: the loop ends, disconnect() runs, and a delivery raises nothing."""
    seen = []

    class Interrupted(Saying):
        async def chat_message(self, message):
            if message["text"] == "interrupt":
                raise exception
            await super().chat_message(message)

        async def receive(self, text_data=None, bytes_data=None):
            await self.chat_message({"text": text_data})

    async def serve():
        async with registered(InMemoryChannelLayer()) as layer:
            consumer = Interrupted()
            (wire,) = await warmed(consumer)
            if begun_by == "task":
                wire.put(text("interrupt"))
            else:
                assert deliver(layer, chat("interrupt")) == 1
            seen.append("sent")
            try:
                await wire.ended()
            finally:
                seen.extend(consumer.disconnects)

    with pytest.raises(exception):
        asyncio.run(serve())
    assert seen[0] == "sent"
    assert 1001 in seen
