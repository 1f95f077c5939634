"""Consumers that record their messages, and helpers that wait for slow facts."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import LayerUnavailable
from fast_channels.testing import WebsocketCommunicator

if TYPE_CHECKING:
    from collections.abc import Callable

# The group that every listener joins.
ROOM = "room"

# Seconds within which a send during an outage must raise, and the margin for a busy machine.
SEND_TIMEOUT = 5.0
MARGIN = 5.0

# Seconds within which everything must work after a server has come back: the longest pause
# between two attempts is 5 s, plus a margin.
RECOVERY = 10.0


async def within(seconds: float, condition: Callable[[], object]) -> None:
    """
    Return when a condition holds; fail if it does not become true in time.

    Only time in which this process runs counts, because the machine may suspend it.
    """
    pause = 0.005
    for _ in range(int(seconds / pause)):
        if condition():
            return
        await asyncio.sleep(pause)
    raise TimeoutError(f"what the test waits for does not happen within {seconds} s")


def number(n: int) -> dict:
    return {"type": "test.number", "n": n}


async def works(layer) -> bool:
    """Return whether a message to a group reaches the server and comes back."""
    inbox = await layer.open_channel()
    await layer.group_add(ROOM, inbox.name)
    await layer.group_send(ROOM, number(1))
    async with asyncio.timeout(RECOVERY):
        return await inbox.get() == number(1)


@dataclass
class Seen:
    """Everything that reached one consumer."""

    numbers: list[int] = field(default_factory=list)
    gaps: list[dict] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    # One entry per call of disconnect().
    codes: list[int] = field(default_factory=list)


class Listener(AsyncWebsocketConsumer):
    """Records its messages."""

    groups = (ROOM,)

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def test_number(self, message):
        self.seen.numbers.append(message["n"])

    async def layer_gap(self, message):
        self.seen.gaps.append(message)

    async def on_error(self, exc, message):
        self.seen.errors.append(exc)

    async def disconnect(self, code):
        self.seen.codes.append(code)


@contextlib.asynccontextmanager
async def listening(alias: str, clients: int = 5):
    """
    Connect clients to consumers on the layer of that alias; yield a record for each.

    Fail afterwards if a consumer ended early or met an exception.
    """
    consumer = type("Listener", (Listener,), {"channel_layer_alias": alias})
    seen = [Seen() for _ in range(clients)]
    connections = [WebsocketCommunicator(consumer.as_asgi(seen=each), "/") for each in seen]
    try:
        for connection in connections:
            assert (await connection.connect(timeout=5))[0]
        yield seen
        assert not any(each.codes for each in seen)
        for connection in connections:
            await connection.disconnect(timeout=5)
        assert [each.errors for each in seen] == [[]] * clients
        assert [each.codes for each in seen] == [[1000]] * clients
    finally:
        for connection in connections:
            connection.stop(exceptions=False)


async def refused_in_time(send: Callable) -> float:
    """Return how many seconds a send took to raise LayerUnavailable; fail if it does not raise."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout(SEND_TIMEOUT + MARGIN):
            await send()
    except LayerUnavailable:
        return loop.time() - began
    raise AssertionError("the send did not fail")


async def until_sent(layer, message: dict, group: str = ROOM) -> None:
    """Send to a group, repeatedly while the layer is unavailable."""
    async with asyncio.timeout(RECOVERY):
        while True:
            try:
                await layer.group_send(group, message)
            except LayerUnavailable:
                await asyncio.sleep(0.02)
            else:
                return
