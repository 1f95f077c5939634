"""
The connection on which a server notifies a layer: one per server.

`Subscriber` is that of the pub/sub and streams layers. Groups, channels and work share it.
`KeyTracker` is that of the queue. Its peers publish nothing, since the wire format is the
one of channels_redis, so the server itself has to tell of writes to keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from redis.exceptions import InvalidResponse, ResponseError

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._client import CLOSE_TIMEOUT_SECONDS, CONNECTION_ERRORS, batched
from ._reader import ReaderHeartbeat, first_of
from ._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from ._client import RedisConnection
    from ._reader import Reader
    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

HEARTBEAT = Script("heartbeat")

# Commands, which are also the kinds of reply that confirm them.
SUBSCRIBE, UNSUBSCRIBE = b"subscribe", b"unsubscribe"

# Names in one SUBSCRIBE when a new connection restores all subscriptions.
MAX_SUBSCRIBED_AT_ONCE = 1000

# The channel on which a server tells which of the tracked keys were written.
# https://valkey.io/topics/client-side-caching/
INVALIDATIONS = b"__redis__:invalidate"

# How long newly watched keys wait for others, to be tracked together.
TRACKING_DELAY_SECONDS = 0.01


class Subscriber:
    """
    The SUBSCRIBE connection to a server, shared by all that need notices.

    A topic is subscribed until `unsubscribe`, through outages. Its payloads go to
    `deliver(topic, *payloads)`. `listen` is for callers that only want to be woken.
    """

    def __init__(
        self,
        server: Server,
        heartbeat_channel: str,
        heartbeat_interval: float,
        batch: int,
        deliver: Callable[..., object],
        on_loss: Callable[[], None],
        on_return: Callable[[float, float], None],
    ) -> None:
        self.topics: set[str] = set()
        """Topics to be subscribed; a new connection subscribes all of them."""
        # Callbacks of `listen`, by Redis channel.
        self._listeners: dict[str, Callable[[], None]] = {}
        self._heartbeat_channel = heartbeat_channel
        # Payloads to deliver before consumers get a turn.
        self._batch = batch
        self._deliver = deliver
        publish = server.publishing.call
        self._heartbeat = ReaderHeartbeat(
            server, heartbeat_interval, lambda: publish("PUBLISH", heartbeat_channel, b"")
        )
        self._reader = server.reader(
            self._converse, on_loss, lambda since, until, _: on_return(since, until)
        )
        # The connection in use; None without one.
        self._connection: RedisConnection | None = None
        # Callers that wait for a confirmation, by topic. Calls for one topic do not
        # overlap (see Subscriptions in layers/membership.py).
        self._expected: dict[str, tuple[bytes, asyncio.Future[None]]] = {}
        # Commands and names to send at the end of this loop iteration.
        self._requested: list[tuple[bytes, str]] = []
        # The unconfirmed names in each command that was sent: a server answers in order, and
        # does not say which command it refuses.
        self._unanswered: deque[deque[str]] = deque()
        # Names that a new connection has yet to restore.
        self._missing: set[str] = set()

    async def subscribe(self, topic: str) -> None:
        """Return once the server has confirmed, even if that takes an outage."""
        self.topics.add(topic)
        self._reader.start()
        try:
            await self._confirmed(SUBSCRIBE, topic)
        except BrokerRefused:
            self.topics.discard(topic)
            raise

    async def unsubscribe(self, topic: str) -> None:
        self.topics.discard(topic)
        if self._connection is not None:
            await self._confirmed(UNSUBSCRIBE, topic)

    def listen(self, channel: str, wake: Callable[[], None]) -> None:
        """
        Call `wake` when something is published to `channel`, or may have been missed.

        Notices only save time here: a listener also has to look from time to time.
        """
        self._listeners[channel] = wake
        self._reader.start()
        self._request(SUBSCRIBE, channel)

    def ignore(self, channel: str) -> None:
        """Undo `listen`."""
        del self._listeners[channel]
        self._request(UNSUBSCRIBE, channel)

    async def stop(self) -> None:
        await self._reader.stop()

    # -- requests -----------------------------------------------------------------

    async def _confirmed(self, command: bytes, topic: str) -> None:
        confirmed = asyncio.get_running_loop().create_future()
        self._expected[topic] = command, confirmed
        self._request(command, topic)
        try:
            await confirmed
        finally:
            del self._expected[topic]

    def _request(self, command: bytes, name: str) -> None:
        if self._connection is not None:
            if not self._requested:
                asyncio.get_running_loop().call_soon(self._send_requested)
            self._requested.append((command, name))

    def _send_requested(self) -> None:
        """Send the requests of the last loop iteration in as few commands as possible."""
        requested, self._requested = self._requested, []
        connection = self._connection
        if connection is not None:
            # If this fails, the reader notices too, and subscribes anew.
            with contextlib.suppress(*CONNECTION_ERRORS):
                connection.write(
                    self._command(command, [name for _, name in run])
                    for command, run in itertools.groupby(requested, key=itemgetter(0))
                )

    def _command(self, command: bytes, names: Sequence[str]) -> tuple[bytes | str, ...]:
        self._unanswered.append(deque(names))
        return command, *names

    # -- the conversation ---------------------------------------------------------

    async def _converse(self, connection: RedisConnection, reader: Reader) -> None:
        wanted = {self._heartbeat_channel, *self._listeners, *self.topics}
        # Without an await in between: a later name is requested by its caller.
        self._connection, self._requested, self._missing = connection, [], set(wanted)
        self._unanswered.clear()
        try:
            for batch in batched(wanted, MAX_SUBSCRIBED_AT_ONCE):
                # Some may have been given up meanwhile.
                still = [name for name in batch if self._is_wanted(name)]
                self._missing.difference_update(set(batch).difference(still))
                if still:
                    await connection.send(self._command(SUBSCRIBE, still))
            await first_of(self._read(connection, reader), self._heartbeat.run(reader))
        finally:
            self._connection = None
            # The subscriptions ended with the connection, and will not be confirmed.
            for topic in self._expected.keys() - self.topics:
                self._confirm(UNSUBSCRIBE, topic)

    def _is_wanted(self, name: str) -> bool:
        return name in self.topics or name in self._listeners or name == self._heartbeat_channel

    async def _read(self, connection: RedisConnection, reader: Reader) -> None:
        batch, handled = self._batch, 0
        while True:
            replies = await connection.read_available()
            reader.heard_at = time.monotonic()
            while replies:
                at_once = replies[: batch - handled]
                del replies[: batch - handled]
                self._handle(at_once, reader)
                handled += len(at_once)
                if handled == batch:
                    # read_available() does not give other tasks a turn if data has arrived.
                    handled = 0
                    await asyncio.sleep(0)

    def _handle(self, replies: Sequence[Any], reader: Reader) -> None:
        restoring = bool(self._missing)
        # Successive messages for one topic are delivered together.
        for (kind, name), run in itertools.groupby(replies, key=_kind_and_name):
            if kind == b"message":
                self._receive(name.decode(), [payload for _, _, payload in run])
            elif kind is None:
                for reply in run:
                    self._refuse(_refusal(reply), reader)
            else:
                for _ in run:
                    self._answered()
                self._confirm(kind, name.decode())
            if restoring and not self._missing:
                restoring = False
                reader.connected()

    def _receive(self, name: str, payloads: Sequence[bytes]) -> None:
        if name in self._listeners:
            self._listeners[name]()
        elif name != self._heartbeat_channel:
            self._deliver(name, *payloads)

    # -- replies to requests --------------------------------------------------------

    def _answered(self) -> None:
        if self._unanswered:
            names = self._unanswered[0]
            names.popleft()
            if not names:
                self._unanswered.popleft()

    def _confirm(self, kind: bytes, name: str) -> None:
        self._missing.discard(name)
        expected, confirmed = self._expected.get(name, (b"", None))
        if confirmed is not None and expected == kind and not confirmed.done():
            confirmed.set_result(None)
        elif kind == SUBSCRIBE and (wake := self._listeners.get(name)) is not None:
            # Something may have been published before.
            wake()

    def _refuse(self, exc: ResponseError, reader: Reader) -> None:
        if not self._unanswered:
            raise exc
        names = self._unanswered.popleft()
        # Access rules may have changed. Waiting for these names would hide that all
        # others are restored.
        self._missing.difference_update(names)
        untold = [name for name in names if not self._fail(name, exc, reader)]
        if untold:
            logger.error("%s refuses to subscribe to %r", reader, untold[:3], exc_info=exc)

    def _fail(self, name: str, exc: ResponseError, reader: Reader) -> bool:
        """Raise an error in the call that waits for a name; False if no call does."""
        _, confirmed = self._expected.get(name, (b"", None))
        if confirmed is None or confirmed.done():
            return False
        confirmed.set_exception(BrokerRefused(reader, exc))
        return True


class KeyTracker:
    """
    Tells of writes to keys on a server, by any program.

    A blocking pop would tell too, but it also takes a message, which is lost if the
    connection breaks at that moment. The heartbeat is a write to a key of its own.

    `while_connected(reader)` runs on each new connection once the server tracks the keys,
    calls `reader.connected()`, and goes on for as long as the connection is in use.
    """

    def __init__(
        self,
        server: Server,
        heartbeat_key: str,
        heartbeat_interval: float,
        while_connected: Callable[[Reader], Awaitable[None]],
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
    ) -> None:
        self.server = server
        self._heartbeat_key = heartbeat_key
        lifetime = int(heartbeat_interval * 2000)
        self._heartbeat = ReaderHeartbeat(
            server,
            heartbeat_interval,
            lambda: server.publishing.run(HEARTBEAT, [heartbeat_key], [lifetime]),
        )
        self._while_connected = while_connected
        self.reader = server.reader(self._converse, on_return=on_return)
        """The connection, which starts with the first watched key."""
        # Events to set when a key is written, or may have been.
        self._events: dict[str, asyncio.Event] = {}
        # The connection in use and its number at the server; None without one.
        self._connection: RedisConnection | None = None
        self._client_id = 0
        # Prefixes that the server tracks for that connection.
        self._tracked: set[str] = set()
        # Set when the server has confirmed to track the keys.
        self._tracking = asyncio.Event()
        # Calls _track after a delay; None if that is not scheduled.
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, key: str, event: asyncio.Event) -> None:
        """Set `event` now, and whenever `key` was written."""
        self._events[key] = event
        event.set()
        self.reader.start()
        if self._timer is None and self._connection is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(TRACKING_DELAY_SECONDS, self._track)

    def ignore(self, key: str, event: asyncio.Event) -> None:
        """Undo `watch`, unless the key is watched with another event by now."""
        if self._events.get(key) is event:
            del self._events[key]

    async def stop(self) -> None:
        await self.reader.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._client_id:
            with contextlib.suppress(LayerUnavailable, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                    await self.server.control.call("DEL", self._heartbeat_key)

    # -- the conversation ---------------------------------------------------------

    async def _converse(self, connection: RedisConnection, reader: Reader) -> None:
        async with asyncio.timeout(self.server.timeout):
            self._client_id = await connection.call("CLIENT", "ID")
        self._connection, self._tracked = connection, set()
        self._tracking.clear()
        try:
            self._track()
            await first_of(
                self._listen(connection, reader), self._heartbeat.run(reader), self._attend(reader)
            )
        finally:
            self._connection = None

    async def _attend(self, reader: Reader) -> None:
        async with asyncio.timeout(self.server.timeout):
            await self._tracking.wait()
        await self._while_connected(reader)

    def _track(self) -> None:
        """Let the server track the watched keys that it does not track yet."""
        self._timer = None
        tracked, keys = tuple(self._tracked), [self._heartbeat_key, *self._events]
        new = [key for key in keys if not key.startswith(tracked)]
        if self._connection is None or not new:
            return
        commands: list[tuple[Any, ...]] = []
        if tracked:
            # A connection with subscriptions must not use any other command.
            commands.append((UNSUBSCRIBE, INVALIDATIONS))
        if len(tracked) > 2 * len(keys) or any(key.startswith(tuple(new)) for key in tracked):
            # Most of them are no longer watched; or the server would refuse a new key
            # because a tracked one begins with it.
            commands.append(("CLIENT", "TRACKING", "OFF"))
            self._tracked, new = set(), keys
        prefixes = list(_without_extensions(new))
        self._tracked.update(prefixes)
        words = [word for prefix in prefixes for word in ("PREFIX", prefix)]
        # Redirected to the connection itself: RESP 2 carries unrequested messages only
        # in subscriptions.
        redirect = ("REDIRECT", self._client_id)
        commands.append(("CLIENT", "TRACKING", "ON", *redirect, "BCAST", *words))
        commands.append((SUBSCRIBE, INVALIDATIONS))
        # If this fails, the reader notices too.
        with contextlib.suppress(*CONNECTION_ERRORS):
            self._connection.write(commands)

    async def _listen(self, connection: RedisConnection, reader: Reader) -> None:
        while True:
            reply: Any = await connection.read()
            reader.heard_at = time.monotonic()
            match reply:
                case [b"message", _, None]:
                    # All keys were deleted.
                    self._wake_all()
                case [b"message", _, keys]:
                    for key in keys:
                        if event := self._events.get(key.decode(errors="replace")):
                            event.set()
                case [b"subscribe", *_]:
                    # Before this, the server told of nothing.
                    self._wake_all()
                    self._tracking.set()
                case _:
                    # Another command was confirmed.
                    pass

    def _wake_all(self) -> None:
        for event in self._events.values():
            event.set()


def _kind_and_name(reply: Any) -> tuple[bytes | None, bytes]:
    """Return the group of a reply. Raises nothing: an error would lose earlier replies."""
    if isinstance(reply, list):
        parts: list[bytes] = reply
        if len(parts) == 3:
            return parts[0], parts[1]
    return None, b""


def _refusal(reply: Any) -> ResponseError:
    """Return a reply that refuses a command. Raises any other error, which ends the connection."""
    if isinstance(reply, ResponseError):
        return reply
    if isinstance(reply, Exception):
        raise reply
    raise InvalidResponse(f"{reply!r} is neither a message nor an answer to a subscriber")


def _without_extensions(keys: Iterable[str]) -> Iterator[str]:
    """Yield the keys that begin with no other key."""
    last = None
    for key in sorted(keys):
        if last is None or not key.startswith(last):
            last = key
            yield key
