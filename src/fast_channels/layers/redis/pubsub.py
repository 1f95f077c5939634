"""Redis pub/sub: at most once, lowest latency."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import sys
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from redis.exceptions import InvalidResponse, ResponseError

from fast_channels.exceptions import BrokerRefused, InvalidChannelLayerError
from fast_channels.layers import names
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.broker import Outage
from fast_channels.layers.mailbox import Notice
from fast_channels.layers.options import checked_seconds

from ._client import CONNECTION_ERRORS, SEND_TIMEOUT_SECONDS, RedisConnection, sum_of
from ._hosts import checked_prefix, consistent_hash, decode_hosts, describe
from ._options import HEARTBEAT_INTERVAL
from ._reader import Reader, ReaderHeartbeat, first_of
from ._server import Server, health_of, ping_all
from .serializers import SealedCodec, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from fast_channels.layers.broker import Deliver
    from fast_channels.layers.health import Health
    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .type_defs import ChannelRawRedisHost, SymmetricEncryptionKeys

logger = logging.getLogger("fast_channels.layers.redis")

# Commands, and the kinds of reply that confirm them.
SUBSCRIBE, UNSUBSCRIBE = b"subscribe", b"unsubscribe"

# Names in one SUBSCRIBE when all of them are renewed.
BATCH = 1000


class Subscriber:
    """
    The subscriptions on one server.

    `topics` is what is wanted; after an outage all of it is subscribed anew.
    """

    def __init__(self, server: Server, broker: RedisPubSubBroker, deliver: Deliver) -> None:
        self.topics: set[str] = set()
        self._broker = broker
        self._deliver = deliver
        # A Redis channel of this process alone.
        self._beats = broker.beats.encode()
        interval = broker.heartbeat_interval
        publish = server.publishing.call
        self._heart = ReaderHeartbeat(
            server, interval, lambda: publish("PUBLISH", self._beats, b"")
        )
        self._supervisor = server.supervised(self._converse, broker.lost, self._returned)
        # The connection in use; None while there is none.
        self._link: RedisConnection | None = None
        # Whoever waits for the server to confirm what, by topic. Calls for one topic
        # do not overlap (see layers/membership.py).
        self._expected: dict[str, tuple[bytes, asyncio.Future[None]]] = {}
        # What is to be sent at the end of this turn of the loop: commands and topics.
        self._asked: list[tuple[bytes, str]] = []

    async def subscribe(self, topic: str) -> None:
        """Return once the server has confirmed, also if that takes an outage."""
        self.topics.add(topic)
        self._supervisor.start()
        try:
            await self._confirmed(SUBSCRIBE, topic)
        except BrokerRefused:
            self.topics.discard(topic)
            raise

    async def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)
        if self._link is not None:
            await self._confirmed(UNSUBSCRIBE, topic)

    async def stop(self) -> None:
        await self._supervisor.stop()

    async def _confirmed(self, command: bytes, topic: str) -> None:
        loop = asyncio.get_running_loop()
        confirmed = loop.create_future()
        self._expected[topic] = command, confirmed
        if self._link is not None:
            if not self._asked:
                loop.call_soon(self._ask)
            self._asked.append((command, topic))
        try:
            await confirmed
        finally:
            del self._expected[topic]

    def _ask(self) -> None:
        """Send what was asked for in the last turn of the loop, as few commands in one go."""
        asked, self._asked = self._asked, []
        if self._link is not None:
            # If it fails, the reader notices too, and subscribes anew.
            with contextlib.suppress(*CONNECTION_ERRORS):
                self._link.write(
                    (command, *[topic for _, topic in run])
                    for command, run in itertools.groupby(asked, key=itemgetter(0))
                )

    async def _converse(self, link: RedisConnection, supervisor: Reader) -> None:
        # No waiting between these two lines: a topic is either in this list or
        # subscribed by whoever added it.
        missing = set(self.topics)
        self._link, self._asked = link, []
        try:
            await link.send((SUBSCRIBE, self._beats))
            for batch in _batches(list(missing)):
                wanted = self.topics.intersection(batch)
                missing.difference_update(set(batch) - wanted)
                if wanted:
                    await link.send((SUBSCRIBE, *wanted))
            await first_of(self._read(link, supervisor, missing), self._heart.watch())
        finally:
            self._link = None
            # The subscriptions went with the connection; nobody will confirm it.
            for topic in self._expected.keys() - self.topics:
                self._confirm(topic, UNSUBSCRIBE)

    async def _read(self, link: RedisConnection, supervisor: Reader, missing: set[str]) -> None:
        if not missing:
            supervisor.connected()
        turn, handled = self._broker.turn, 0
        while True:
            replies = await link.read_all()
            supervisor.touch()
            self._heart.heard()
            while replies:
                at_once = replies[: turn - handled]
                del replies[: turn - handled]
                self._handle(at_once, supervisor, missing)
                handled += len(at_once)
                if handled == turn:
                    # Reading does not wait while more has arrived already.
                    handled = 0
                    await asyncio.sleep(0)

    def _handle(self, replies: Sequence[Any], supervisor: Reader, missing: set[str]) -> None:
        # What came for one topic in a row is delivered together.
        for (kind, topic), run in itertools.groupby(replies, key=_kind_and_topic):
            if kind == b"message":
                if topic != self._beats:
                    self._deliver(topic.decode(), *[payload for _, _, payload in run])
            elif kind is None:
                for reply in run:
                    self._handle_refusal(_refusal(reply), supervisor, missing)
            else:
                self._confirm(topic.decode(), kind)
                if missing:
                    missing.discard(topic.decode())
                    if not missing:
                        supervisor.connected()

    def _handle_refusal(
        self, refusal: ResponseError, supervisor: Reader, missing: set[str]
    ) -> None:
        self._refused(refusal)
        if missing:
            # Rights were taken away. Waiting for these would hide that the others are back.
            logger.error("%s refuses to renew subscriptions", supervisor, exc_info=refusal)
            missing.clear()
            supervisor.connected()

    def _confirm(self, topic: str, kind: bytes) -> None:
        expected, confirmed = self._expected.get(topic, (b"", None))
        if confirmed is not None and expected == kind and not confirmed.done():
            confirmed.set_result(None)

    def _refused(self, exc: ResponseError) -> None:
        # The server does not say which command it refuses; with its access
        # rules it would refuse them all.
        for _, confirmed in self._expected.values():
            if not confirmed.done():
                confirmed.set_exception(BrokerRefused(self._supervisor, exc))

    def _returned(self, since: float, until: float, _recovered: bool) -> None:
        self._broker.returned(sorted(self.topics), since, until)


class RedisPubSubBroker:
    """Topics are Redis channels, each on the server that its name hashes to."""

    def __init__(
        self,
        servers: Sequence[Server],
        turn: int,
        on_loss: Callable[[], None],
        beats: str,
        heartbeat_interval: float,
    ) -> None:
        self._servers = servers
        # Payloads to deliver before consumers get a turn.
        self.turn = turn
        self.lost = on_loss
        # Where heartbeats go, and seconds between them.
        self.beats = beats
        self.heartbeat_interval = heartbeat_interval
        self._subscribers: list[Subscriber] = []
        self._report_outage: Callable[[Outage], None] | None = None

    async def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        self._report_outage = report_outage
        self._subscribers = [Subscriber(server, self, deliver) for server in self._servers]
        await ping_all(self._servers)

    async def stop(self) -> None:
        for server in self._servers:
            server.watch.close()
        for subscriber in self._subscribers:
            await subscriber.stop()
        await asyncio.gather(*(server.close() for server in self._servers))

    async def publish(self, topic: str, payload: bytes) -> int:
        await self._servers[self._index(topic)].publishing.call("PUBLISH", topic, payload)
        # Nobody refuses: what a mailbox cannot hold is its own affair.
        return 0

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        return await sum_of(self.publish(topic, payload) for payload in payloads)

    async def subscribe(self, topic: str) -> None:
        await self._subscribers[self._index(topic)].subscribe(topic)

    async def unsubscribe(self, topic: str) -> None:
        await self._subscribers[self._index(topic)].unsubscribe(topic)

    def health(self) -> Mapping[str, Health]:
        return health_of(self._servers)

    def returned(self, topics: Collection[str], since: float, until: float) -> None:
        if self._report_outage is not None:
            # The server has not kept what was published meanwhile.
            self._report_outage(Outage(since, until, lost=topics))

    def _index(self, topic: str) -> int:
        return consistent_hash(topic, len(self._servers))

    def __str__(self) -> str:
        return ", ".join(map(str, self._servers))


class RedisPubSubChannelLayer(BaseChannelLayer):
    """
    At most once, lowest latency: a message reaches whoever is connected now.

    Nothing is kept in Redis. While the server cannot be reached, sending raises
    LayerUnavailable, and every channel is told with a `layer.gap` afterwards.
    `on_disconnect` and `on_reconnect` are types of messages to send to every
    channel at these moments, as in channels_redis.

    `send_timeout` is after how many seconds sending gives up on a server. Every
    `heartbeat_interval` seconds a message of the layer's own has to go round;
    connections on which none comes back within two are made anew.
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
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
    ) -> None:
        self._send_timeout = checked_seconds("send_timeout", send_timeout)
        self._heartbeat_interval = checked_seconds("heartbeat_interval", heartbeat_interval)
        self._serializer = registry.get_serializer(
            serializer_format, symmetric_encryption_keys=symmetric_encryption_keys
        )
        super().__init__(
            capacity=capacity,
            channel_capacity=channel_capacity,
            codec=SealedCodec(self._serializer),
            overflow=overflow,
            max_message_size=max_message_size,
        )
        self.prefix = checked_prefix(prefix)
        self.hosts = decode_hosts(hosts)
        for type_ in (on_disconnect, on_reconnect):
            if type_ is not None and not (isinstance(type_, str) and type_[:1].isalnum()):
                raise InvalidChannelLayerError(
                    f"on_disconnect and on_reconnect are types of messages, not {type_!r}; "
                    "use a string such as 'redis.disconnect'"
                )
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect
        self._group_prefix = f"{prefix}__group__"

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return the bytes that travel for a message."""
        return self._serializer.serialize(message)

    def deserialize(self, message: bytes) -> Any:
        """Undo `serialize`."""
        return self._serializer.deserialize(message)

    def _make_broker(self) -> RedisPubSubBroker:
        on_loss = functools.partial(self._announce, self._on_disconnect)
        return RedisPubSubBroker(
            [Server(host, self._send_timeout) for host in self.hosts],
            self._turn(),
            on_loss,
            f"{self.prefix}specific.{self.process}.heartbeat",
            self._heartbeat_interval,
        )

    def _report_outage(self, outage: Outage) -> None:
        super()._report_outage(outage)
        self._announce(self._on_reconnect)

    def _announce(self, type_: str | None) -> None:
        if type_ is not None:
            for mailbox in self._hub.mailboxes.values():
                mailbox.put_notice(Notice(type=type_))

    # A channel is a Redis channel of its own, named like the channel.

    def _new_name(self, prefix: str) -> str:
        return f"{self.prefix}{prefix.removesuffix('.')}.{names.unique()}"

    def _check_channel(self, channel: object) -> None:
        # The prefix stands in the names of channels, and may be any string.
        name = channel.removeprefix(self.prefix) if isinstance(channel, str) else channel
        super()._check_channel(name)

    def _is_kept(self, channel: str) -> bool:  # noqa: ARG002 - none is
        return False

    def _may_open(self, channel: str) -> bool:  # noqa: ARG002 - any is a Redis channel
        return True

    async def _channel_opened(self, channel: str) -> None:
        await self._join(channel, channel)

    def _group_topic(self, group: str) -> str:
        # One string for all members: each of them keeps the topics that it is in.
        return sys.intern(self._group_prefix + group)

    def _group_name(self, topic: str) -> str | None:
        group = topic.removeprefix(self._group_prefix)
        return None if group == topic else group

    def __str__(self) -> str:
        return f"{type(self).__name__}(hosts={[describe(host) for host in self.hosts]})"


def _kind_and_topic(reply: Any) -> tuple[bytes | None, bytes]:
    """Return what to tell replies apart by. Raises nothing: that would lose those before it."""
    if isinstance(reply, list):
        parts: list[bytes] = reply
        if len(parts) == 3:
            return parts[0], parts[1]
    return None, b""


def _refusal(reply: Any) -> ResponseError:
    """Return a reply that refuses a command; raises one after which the server cannot go on."""
    if isinstance(reply, ResponseError):
        return reply
    if isinstance(reply, Exception):
        raise reply
    raise InvalidResponse(f"{reply!r} is no message, and no answer to a subscriber")


def _batches(topics: list[str]) -> Iterator[list[str]]:
    return (topics[start : start + BATCH] for start in range(0, len(topics), BATCH))
