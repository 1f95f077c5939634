"""
The queue: messages wait in Redis until their process takes them.

The keys are those of channels_redis, so Django processes on the same server
take part. A process has one inbox per channel prefix, a sorted set named up to
and including the `!` of its channels; a message in it says whom it is for. A
group is a sorted set of names. This process joins a group once, under a name of
its own (see names.group_address), however many of its channels are members.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import BrokerRefused, LayerUnavailable
from fast_channels.layers import names
from fast_channels.layers.base import BaseChannelLayer

from ._connection import BLOCK, PATIENCE, Link, Pipe, on_all
from ._hosts import checked_prefix, consistent_hash, decode_hosts, describe
from ._scripts import Script
from ._supervisor import Supervisor, pauses
from ._tap import Tap
from .serializers import OpenCodec, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fast_channels.layers.broker import Deliver, Interrupted
    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .serializers import BaseMessageSerializer
    from .type_defs import ChannelDecodedRedisHost, ChannelRawRedisHost, SymmetricEncryptionKeys

logger = logging.getLogger("fast_channels.layers.redis")

PUSH = Script("push")
FLUSH = Script("flush")

# Messages that may wait in the inbox of one process. The bound of each channel
# in it is the channel's own; this one protects Redis from a process that hangs.
INBOX_CAPACITY = 10_000


class Clock:
    """Scores for one sender: the time, but never the same or an earlier one twice."""

    def __init__(self) -> None:
        self._last = 0.0

    def score(self) -> float:
        # A microsecond is more than the resolution of a float at this size.
        self._last = max(time.time(), self._last + 1e-6)
        return self._last


class Inbox:
    """What is addressed to this process on one server, and its memberships there."""

    def __init__(
        self, host: ChannelDecodedRedisHost, pipe: Pipe, broker: RedisQueueBroker, deliver: Deliver
    ) -> None:
        # Groups on this server to be a member of, and not to be.
        self.joined: set[str] = set()
        self.left: set[str] = set()
        self._pipe = pipe
        self._broker = broker
        self._deliver = deliver
        self._supervisor = Supervisor(host, self._converse, on_return=self._returned)

    def start(self) -> None:
        """Read in the background. Starting twice is fine."""
        self._supervisor.start()

    async def stop(self) -> None:
        await self._supervisor.stop()

    async def watch(self) -> None:
        """Read the broker's inboxes, also those added since the last call."""
        # The reader may be blocked on the keys of a moment ago. During an
        # outage it is not, and looks them up when it is back.
        await self._pipe.ring(self._broker.bell)

    async def _converse(self, link: Link, supervisor: Supervisor) -> None:
        await self._restored()
        supervisor.connected()
        bell = self._broker.bell.encode()
        renewed = time.monotonic()
        while True:
            if time.monotonic() - renewed > self._broker.renew_after:
                # A process is a member once, however long ago that was and
                # whoever of its channels joined since.
                renewed = time.monotonic()
                await self._restored()
            async with asyncio.timeout(PATIENCE):
                keys = self._broker.inbox_keys
                reply = await link.call("BZPOPMIN", bell, *keys, self._broker.block)
            supervisor.touch()
            if reply is not None and reply[0] != bell:
                self._deliver(reply[0].decode(), reply[1])
                await self._drain(link, reply[0])

    async def _drain(self, link: Link, key: bytes) -> None:
        """Take what else waits in an inbox, with a turn for consumers after each batch."""
        size = self._broker.batch
        while True:
            async with asyncio.timeout(PATIENCE):
                reply = await link.call("ZPOPMIN", key, size)
            # Members and scores in turn.
            for payload in reply[::2]:
                self._deliver(key.decode(), payload)
            if len(reply) < 2 * size:
                return
            await asyncio.sleep(0)

    async def _restored(self) -> None:
        try:
            await self._restore()
        except LayerUnavailable as exc:
            # Tells the supervisor that this connection will not do.
            raise ConnectionError(exc.reason) from exc

    async def _restore(self) -> None:
        """Make memberships what they should be; the server may have lost its data."""
        topics = set(self.joined)
        # Together, so that thousands take one round trip and not thousands.
        await asyncio.gather(*map(self._rejoin, topics))
        # Some may have been left while they were joined again.
        self.left |= topics - self.joined
        for topic in self.left - self.joined:
            await self._broker.leave(topic)
            self.left.discard(topic)

    async def _rejoin(self, topic: str) -> None:
        try:
            await self._broker.join(topic)
        except BrokerRefused:
            # It must not keep the others from coming back.
            logger.exception("the group %r cannot be joined again", topic)

    def _returned(self, since: float, until: float) -> None:
        self._broker.returned(since, until)


