"""
Redis Streams: groups with a history, so that a receiver can catch up.

A group has a log: a stream with its numbered messages. A sender appends to the log and
publishes in one step. A receiver sees from the numbers that messages are missing, and reads
them from the log before it delivers anything later.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import BrokerRefused, ForeignChannel
from fast_channels.layers import names
from fast_channels.layers.addressing import InboxAddressing
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.broker import Appended
from fast_channels.layers.options import (
    HISTORY_SIZE,
    HISTORY_TTL,
    IDEMPOTENCY_WINDOW,
    HistoryOptions,
    WorkOptions,
    checked_seconds,
)

from ._catch_up import CatchUp
from ._client import SEND_TIMEOUT_SECONDS, sum_of
from ._hosts import checked_prefix, consistent_hash, decode_hosts, describe
from ._log import StreamLog
from ._options import CHECK_INTERVAL_SECONDS, HEARTBEAT_INTERVAL_SECONDS, StreamsOptions
from ._server import Server, delete_keys, health_of, ping_all
from ._subscriber import Subscriber
from ._work import RedisWorkQueue, WorkSettings
from .serializers import OpenCodec, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fast_channels.layers.broker import Deliver, LogSlice, Outage
    from fast_channels.layers.health import Health
    from fast_channels.layers.position import Position
    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .serializers import BaseMessageSerializer
    from .type_defs import ChannelRawRedisHost, SymmetricEncryptionKeys


class Shard:
    """The part of the broker on one server: logs of topics, and the subscriptions to them."""

    def __init__(self, server: Server, heartbeat_channel: str, options: StreamsOptions) -> None:
        self.server = server
        self.log = StreamLog(server, options.prefix, options.history)
        self.catch_up = CatchUp(self.log, options.batch, options.check_interval)
        self.subscriber = Subscriber(
            server,
            heartbeat_channel,
            options.heartbeat_interval,
            options.batch,
            self.catch_up.arrived,
            self.catch_up.lost,
            self.catch_up.returned,
        )

    async def stop(self) -> None:
        self.server.state.close()
        await self.subscriber.stop()
        await self.server.close()

    async def subscribe(self, topic: str) -> None:
        key = self.catch_up.open(topic)
        try:
            await self.subscriber.subscribe(key)
            await self._begin(key)
        except BaseException:
            self.catch_up.close(topic)
            raise

    async def _begin(self, key: str) -> None:
        try:
            await self.catch_up.begin(key)
        except BrokerRefused:
            # The layer takes the topic for unsubscribed, and would not end it.
            await self.subscriber.unsubscribe(key)
            raise

    async def unsubscribe(self, topic: str) -> None:
        await self.subscriber.unsubscribe(self.catch_up.close(topic))


class RedisStreamsBroker(RedisWorkQueue):
    """Topics have logs, each on the server that its name hashes to; see layers.broker.Log."""

    def __init__(
        self,
        shards: Sequence[Shard],
        serializer: BaseMessageSerializer,
        options: StreamsOptions,
        work_settings: WorkSettings,
        capacity_of: Callable[[str], int],
    ) -> None:
        super().__init__(
            [(shard.server, shard.subscriber) for shard in shards], work_settings, serializer.seal
        )
        self.shards = shards
        self._serializer = serializer
        self._options = options
        # For plain channels.
        self._capacity_of = capacity_of

    async def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        for shard in self.shards:
            shard.catch_up.start(deliver, report_outage)
        await ping_all([shard.server for shard in self.shards])

    async def stop(self) -> None:
        await asyncio.gather(*(shard.catch_up.stop() for shard in self.shards))
        # Before the connections are closed.
        await self.stop_work()
        await asyncio.gather(*(shard.stop() for shard in self.shards))

    async def publish(self, topic: str, payload: bytes) -> int:
        if names.is_local(topic):
            # A channel of another process: its inbox gets the message, with the name in it.
            payload = self._serializer.address(payload, topic)
            topic = names.inbox_of(topic)
        return (await self.append(topic, payload)).refused

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        return await sum_of(self.publish(topic, payload) for payload in payloads)

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        if not names.is_local(name):
            return await super().push_many(name, payloads, capacity)
        await self.publish_many(name, payloads)
        return len(payloads)

    async def subscribe(self, topic: str) -> None:
        await self._shard(topic).subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._shard(topic).unsubscribe(topic)

    def health(self) -> Mapping[str, Health]:
        return health_of([shard.server for shard in self.shards])

    # -- Log ------------------------------------------------------------------

    async def append(self, topic: str, payload: bytes, *, once: str | None = None) -> Appended:
        sealed = self._serializer.seal(payload)
        position, members = await self._shard(topic).log.append(topic, sealed, once)
        if not members:
            return Appended(position, 0)
        # Only queues refuse; a full mailbox drops messages itself.
        refused = await sum_of(self._send_to(member, payload) for member in members)
        if members and once is not None:
            await self._shard(topic).log.sent(topic, position, once)
        return Appended(position, refused)

    async def _send_to(self, member: bytes, payload: bytes) -> int:
        """Send to a shared channel in a group; return 1 if it is full."""
        # A name that is not text belongs to no channel, and must not fail the others.
        name = member.decode(errors="replace")
        return not await self.push(name, payload, self._capacity_of(name))

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        return await self._shard(topic).log.read(topic, after, limit)

    def delivered(self, topic: str) -> Position:
        return self._shard(topic).catch_up.position(topic)

    async def catch_up(self, topic: str) -> None:
        await self._shard(topic).catch_up.catch_up(topic)

    async def add_member(self, topic: str, name: str) -> None:
        if names.is_local(name):
            raise ForeignChannel(name, "add to a group")
        await self._shard(topic).log.add_member(topic, name)

    async def remove_member(self, topic: str, name: str) -> None:
        await self._shard(topic).log.remove_member(topic, name)

    # -- Flushable ------------------------------------------------------------

    async def flush(self) -> None:
        servers = [shard.server for shard in self.shards]
        for kind in ("__log__", "__work__"):
            await delete_keys(servers, f"{self._options.prefix}{kind}")
        await asyncio.gather(*(shard.catch_up.begin_anew() for shard in self.shards))

    def _shard(self, topic: str) -> Shard:
        shards = self.shards
        return shards[consistent_hash(topic, len(shards)) if len(shards) > 1 else 0]

    def __str__(self) -> str:
        return ", ".join(str(shard.server) for shard in self.shards)


class RedisStreamsChannelLayer(BaseChannelLayer):
    """
    Groups with a history: a broken connection loses nothing.

    Every message of a group has a position. Every receiver gets all messages of a group, in
    the order of their positions, each once, as far as the history reaches back. The history is
    the newest `history_size` messages, until nothing was sent to the group for `history_ttl`
    seconds. If it does not reach back far enough, the receiver gets one `layer.gap` with
    `recovered` False. `history` and `join` return messages that were missed.

    If the server was emptied or restored from older data, a log has another epoch or other
    tags, and is never mistaken for the old one. The end of a log is known for at least a day
    after its last use. An `idempotency_key` counts for `idempotency_window` seconds.

    A plain channel name is a queue of work that processes share, see `take`. A message that is
    not acknowledged within `visibility_timeout` seconds is redelivered. A failed message is
    retried after a pause. `retry_backoff` is the first and the longest pause in seconds; in
    between it doubles. After `max_deliveries` a message becomes a dead letter. The queue keeps
    the first `capacity` messages that are not done; later ones raise ChannelFull. A message
    that no worker takes is forgotten after `expiry` seconds; None means never.

    A send fails after `send_timeout` seconds without an answer. Every `heartbeat_interval`
    seconds the layer publishes a message to itself. After two intervals in which nothing
    arrives it connects again. Every `check_interval` seconds it compares groups with their
    logs, because the last message of a group may have been lost. Needs Redis 6, or any Valkey.
    """

    def __init__(
        self,
        hosts: Sequence[ChannelRawRedisHost] | None = None,
        prefix: str = "asgi",
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        symmetric_encryption_keys: SymmetricEncryptionKeys | None = None,
        serializer_format: str = "msgpack",
        *,
        history_size: int = HISTORY_SIZE,
        history_ttl: float = HISTORY_TTL,
        idempotency_window: float = IDEMPOTENCY_WINDOW,
        expiry: float | None = None,
        visibility_timeout: float = WorkOptions.visibility_timeout,
        max_deliveries: int = WorkOptions.max_deliveries,
        retry_backoff: tuple[float, float] = WorkOptions.retry_backoff,
        overflow: Overflow = "drop_oldest",
        max_message_size: int = 1024 * 1024,
        send_timeout: float = SEND_TIMEOUT_SECONDS,
        heartbeat_interval: float = HEARTBEAT_INTERVAL_SECONDS,
        check_interval: float = CHECK_INTERVAL_SECONDS,
    ) -> None:
        self._send_timeout = checked_seconds("send_timeout", send_timeout)
        self._serializer = registry.get_serializer(
            serializer_format, symmetric_encryption_keys=symmetric_encryption_keys
        )
        self._work_expiry = None if expiry is None else checked_seconds("expiry", expiry)
        self._work_options = WorkOptions(visibility_timeout, max_deliveries, retry_backoff)
        super().__init__(
            expiry=math.inf if expiry is None else expiry,
            capacity=capacity,
            channel_capacity=channel_capacity,
            codec=OpenCodec(self._serializer),
            decode=self._serializer.deserialize,
            addressing=InboxAddressing(inboxes_are_topics=True),
            overflow=overflow,
            max_message_size=max_message_size,
        )
        self.prefix = checked_prefix(prefix)
        self.hosts = decode_hosts(hosts)
        self._options = StreamsOptions(
            self.prefix,
            HistoryOptions(history_size, history_ttl, idempotency_window),
            checked_seconds("heartbeat_interval", heartbeat_interval),
            checked_seconds("check_interval", check_interval),
            self._delivery_batch,
        )

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return a message in its format and envelope, as it is stored in Redis."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Any:
        """Undo `serialize`."""
        return self._serializer.deserialize(message)

    def _make_broker(self) -> RedisStreamsBroker:
        heartbeat_channel = f"{self.prefix}specific.{self.process}.heartbeat"
        shards = [
            Shard(Server(host, self._send_timeout), heartbeat_channel, self._options)
            for host in self.hosts
        ]
        work_settings = WorkSettings(
            self.prefix,
            self.process,
            self._work_options,
            self._work_expiry,
            self._options.check_interval,
        )
        return RedisStreamsBroker(
            shards, self._serializer, self._options, work_settings, self.get_capacity
        )

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[describe(host) for host in self.hosts]})"
