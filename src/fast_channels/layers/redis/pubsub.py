"""Redis pub/sub: messages for connected receivers, with the lowest latency."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers.addressing import TopicAddressing
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.broker import Outage
from fast_channels.layers.mailbox import Notice
from fast_channels.layers.options import checked_seconds

from ._client import SEND_TIMEOUT_SECONDS, sum_of
from ._hosts import checked_prefix, consistent_hash, decode_hosts, describe
from ._options import HEARTBEAT_INTERVAL_SECONDS
from ._server import Server, health_of, ping_all
from ._subscriber import Subscriber
from .serializers import SealedCodec, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fast_channels.layers.broker import Deliver
    from fast_channels.layers.health import Health
    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .type_defs import ChannelRawRedisHost, SymmetricEncryptionKeys


class RedisPubSubBroker:
    """Topics are Redis channels, each on the server that its name hashes to."""

    def __init__(
        self,
        servers: Sequence[Server],
        batch: int,
        on_loss: Callable[[], None],
        heartbeat_channel: str,
        heartbeat_interval: float,
        on_return: Callable[[], None] | None = None,
    ) -> None:
        self.servers = servers
        # Payloads to deliver before consumers get a turn.
        self._batch = batch
        self._on_loss = on_loss
        self._heartbeat_channel = heartbeat_channel
        self._heartbeat_interval = heartbeat_interval
        # Called after an outage was reported.
        self._on_return = on_return
        # One per server.
        self._subscribers: list[Subscriber] = []
        self._report_outage: Callable[[Outage], None] | None = None

    async def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        self._report_outage = report_outage
        self._subscribers = [
            Subscriber(
                server,
                self._heartbeat_channel,
                self._heartbeat_interval,
                self._batch,
                deliver,
                self._on_loss,
                functools.partial(self._returned, number),
            )
            for number, server in enumerate(self.servers)
        ]
        await ping_all(self.servers)

    async def stop(self) -> None:
        for server in self.servers:
            server.state.close()
        for subscriber in self._subscribers:
            await subscriber.stop()
        await asyncio.gather(*(server.close() for server in self.servers))

    async def publish(self, topic: str, payload: bytes) -> int:
        await self.servers[self._index(topic)].publishing.call("PUBLISH", topic, payload)
        # Redis refuses nothing on behalf of receivers; a full mailbox drops messages itself.
        return 0

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        return await sum_of(self.publish(topic, payload) for payload in payloads)

    async def subscribe(self, topic: str) -> None:
        await self._subscribers[self._index(topic)].subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._subscribers[self._index(topic)].unsubscribe(topic)

    def health(self) -> Mapping[str, Health]:
        return health_of(self.servers)

    def _returned(self, number: int, since: float, until: float) -> None:
        if self._report_outage is not None:
            # The server has not kept the messages published meanwhile.
            topics = sorted(self._subscribers[number].topics)
            self._report_outage(Outage(since, until, lost=topics))
        if self._on_return is not None:
            self._on_return()

    def _index(self, topic: str) -> int:
        return consistent_hash(topic, len(self.servers)) if len(self.servers) > 1 else 0

    def __str__(self) -> str:
        return ", ".join(map(str, self.servers))


class RedisPubSubChannelLayer(BaseChannelLayer):
    """
    At most once, with the lowest latency: messages reach receivers that are connected now.

    Redis keeps nothing. While the server cannot be reached, sending raises LayerUnavailable,
    and every channel gets a `layer.gap` afterwards. At the beginning of an outage every channel
    gets a message of the type `on_disconnect`, and at its end one of the type `on_reconnect`,
    if you set them, as in channels_redis.

    A send fails after `send_timeout` seconds without an answer. Every `heartbeat_interval`
    seconds the layer publishes a message to itself. After two intervals in which nothing
    arrives it connects again.
    """

    def __init__(
        self,
        hosts: Sequence[ChannelRawRedisHost] | None = None,
        prefix: str = "asgi",
        symmetric_encryption_keys: SymmetricEncryptionKeys | None = None,
        serializer_format: str = "msgpack",
        on_disconnect: str | None = None,
        on_reconnect: str | None = None,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        *,
        overflow: Overflow = "drop_oldest",
        max_message_size: int = 1024 * 1024,
        send_timeout: float = SEND_TIMEOUT_SECONDS,
        heartbeat_interval: float = HEARTBEAT_INTERVAL_SECONDS,
    ) -> None:
        self._send_timeout = checked_seconds("send_timeout", send_timeout)
        self._heartbeat_interval = checked_seconds("heartbeat_interval", heartbeat_interval)
        self._serializer = registry.get_serializer(
            serializer_format, symmetric_encryption_keys=symmetric_encryption_keys
        )
        self.prefix = checked_prefix(prefix)
        super().__init__(
            capacity=capacity,
            channel_capacity=channel_capacity,
            codec=SealedCodec(self._serializer),
            addressing=TopicAddressing(self.prefix, f"{self.prefix}__group__"),
            overflow=overflow,
            max_message_size=max_message_size,
        )
        self.hosts = decode_hosts(hosts)
        for type_ in (on_disconnect, on_reconnect):
            if type_ is not None and not (isinstance(type_, str) and type_[:1].isalnum()):
                raise InvalidChannelLayerError(
                    f"on_disconnect and on_reconnect are types of messages, not {type_!r}; "
                    "use a string such as 'redis.disconnect'"
                )
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return a message in its format and envelope, as it is published."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Any:
        """Undo `serialize`."""
        return self._serializer.deserialize(message)

    def _make_broker(self) -> RedisPubSubBroker:
        return RedisPubSubBroker(
            [Server(host, self._send_timeout) for host in self.hosts],
            self._delivery_batch,
            functools.partial(self._announce, self._on_disconnect),
            f"{self.prefix}specific.{self.process}.heartbeat",
            self._heartbeat_interval,
            functools.partial(self._announce, self._on_reconnect),
        )

    def _announce(self, type_: str | None) -> None:
        if type_ is not None and self._session is not None:
            for mailbox in self._session.hub.mailboxes.values():
                mailbox.put_notice(Notice(type=type_))

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[describe(host) for host in self.hosts]})"
