"""
The queue: messages wait in Redis until their process takes them.

The keys are the ones of channels_redis, so Django processes on the same server can take part.
A process has one inbox per channel prefix: a sorted set whose key is the channel's name up to
the `!`. A message in it has the names of its receivers. A group is a sorted set of names. A
process joins a group once, under a name of its own (see names.group_address), however many of
its channels are members.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import BrokerRefused, LayerUnavailable
from fast_channels.layers import names
from fast_channels.layers.addressing import InboxAddressing
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.broker import Outage
from fast_channels.layers.options import checked_seconds

from ._client import SEND_TIMEOUT_SECONDS, sum_of
from ._hosts import checked_prefix, consistent_hash, decode_hosts, describe
from ._inbox import INBOX_CAPACITY, Inbox, flushing, member_commands, reap
from ._keys import Keys, member_belonging
from ._options import HEARTBEAT_INTERVAL_SECONDS, LEASE_SECONDS, QueueOptions
from ._queue_reader import QueueReader
from ._scripts import Script
from ._server import Server, delete_keys, health_of, ping_all
from .serializers import OpenCodec, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from fast_channels.layers.broker import Deliver, Popped
    from fast_channels.layers.health import Health
    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .serializers import Around, BaseMessageSerializer
    from .type_defs import ChannelRawRedisHost, SymmetricEncryptionKeys

PUSH = Script("push")
PUSH_MANY = Script("push_many")
PUBLISH = Script("publish")
MEMBERS = Script("members")

# Payloads in one command at most, and their bytes unless a single one is larger: the
# server serves no other client while it executes a command.
MAX_PUSHED_AT_ONCE = 1000
MAX_BYTES_PUSHED_AT_ONCE = 1024 * 1024


class ScoreClock:
    """Scores for one sender: the time, but always later than the last score."""

    def __init__(self) -> None:
        self._last = 0.0

    def score(self) -> float:
        # A microsecond is more than the resolution of a float at this size.
        self._last = max(time.time(), self._last + 1e-6)
        return self._last


class RedisQueueBroker:
    """Topics are names of groups; a topic with `!` is an inbox or one channel in it."""

    def __init__(
        self,
        servers: Sequence[Server],
        keys: Keys,
        serializer: BaseMessageSerializer,
        capacity_of: Callable[[str], int],
        options: QueueOptions,
    ) -> None:
        self.servers = servers
        self._keys = keys
        self._serializer = serializer
        self._capacity_of = capacity_of
        self._options = options
        # Keys of inboxes that no server refuses to let this process read.
        self._accessible: set[str] = set()
        self._clock = ScoreClock()
        self.inboxes: list[Inbox] = []
        """One per server."""
        self.queue_readers: dict[str, QueueReader] = {}
        """The readers of plain names that were received from lately."""
        # Stop readers that were idle for long.
        self._stopping: set[asyncio.Task[None]] = set()
        self._report_outage: Callable[[Outage], None] | None = None

    async def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        self._report_outage = report_outage
        self.inboxes = [
            Inbox(server, self._keys, deliver, self._options, self._returned)
            for server in self.servers
        ]
        await ping_all(self.servers)

    async def stop(self) -> None:
        for server in self.servers:
            server.state.close()
        # At the same time: each waits for its timeout if a server hangs.
        readers = self.queue_readers.values()
        await asyncio.gather(*(reader.stop() for reader in readers), *self._stopping)
        await asyncio.gather(*(inbox.stop() for inbox in self.inboxes))
        await asyncio.gather(*(server.close() for server in self.servers))

    def health(self) -> Mapping[str, Health]:
        return health_of(self.servers)

    # -- Broker -------------------------------------------------------------------

    async def publish(self, topic: str, payload: bytes) -> int:
        if names.is_local(topic):
            return await self._push({names.inbox_of(topic): topic}, payload)
        around = self._serializer.around(payload)
        if around is None or len(self.servers) > 1:
            ended, refused, members = await self._members(topic)
        else:
            ended, refused, members = await self._publish_on_server(topic, around)
        inboxes: dict[str, list[str]] = {}
        for member in members:
            # A name that is not text belongs to no process, and must not fail the others.
            name = member.decode(errors="replace")
            inboxes.setdefault(names.inbox_of(name), []).append(name)
        if inboxes:
            refused += await self._push(inboxes, payload)
        if ended:
            # The message is sent. If this fails, the next sender does it.
            with contextlib.suppress(LayerUnavailable):
                await reap(self._server_of(topic).publishing, self._keys)
        return refused

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        return await sum_of(self.publish(topic, payload) for payload in payloads)

    async def subscribe(self, topic: str) -> None:
        """Join a group or begin to read an inbox, even if that takes an outage."""
        if names.is_local(topic):
            await self._read_inbox(topic)
            return
        await self._read_inbox(self._keys.inbox)
        await self.inboxes[self._index(topic)].join(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self.inboxes[self._index(topic)].leave(topic)

    async def _read_inbox(self, name: str) -> None:
        """Read an inbox on every server, because peers hash names in another way."""
        key = self._keys.of_channel(name)
        if key in self._accessible:
            return
        # Before the first await, or a cancelled call could leave some unread.
        for inbox in self.inboxes:
            inbox.read(key)
        try:
            await asyncio.gather(*(inbox.check_access() for inbox in self.inboxes))
        except BrokerRefused:
            for inbox in self.inboxes:
                inbox.forget(key)
            raise
        self._accessible.add(key)

    # -- Queue --------------------------------------------------------------------

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        sealed = self._serializer.seal(payload)
        key = self._keys.of_channel(name)
        return not await self._push_to(self._index(name), [key], [capacity, sealed])

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        if names.is_local(name):
            capacity = INBOX_CAPACITY
            payloads = [self._serializer.address(payload, name) for payload in payloads]
        pushed = 0
        for some in _portions(payloads):
            accepted = await self._push_some(names.inbox_of(name), some, capacity)
            pushed += accepted
            if accepted < len(some):
                break
        return pushed

    async def _push_some(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        expiry, seal = self._options.expiry, self._serializer.seal
        scored = [(repr(self._clock.score()), seal(payload)) for payload in payloads]
        args = [repr(time.time() - expiry), int(expiry * 1000), capacity, *chain(*scored)]
        client = self._server_of(name).publishing
        accepted: int = await client.run(PUSH_MANY, [self._keys.of_channel(name)], args)
        return accepted

    async def pop(self, name: str) -> Popped:
        return await self._queue_reader(name).pop()

    def put_back(self, name: str, popped: Popped) -> None:
        self._queue_reader(name).hand_over(popped)

    def _queue_reader(self, name: str) -> QueueReader:
        reader = self.queue_readers.get(name)
        if reader is None:
            trackers = [inbox.tracker for inbox in self.inboxes]
            forget = functools.partial(self._forget_queue_reader, name)
            reader = QueueReader(name, trackers, self._keys, self._options, forget)
            self.queue_readers[name] = reader
        return reader

    def _forget_queue_reader(self, name: str) -> None:
        # Its sources on servers that cannot be reached would go on trying.
        stopping = asyncio.create_task(
            self.queue_readers.pop(name).stop(), name=f"fast_channels stop {name}"
        )
        self._stopping.add(stopping)
        stopping.add_done_callback(self._stopping.discard)

    async def add_member(self, topic: str, name: str) -> None:
        call, group = self._server_of(topic).control.call, self._keys.of_group(topic)
        process = names.process_of(name)
        leased = process is not None and await call("ZSCORE", self._keys.leases, process)
        commands = member_commands(call, group, name, self._options.group_expiry)
        if process is not None and leased is not None:
            # Without a lease, as for Django processes, nothing would remove this entry.
            entry = member_belonging(name, group)
            commands.insert(0, call("SADD", self._keys.of_process(process), entry))
        await asyncio.gather(*commands)

    async def remove_member(self, topic: str, name: str) -> None:
        call, group = self._server_of(topic).control.call, self._keys.of_group(topic)
        commands = [call("ZREM", group, name)]
        process = names.process_of(name)
        if process is not None:
            # The list of a process that runs for long would grow without end.
            entries = self._keys.of_process(process)
            commands.append(call("SREM", entries, member_belonging(name, group)))
        await asyncio.gather(*commands)

    # -- Flushable ----------------------------------------------------------------

    async def flush(self) -> None:
        async with flushing(self.inboxes):
            await delete_keys(self.servers, self._keys.prefix)
        for reader in self.queue_readers.values():
            reader.discard()

    # -- commands -----------------------------------------------------------------

    async def _members(self, topic: str) -> tuple[int, int, list[bytes]]:
        """Return how many leases have ended, 0, and the members of a group."""
        client = self._server_of(topic).publishing
        keys = [self._keys.of_group(topic), self._keys.leases]
        horizon = repr(time.time() - self._options.group_expiry)
        ended, *members = await client.run(MEMBERS, keys, [horizon])
        return ended, 0, members

    async def _publish_on_server(self, topic: str, around: Around) -> tuple[int, int, list[bytes]]:
        """
        Let the server put a message into the inboxes of a group's members.

        Return how many leases have ended, how many inboxes were full, and the members that
        the caller still has to send to: plain channels, because the server does not know
        their capacity.
        """
        client, now, options = self._server_of(topic).publishing, self._clock.score(), self._options
        keys = [self._keys.of_group(topic), self._keys.leases]
        args = [
            repr(now - options.group_expiry),
            *self._score_args(now),
            INBOX_CAPACITY,
            self._keys.prefix,
            *around,
        ]
        ended, full, *left = await client.run(PUBLISH, keys, args)
        return ended, full, left

    async def _push(self, inboxes: Mapping[str, str | list[str]], payload: bytes) -> int:
        """Put a payload into inboxes, each with its receivers; return how many were full."""
        hosts: dict[int, tuple[list[str], list[Any]]] = {}
        for inbox, receivers in inboxes.items():
            keys, args = hosts.setdefault(self._index(inbox), ([], []))
            keys.append(self._keys.of_channel(inbox))
            sealed = self._serializer.seal(self._serializer.address(payload, receivers))
            args += [self._capacity(inbox), sealed]
        pushes = (self._push_to(index, *pushed) for index, pushed in hosts.items())
        return sum(await asyncio.gather(*pushes))

    async def _push_to(self, index: int, keys: list[str], args: list[Any]) -> int:
        common = self._score_args(self._clock.score())
        full: int = await self.servers[index].publishing.run(PUSH, keys, common + args)
        return full

    def _score_args(self, now: float) -> list[Any]:
        """Return a score, the lowest score that has not expired, and the lifetime of a key."""
        expiry = self._options.expiry
        return [repr(now), repr(now - expiry), int(expiry * 1000)]

    def _capacity(self, inbox: str) -> int:
        return INBOX_CAPACITY if names.is_local(inbox) else self._capacity_of(inbox)

    def _server_of(self, name: str) -> Server:
        return self.servers[self._index(name)]

    def _index(self, name: str) -> int:
        return consistent_hash(name, len(self.servers)) if len(self.servers) > 1 else 0

    def _returned(self, returned: Inbox, since: float, until: float, recovered: bool) -> None:
        """Tell the members that may have missed something while a server was away."""
        # The groups on that server; and all groups if it has the inbox of this process.
        at_home = returned is self.inboxes[self._index(self._keys.inbox)]
        affected = self.inboxes if at_home else [returned]
        topics = sorted(topic for inbox in affected for topic in inbox.joined)
        if at_home or not recovered:
            # Direct messages too: peers may send them by way of any server.
            topics.append(self._keys.inbox)
        if self._report_outage is None:
            return
        if recovered:
            self._report_outage(Outage(since, until, recovered=topics))
        else:
            self._report_outage(Outage(since, until, lost=topics))

    def __str__(self) -> str:
        return ", ".join(map(str, self.servers))


class RedisChannelLayer(BaseChannelLayer):
    """
    A queue in Redis: messages wait there for their process, for `expiry` seconds.

    The format is the one of channels_redis, so Django processes can take part. A plain channel
    name is a queue that processes share: each message goes to one receiver. The queue keeps
    the first `capacity` messages; later ones raise ChannelFull.

    Messages that are sent while this process cannot reach the server wait there, and a broken
    connection loses nothing. A process that receives renews a lease. If it has not done so for
    `lease` seconds, other processes remove it from its groups. Members without a lease, such
    as Django processes, are removed after `group_expiry` seconds.

    A send fails after `send_timeout` seconds without an answer. Every `heartbeat_interval`
    seconds the layer writes to a key and expects to be told. After two intervals without a
    notice it connects again. Needs Redis 6, or any Valkey.
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
        send_timeout: float = SEND_TIMEOUT_SECONDS,
        heartbeat_interval: float = HEARTBEAT_INTERVAL_SECONDS,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self._send_timeout = checked_seconds("send_timeout", send_timeout)
        self._options = QueueOptions(
            checked_seconds("expiry", expiry),
            checked_seconds("group_expiry", group_expiry),
            checked_seconds("lease", lease),
            checked_seconds("heartbeat_interval", heartbeat_interval),
        )
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
            decode=self._serializer.deserialize,
            addressing=InboxAddressing(inboxes_are_topics=True),
            overflow=overflow,
            max_message_size=max_message_size,
        )
        self.prefix = checked_prefix(prefix)
        self.group_expiry = group_expiry
        self.hosts = decode_hosts(hosts)
        self.ring_size = len(self.hosts)
        """The number of hosts that share the names."""

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return a message in its format and envelope, as it is stored in Redis."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Any:
        """Undo `serialize`."""
        return self._serializer.deserialize(message)

    async def close_pools(self) -> None:
        """Close the layer. channels_redis has this name for it."""
        await self.close()

    def consistent_hash(self, value: str | bytes) -> int:
        """Return the index of the host that a name lives on."""
        return consistent_hash(value, self.ring_size)

    def _make_broker(self) -> RedisQueueBroker:
        return RedisQueueBroker(
            [Server(host, self._send_timeout) for host in self.hosts],
            Keys(self.prefix, self.process),
            self._serializer,
            self.get_capacity,
            replace(self._options, batch=self._delivery_batch),
        )

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[describe(host) for host in self.hosts]})"


def _portions(payloads: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield payloads in lists that fit into one command."""
    portion: list[bytes] = []
    size = 0
    for payload in payloads:
        too_large = size + len(payload) > MAX_BYTES_PUSHED_AT_ONCE
        if portion and (len(portion) == MAX_PUSHED_AT_ONCE or too_large):
            yield portion
            portion, size = [], 0
        portion.append(payload)
        size += len(payload)
    if portion:
        yield portion