class RedisQueueBroker:
    """Topics are group names; a topic with `!` in it is an inbox or one channel in it."""

    def __init__(
        self,
        hosts: Sequence[ChannelDecodedRedisHost],
        prefix: str,
        process: str,
        serializer: BaseMessageSerializer,
        capacity_of: Callable[[str], int],
        *,
        expiry: float,
        group_expiry: float,
        batch: int,
    ) -> None:
        self._hosts = hosts
        self._prefix = prefix
        self._serializer = serializer
        self._capacity_of = capacity_of
        # Seconds.
        self._expiry = expiry
        self._group_expiry = group_expiry
        # Seconds after which memberships are renewed, and that a blocking read
        # lasts: no longer, so that the reader is there to renew them.
        self.renew_after = group_expiry / 3
        self.block = max(0.1, min(BLOCK, self.renew_after / 2))
        # Payloads to deliver before consumers get a turn.
        self.batch = batch
        # Where everything for a group of this process arrives.
        self._inbox = names.process_inbox("specific", process)
        # Keys that are read on every host: peers hash in their own way.
        self.inbox_keys: list[str] = []
        # A key of our own that ends a blocking read.
        self.bell = f"{prefix}{self._inbox}bell"
        self._clock = Clock()
        self._pipes = [Pipe(host) for host in hosts]
        self._inboxes: list[Inbox] = []
        # One per plain name that was received from.
        self._taps: dict[str, Tap] = {}
        self._interrupted: Interrupted | None = None

    async def start(self, deliver: Deliver, interrupted: Interrupted) -> None:
        self._interrupted = interrupted
        self._inboxes = [
            Inbox(host, pipe, self, deliver)
            for host, pipe in zip(self._hosts, self._pipes, strict=True)
        ]
        await on_all(self._pipes, lambda pipe: pipe.call("PING"))

    async def stop(self) -> None:
        for tap in list(self._taps.values()):
            await tap.stop()
        for inbox in self._inboxes:
            await inbox.stop()
        await asyncio.gather(*map(self._depart, self._inboxes, self._pipes))
        for pipe in self._pipes:
            await pipe.close()

    async def _depart(self, inbox: Inbox, pipe: Pipe) -> None:
        """Leave nothing for others to send to, and nothing that was sent."""
        # Without the server, group_expiry and expiry have to do it.
        with contextlib.suppress(LayerUnavailable):
            while inbox.joined:
                await self.leave(inbox.joined.pop())
            if self.inbox_keys:
                await pipe.call("DEL", *self.inbox_keys)

    # -- Broker -------------------------------------------------------------

    async def publish(self, topic: str, payload: bytes) -> int:
        if names.is_local(topic):
            return await self._push({names.inbox_of(topic): topic}, payload)
        inboxes: dict[str, list[str]] = {}
        for member in await self._members(topic):
            inboxes.setdefault(names.inbox_of(member), []).append(member)
        return await self._push(inboxes, payload)

    async def subscribe(self, topic: str) -> None:
        """Join a group, or begin to read an inbox; also if that takes an outage."""
        if names.is_local(topic):
            await self._watch(topic)
            return
        await self._watch(self._inbox)
        inbox = self._inboxes[self._index(topic)]
        inbox.joined.add(topic)
        inbox.left.discard(topic)
        for pause in pauses():
            try:
                await self.join(topic)
            except LayerUnavailable as exc:
                if isinstance(exc, BrokerRefused):
                    inbox.joined.discard(topic)
                    raise
                await asyncio.sleep(pause)
            else:
                break

    async def unsubscribe(self, topic: str) -> None:
        inbox = self._inboxes[self._index(topic)]
        inbox.joined.discard(topic)
        try:
            await self.leave(topic)
        except LayerUnavailable:
            inbox.left.add(topic)

    async def _watch(self, inbox: str) -> None:
        key = self._prefix + inbox
        if key not in self.inbox_keys:
            self.inbox_keys.append(key)
            # Before anything waits, or a cancellation would leave them asleep.
            for reader in self._inboxes:
                reader.start()
            await asyncio.gather(*(inbox.watch() for inbox in self._inboxes))

    # -- Queue --------------------------------------------------------------

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        sealed = self._serializer.seal(payload)
        refused = await self._push_to(self._index(name), [self._prefix + name], [capacity, sealed])
        return not refused

    async def pop(self, name: str) -> bytes:
        tap = self._taps.get(name)
        if tap is None:
            servers = list(zip(self._hosts, self._pipes, strict=True))
            bell = f"{self.bell}.{names.unique()}"
            forget = functools.partial(self._taps.pop, name, None)
            tap = Tap(name, self._prefix + name, bell, self._expiry, servers, forget)
            self._taps[name] = tap
        return await tap.pop()

    async def add_member(self, topic: str, name: str) -> None:
        pipe, key = self._pipes[self._index(topic)], self._group_key(topic)
        await asyncio.gather(
            pipe.call("ZADD", key, repr(time.time()), name),
            pipe.call("PEXPIRE", key, int(self._group_expiry * 1000)),
        )

    async def remove_member(self, topic: str, name: str) -> None:
        await self._pipes[self._index(topic)].call("ZREM", self._group_key(topic), name)

    async def join(self, topic: str) -> None:
        """Make this process a member of a group."""
        await self.add_member(topic, self._address(topic))

    async def leave(self, topic: str) -> None:
        await self.remove_member(topic, self._address(topic))

    # -- Flushable ----------------------------------------------------------

    async def flush(self) -> None:
        everything = re.sub(r"([*?\[\]\\])", r"\\\1", self._prefix) + "*"
        await on_all(self._pipes, lambda pipe: pipe.run(FLUSH, [], [everything]))

    # -- the wire -----------------------------------------------------------

    async def _members(self, topic: str) -> list[str]:
        """Return the members of a group, without those that have expired."""
        pipe, key = self._pipes[self._index(topic)], self._group_key(topic)
        _, members = await asyncio.gather(
            pipe.call("ZREMRANGEBYSCORE", key, "-inf", repr(time.time() - self._group_expiry)),
            pipe.call("ZRANGE", key, 0, -1),
        )
        return [member.decode() for member in members]

    async def _push(self, inboxes: Mapping[str, str | list[str]], payload: bytes) -> int:
        """Put a payload into inboxes, each with its receivers; return how many were full."""
        hosts: dict[int, tuple[list[str], list[Any]]] = {}
        for inbox, receivers in inboxes.items():
            keys, args = hosts.setdefault(self._index(inbox), ([], []))
            keys.append(self._prefix + inbox)
            sealed = self._serializer.seal(self._serializer.address(payload, receivers))
            args += [self._capacity(inbox), sealed]
        pushes = (self._push_to(index, *pushed) for index, pushed in hosts.items())
        return sum(await asyncio.gather(*pushes))

    async def _push_to(self, index: int, keys: list[str], args: list[Any]) -> int:
        score = self._clock.score()
        common = [repr(score), repr(score - self._expiry), int(self._expiry * 1000)]
        full: int = await self._pipes[index].run(PUSH, keys, common + args)
        return full

    def _capacity(self, inbox: str) -> int:
        return INBOX_CAPACITY if names.is_local(inbox) else self._capacity_of(inbox)

    def _address(self, topic: str) -> str:
        return names.group_address(self._inbox, topic)

    def _group_key(self, topic: str) -> str:
        return f"{self._prefix}:group:{topic}"

    def _index(self, name: str) -> int:
        return consistent_hash(name, len(self._hosts))

    def returned(self, since: float, until: float) -> None:
        """Tell members of all groups: their messages come by any of the servers."""
        topics = sorted(topic for inbox in self._inboxes for topic in inbox.joined)
        if self._interrupted is not None:
            self._interrupted(topics, since, until, False)

    def __str__(self) -> str:
        return ", ".join(map(str, self._pipes))


