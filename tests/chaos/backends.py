"""Layers of every kind, crowds of channels that come and go, and checks that nothing remains."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

import redis

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)

if TYPE_CHECKING:
    import random

# In-memory, Redis pub/sub, the Redis queue and Redis streams.
KINDS = ("memory", "pubsub", "queue", "streams")

# Heartbeats, notifications of writes, and the log of a process's own inbox.
OWN_TOPIC = re.compile(r"heartbeat|invalidate|__log__.*!")

# Upper bound in seconds for any step of these tests on a busy machine.
PATIENCE = 30.0


def make(kind, url=None, **options):
    """Return an unopened layer; `url` is the address of a server, which in-memory layers ignore."""
    if kind == "memory":
        return InMemoryChannelLayer(**options)
    made = {
        "pubsub": RedisPubSubChannelLayer,
        "queue": RedisChannelLayer,
        "streams": RedisStreamsChannelLayer,
    }[kind]
    return made(hosts=[url], **options)


def address_for(kind, request):
    """Return the address of an empty server, which is started only if this kind needs one."""
    return None if kind == "memory" else request.getfixturevalue("redis_url")


async def a_while(moment):
    """Let a number of loop steps pass or, if `moment` is a float, that many seconds."""
    if isinstance(moment, float):
        await asyncio.sleep(moment)
        return
    for _ in range(moment):
        await asyncio.sleep(0)


async def becomes(condition):
    """Return when a condition holds; fail if it does not become true in time."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.005)


class Crowd:
    """Channels that open, join, leave and close all the time, next to the channel under test."""

    def __init__(self, layer, rng: random.Random, size: int = 50) -> None:
        self.layer = layer
        self.rng = rng
        self.size = size
        # Completed visits, and visits that were cut short by a cancellation.
        self.visits = self.cut_short = 0

    @contextlib.asynccontextmanager
    async def around(self, group):
        """Let the crowd join `group` and groups of its own while the block runs."""
        tasks = [asyncio.create_task(self._come_and_go(group)) for _ in range(self.size)]
        try:
            yield self
            assert not any(task.done() for task in tasks)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            failures = [r for r in results if not isinstance(r, asyncio.CancelledError)]
            assert failures == []

    async def _come_and_go(self, group):
        while True:
            try:
                async with asyncio.timeout(self.rng.uniform(0.01, 0.2)):
                    await self._visit(group)
                self.visits += 1
            except TimeoutError:
                self.cut_short += 1

    async def _visit(self, group):
        inbox = await self.layer.open_channel()
        try:
            await self.layer.group_add(group, inbox.name)
            await self.layer.group_add(f"crowd-{self.rng.randrange(20)}", inbox.name)
            await asyncio.sleep(self.rng.uniform(0, 0.15))
            await self.layer.group_discard(group, inbox.name)
        finally:
            await self.layer.close_channel(inbox.name)


def on_server(url) -> dict[str, list[str]]:
    """Return the keys and subscribed topics that a server has of our groups and channels."""
    with redis.Redis.from_url(url) as client:
        topics = [topic.decode() for topic in client.pubsub_channels("*")]
        keys = [key.decode() for key in client.keys("*")]
        return {
            # The history of a group outlives its members on purpose.
            "keys": sorted(key for key in keys if "__log__" not in key),
            # A reader's own subscriptions last as long as its layer.
            "topics": sorted(topic for topic in topics if not OWN_TOPIC.search(topic)),
        }
