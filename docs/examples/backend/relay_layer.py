"""A channel layer over relay.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from relay import DONE, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, frame, read_frame

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.broker import Outage
from fast_channels.layers.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_channels.layers.broker import Deliver

logger = logging.getLogger(__name__)

# What asyncio raises for a connection that cannot be made, or is over.
CONNECTION_ERRORS = (OSError, EOFError)

# Seconds between attempts to connect, doubling from the first to the second.
FIRST_PAUSE, LAST_PAUSE = 0.1, 5.0


class Link:
    """One connection: requests, and the replies that come in their order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        # Requests that have no reply yet. A caller who gives up leaves its place.
        self._replies: deque[asyncio.Future[None]] = deque()

    def begin(self, kind: int, topic: str, payload: bytes = b"") -> asyncio.Future[None]:
        """Send a request; the future is done when its reply has come."""
        reply: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._replies.append(reply)
        self._writer.write(frame(kind, topic, payload))
        return reply

    async def request(self, kind: int, topic: str, payload: bytes = b"") -> None:
        """Send a request and wait for its reply. Raises ConnectionError if none will come."""
        if self._writer.is_closing():
            raise ConnectionError("the connection is closed")
        reply = self.begin(kind, topic, payload)
        await self._writer.drain()
        await reply

    def replied(self) -> None:
        reply = self._replies.popleft()
        if not reply.done():
            reply.set_result(None)

    def close(self) -> None:
        # Not close(): that waits for a server to read, which may hang.
        self._writer.transport.abort()
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(ConnectionError("the connection was lost"))
                # Marks it as seen, for replies that nobody waits for.
                reply.exception()


class RelayBroker:
    """One session of a layer at the relay: a connection, and another one when that is lost."""

    def __init__(self, host: str, port: int, send_timeout: float) -> None:
        self._host, self._port = host, port
        self._send_timeout = send_timeout
        # What is subscribed, to be subscribed again on the next connection.
        self._topics: set[str] = set()
        # The connection, once its subscriptions are in order; None during an outage.
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._health = Health("connecting", time.time())
        self._task: asyncio.Task[None] | None = None

    async def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        self._deliver, self._report_outage = deliver, report_outage
        try:
            link = await self._connect()
        except CONNECTION_ERRORS as exc:
            raise LayerUnavailable(self, exc) from exc
        self._task = asyncio.create_task(self._run(link), name=f"reader of {self}")
        self._is_up(link)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def publish(self, topic: str, payload: bytes) -> int:
        link = self._link
        if link is None:
            raise LayerUnavailable(self, self._health.error)
        try:
            async with asyncio.timeout(self._send_timeout):
                await link.request(PUBLISH, topic, payload)
        except CONNECTION_ERRORS as exc:
            # One that does not answer is of no use: the reader makes another.
            link.close()
            raise LayerUnavailable(self, _sentence(exc)) from exc
        return 0  # the relay has no bound that a receiver could be at

    async def subscribe(self, topic: str) -> None:
        while True:
            await self._linked.wait()
            link = self._link
            # Lost on the way here, or while asking: asked again on the next connection.
            with contextlib.suppress(*CONNECTION_ERRORS):
                if link is not None:
                    await link.request(SUBSCRIBE, topic)
                    self._topics.add(topic)
                    return

    async def unsubscribe(self, topic: str) -> None:
        self._topics.discard(topic)
        if self._link is not None:
            # A connection that is lost has no subscriptions any more.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self._link.request(UNSUBSCRIBE, topic)

    def health(self) -> Mapping[str, Health]:
        return {str(self): self._health}

    def __str__(self) -> str:
        return f"relay at {self._host}:{self._port}"

    # -- the reader ---------------------------------------------------------

    async def _run(self, link: Link) -> None:
        """Read from one connection after the other; ends by being cancelled."""
        try:
            while True:
                try:
                    while True:
                        await self._take(link, self._deliver)
                except Exception as exc:
                    since = time.time()
                    if isinstance(exc, CONNECTION_ERRORS):
                        logger.warning("lost %s: %s", self, _sentence(exc))
                    else:
                        logger.exception("lost %s, for a reason that nobody expects", self)
                    self._is_down(link, exc)
                link, came = await self._connect_again()
                self._report_outage(Outage(since, time.time(), lost=list(self._topics)))
                for topic, payload in came:
                    self._deliver(topic, payload)
                self._is_up(link)
                logger.info("%s is back", self)
        finally:
            self._is_down(link, "stopped")

    async def _take(self, link: Link, deliver: Callable[[str, bytes], object]) -> None:
        kind, topic, payload = await read_frame(link.reader)
        if kind == DONE:
            link.replied()
        else:
            deliver(topic, payload)
            # A burst that has arrived already must not fill the mailboxes of consumers who
            # would keep up, if they had their turn.
            await asyncio.sleep(0)

    async def _connect(self) -> Link:
        async with asyncio.timeout(self._send_timeout):
            return Link(*await asyncio.open_connection(self._host, self._port))

    async def _connect_again(self) -> tuple[Link, list[tuple[str, bytes]]]:
        """Return a connection on which all is subscribed that was before, and what has come."""
        pause = FIRST_PAUSE
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
            try:
                link = await self._connect()
                return link, await self._subscribe_again(link)
            except Exception as exc:
                logger.debug("no connection to %s", self, exc_info=True)
                self._health = Health("degraded", self._health.since, _sentence(exc))

    async def _subscribe_again(self, link: Link) -> list[tuple[str, bytes]]:
        # Delivered later: what is newer than the gap comes after it.
        came: list[tuple[str, bytes]] = []
        try:
            replies = {topic: link.begin(SUBSCRIBE, topic) for topic in self._topics}
            async with asyncio.timeout(self._send_timeout):
                while not all(reply.done() for reply in replies.values()):
                    await self._take(link, lambda topic, payload: came.append((topic, payload)))
            # Those that nobody wants any more since it was asked for them.
            for topic in replies.keys() - self._topics:
                link.begin(UNSUBSCRIBE, topic)
        except BaseException:
            link.close()
            raise
        return came

    def _is_up(self, link: Link) -> None:
        self._link = link
        self._linked.set()
        self._health = Health("ready", time.time(), self._health.error)

    def _is_down(self, link: Link, why: Any) -> None:
        self._link = None
        self._linked.clear()
        link.close()
        self._health = Health("degraded", time.time(), _sentence(why))


def _sentence(why: Any) -> str:
    return str(why) or type(why).__name__


class RelayChannelLayer(BaseChannelLayer):
    """
    Groups and channels of all processes that use the same relay; at most once.

    While the relay is away, sending raises LayerUnavailable, and every channel is
    told with a `layer.gap` afterwards. `send_timeout` is in seconds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 7000,
        *,
        send_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._host, self._port = host, port
        self._send_timeout = send_timeout

    def _make_broker(self) -> RelayBroker:
        return RelayBroker(self._host, self._port, self._send_timeout)

    def _is_kept(self, channel: str) -> bool:
        # The relay keeps nothing, so a channel lives in the process that made it.
        return False

    async def _channel_opened(self, channel: str) -> None:
        # Its name is a topic, too, to which other processes publish.
        await self._join(channel, channel)
