"""No toolkit: one reader of Redis, which calls the `send` of every connection."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

from redis.asyncio import Redis

from .settings import GROUP, LAYER, REDIS_URL, routed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# The `send` of every connection in the room.
members: dict[int, Any] = {}
numbers = itertools.count()


async def room(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    await receive()
    number = next(numbers)
    members[number] = send
    try:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        del members[number]


async def echo(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": event["text"]})


async def publish(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await fan_out(event["text"])


async def fan_out(text: str) -> None:
    event = {"type": "websocket.send", "text": text}
    for send in tuple(members.values()):
        await send(event)


async def relay(redis: Redis, subscribed: asyncio.Event) -> None:
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(GROUP)
        async for message in pubsub.listen():
            if message["type"] == "message":
                await fan_out(message["data"].decode())
            else:
                subscribed.set()


@contextlib.asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    if LAYER == "memory":
        yield
        return
    async with Redis.from_url(REDIS_URL) as redis:
        subscribed = asyncio.Event()
        relaying = asyncio.create_task(relay(redis, subscribed))
        await subscribed.wait()
        yield
        relaying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await relaying


app = routed({"/room": room, "/echo": echo, "/publish": publish}, lifespan)


class Commands:
    """Code written by hand instead of a layer: one Redis command for each call."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        # Messages that one LPOP returned and `receive` has not returned yet.
        self._taken: list[bytes] = []

    async def group_send(self, group: str, message: dict[str, str]) -> None:
        await self._redis.publish(group, message["text"])

    async def send(self, channel: str, message: dict[str, str]) -> None:
        await self._redis.rpush(channel, message["text"])

    async def send_many(self, channel: str, messages: list[dict[str, str]]) -> None:
        await self._redis.rpush(channel, *[message["text"] for message in messages])

    async def receive(self, channel: str) -> dict[str, str]:
        if not self._taken:
            # In reverse, because taking from the end of a list is cheap.
            self._taken = (await self._redis.lpop(channel, 100) or [])[::-1]
        if not self._taken:
            _, text = await self._redis.blpop(channel)
            return {"text": text.decode()}
        return {"text": self._taken.pop().decode()}


class Table:
    """Groups kept by hand, in a dict of sets."""

    def __init__(self) -> None:
        self._groups: dict[str, set[str]] = {}

    async def new_channel(self) -> str:
        return f"channel.{next(numbers)}"

    async def group_add(self, group: str, channel: str) -> None:
        self._groups.setdefault(group, set()).add(channel)

    async def group_discard(self, group: str, channel: str) -> None:
        self._groups[group].discard(channel)
        if not self._groups[group]:
            del self._groups[group]


class Subscriptions(Table):
    """A table that subscribes to groups at Redis while they have members. Waits for Redis."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self._pubsub = redis.pubsub()
        # One call at a time: a reply belongs to the last command.
        self._turn = asyncio.Lock()

    async def group_add(self, group: str, channel: str) -> None:
        await super().group_add(group, channel)
        async with self._turn:
            await self._pubsub.subscribe(group)
            await self._pubsub.get_message(timeout=None)

    async def group_discard(self, group: str, channel: str) -> None:
        await super().group_discard(group, channel)
        async with self._turn:
            await self._pubsub.unsubscribe(group)
            await self._pubsub.get_message(timeout=None)


class Bare(Commands):
    """Commands and a table of groups."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis)
        groups = Table() if LAYER == "memory" else Subscriptions(redis)
        self.new_channel = groups.new_channel
        self.group_add = groups.group_add
        self.group_discard = groups.group_discard


@contextlib.asynccontextmanager
async def open_layer() -> AsyncIterator[Bare]:
    async with Redis.from_url(REDIS_URL) as redis:
        yield Bare(redis)