class RedisChannelLayer(BaseChannelLayer):
    """
    A queue in Redis: messages wait there for their process, for `expiry` seconds.

    The format is that of channels_redis, so Django processes can take part. A
    plain channel name is a queue that processes share: each message goes to
    one receiver, the first `capacity` are kept, later ones refused with
    ChannelFull. `group_expiry` is after how many seconds a member that did not
    leave is forgotten.
    """

    def __init__(
        self,
        hosts: Sequence[ChannelRawRedisHost] | None = None,
        prefix: str = "asgi",
        expiry: float = 60,
        group_expiry: float = 86400,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        symmetric_encryption_keys: SymmetricEncryptionKeys | None = None,
        random_prefix_length: int = 12,
        serializer_format: str = "msgpack",
        *,
        overflow: Overflow = "drop_oldest",
        max_message_size: int = 1024 * 1024,
    ) -> None:
        self._serializer = registry.get_serializer(
            serializer_format,
            symmetric_encryption_keys=symmetric_encryption_keys,
            random_prefix_length=random_prefix_length,
            expiry=expiry,
        )
        super().__init__(
            expiry,
            capacity,
            channel_capacity,
            codec=OpenCodec(self._serializer),
            overflow=overflow,
            max_message_size=max_message_size,
        )
        self.prefix = checked_prefix(prefix)
        self.group_expiry = group_expiry
        self.hosts = decode_hosts(hosts)
        self.ring_size = len(self.hosts)

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return the bytes that travel for a message."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Any:
        return self._serializer.deserialize(message)

    def consistent_hash(self, value: str | bytes) -> int:
        """Return the index of the host that a name lives on."""
        return consistent_hash(value, self.ring_size)

    def _make_broker(self) -> RedisQueueBroker:
        return RedisQueueBroker(
            self.hosts,
            self.prefix,
            self.process,
            self._serializer,
            self.get_capacity,
            expiry=self.expiry,
            group_expiry=self.group_expiry,
            batch=self._turn(),
        )

    def _deliver(self, topic: str, payload: bytes) -> int:
        return self._hub.deliver_addressed(topic, payload)

    def _affected(self, topics: Iterable[str]) -> dict[str, list[str]]:
        # The inbox is one for all: what was sent to any channel may be missing.
        return {**{name: [] for name in self._hub.mailboxes}, **super()._affected(topics)}

    def _decode(self, payload: bytes) -> Any:
        return self._serializer.deserialize(payload)

    async def _channel_opened(self, channel: str) -> None:
        await self._live_broker.subscribe(names.inbox_of(channel))

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[describe(host) for host in self.hosts]})"
