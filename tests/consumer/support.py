"""Consumers that record their calls, and both ends of a connection without a server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.layers.addressing import InboxAddressing
from fast_channels.layers.in_memory import InMemoryChannelLayer, MemoryBroker

if TYPE_CHECKING:
    from collections.abc import Callable

# The `layer` fixture is registered under this alias.
ALIAS = "test"

# Upper bound of turns of the event loop for any step, far more than needed.
MANY_TURNS = 1000


async def until(condition: Callable[[], object]) -> None:
    """Return once `condition()` is true; it must become true without any real time passing."""
    for _ in range(MANY_TURNS):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("what the test waits for does not happen")


async def settled() -> None:
    """Let every task and callback run that is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


class Clock:
    """A clock in place of the loop's time and timers, which a test moves."""

    def __init__(self, loop, monkeypatch) -> None:
        self.now = 1000.0
        # The timers: their time, and the function to call.
        self.timers: list[tuple[float, object]] = []
        monkeypatch.setattr(loop, "time", lambda: self.now)
        monkeypatch.setattr(loop, "call_at", self.call_at)

    def call_at(self, when, callback, *args, context=None):
        timer = (when, callback)
        self.timers.append(timer)
        clock = self

        class Handle:
            def cancel(self):
                if timer in clock.timers:
                    clock.timers.remove(timer)

        return Handle()

    async def pass_(self, seconds, *, late=0.0):
        """Let time pass; timers fire on time, or `late` seconds later."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0]) + late
            timer[1]()
            await settled()
        self.now = max(self.now, end)


def drained(queue: asyncio.Queue) -> list:
    return [queue.get_nowait() for _ in range(queue.qsize())]


async def rest(communicator) -> list:
    """Wait for the application to end; return its unread events."""
    await communicator.wait()
    return drained(communicator.output_queue)


def closes(events) -> list[tuple[int, str]]:
    """Return code and reason of every close frame among `events`."""
    return [(e["code"], e["reason"]) for e in events if e["type"] == "websocket.close"]


def errors(caplog) -> list:
    """Return the log records with a traceback."""
    return [record for record in caplog.records if record.exc_info]


class Recorder(AsyncWebsocketConsumer):
    """Records every call in `calls`; echoes text frames and chat messages to the client."""

    channel_layer_alias = ALIAS
    groups = ("room",)

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    async def connect(self):
        self.calls.append(("connect",))
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        self.calls.append(("receive", text_data if bytes_data is None else bytes_data))
        await self.send(text_data=text_data, bytes_data=bytes_data)

    async def chat_message(self, message):
        self.calls.append(("chat", message["text"]))
        await self.send(text_data=message["text"])

    async def disconnect(self, code):
        self.calls.append(("disconnect", code))

    async def on_error(self, exc, message):
        self.calls.append(("on_error", exc, message["type"]))

    @property
    def disconnects(self) -> list[int]:
        """The code of every call of disconnect()."""
        return [call[1] for call in self.calls if call[0] == "disconnect"]


class Wire:
    """
    The server's end of one connection, for tests that a communicator's queues are too coarse
    for.
    """

    def __init__(self, application, scope=None) -> None:
        self.scope = scope or {"type": "websocket", "path": "/", "headers": []}
        self.application = application
        self.incoming: asyncio.Queue = asyncio.Queue()
        # Number of events that the application has received.
        self.received = 0
        # Number of events that the application has sent.
        self.sent: list[dict] = []
        # An exception that send() raises from now on, or None.
        self.failure: Exception | None = None
        # Event types for which send() does not return until `released` is set.
        self.stuck: set[str] = set()
        self.released = asyncio.Event()

    def start(self, *events) -> asyncio.Task:
        for event in events:
            self.incoming.put_nowait(event)
        self.task = asyncio.ensure_future(self.application(self.scope, self.receive, self.send))
        return self.task

    def put(self, *events) -> None:
        for event in events:
            self.incoming.put_nowait(event)

    async def receive(self):
        event = await self.incoming.get()
        self.received += 1
        return event

    async def send(self, event) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.append(event)
        if event["type"] in self.stuck:
            await self.released.wait()

    async def ended(self) -> None:
        """Return once the application has ended, cleanly or by a cancellation."""
        with contextlib.suppress(asyncio.CancelledError):
            async with asyncio.timeout(5):
                await self.task


def text(data: str) -> dict:
    return {"type": "websocket.receive", "text": data}


CONNECT = {"type": "websocket.connect"}
LEAVE = {"type": "websocket.disconnect", "code": 1000}


class FragileBroker(MemoryBroker):
    """A broker that can be interrupted, and that confirms subscriptions when a test allows it."""

    # The layer waits for its answers.
    delivers_everything = False

    def __init__(self, *args) -> None:
        super().__init__(*args)
        # Tests call this like a broker after a lost connection.
        self.report_outage = None
        # subscribe() waits for this event.
        self.confirming = asyncio.Event()
        self.confirming.set()
        # Subscribing to an inbox waits for this event.
        self.opening = asyncio.Event()
        self.opening.set()
        # Groups with a requested subscription.
        self.asked: list[str] = []
        # Raised by subscribe(), if set.
        self.failure: Exception | None = None

    async def start(self, deliver, report_outage):
        await super().start(deliver, report_outage)
        self.report_outage = report_outage

    async def subscribe(self, topic):
        if "!" in topic:
            await self.opening.wait()
            return
        self.asked.append(topic)
        await self.confirming.wait()
        if self.failure is not None:
            raise self.failure


class FragileLayer(InMemoryChannelLayer):
    """An in-memory layer on a FragileBroker, which is its `broker`."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.broker = FragileBroker(self._store, self.get_capacity)
        # Channels open once the broker has confirmed their inbox.
        self._addressing = InboxAddressing(inboxes_are_topics=True, keeps_every_name=True)
        self.opening = self.broker.opening

    def _make_broker(self):
        return self.broker
