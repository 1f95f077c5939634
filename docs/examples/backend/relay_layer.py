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
from fast_channels.layers.addressing import TopicAddressing
from fast_channels.layers.base import BaseChannelLayer
from fast_channels.layers.broker import Outage
from fast_channels.layers.health import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fast_channels.layers.broker import Deliver

logger = logging.getLogger(__name__)

# asyncio raises these errors for a connection that fails or has ended.
CONNECTION_ERRORS = (OSError, EOFError)

# The pause between attempts to connect doubles from the first value to the second.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.1, 5.0


class Link:
    """One connection, whose replies come in the order of its requests."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer
        # Requests without a reply. A cancelled request stays in it, because its reply still comes.
        self._replies: deque[asyncio.Future[None]] = deque()

    def begin(self, kind: int, topic: str, payload: bytes = b"") -> asyncio.Future[None]:
        """Send a request. The future is done when its reply has come."""
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
        # close() would wait for the server to read, which may hang.
        self._writer.transport.abort()
        for reply in self._replies:
            if not reply.done():
                reply.set_exception(ConnectionError("the connection was lost"))
                # Retrieve the exception: asyncio would log one that no caller has awaited.
                reply.exception()


class RelayBroker:
    """One session of a layer at the relay, which reconnects when its connection is lost."""

    def __init__(self, host: str, port: int, send_timeout: float) -> None:
        self._host, self._port = host, port
        self._send_timeout = send_timeout
        # Confirmed subscriptions, which the next connection makes again.
        self._topics: set[str] = set()
        # The connection with all subscriptions; None during an outage.
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
            # A connection without answers is useless: the reader opens another.
            link.close()
            raise LayerUnavailable(self, _sentence(exc)) from exc
        return 0  # the relay has no bounds that a receiver could reach

    async def subscribe(self, topic: str) -> None:
        while True:
            await self._linked.wait()
            link = self._link
            # If the connection breaks, ask again on the next one.
            with contextlib.suppress(*CONNECTION_ERRORS):
                if link is not None:
                    await link.request(SUBSCRIBE, topic)
                    self._topics.add(topic)
                    return

    async def unsubscribe(self, topic: str) -> None:
        self._topics.discard(topic)
        if self._link is not None:
            # A lost connection has no subscriptions.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await self._link.request(UNSUBSCRIBE, topic)

    def health(self) -> Mapping[str, Health]:
        return {str(self): self._health}

    def __str__(self) -> str:
        return f"relay at {self._host}:{self._port}"

    # -- the reader ---------------------------------------------------------

    async def _run(self, link: Link) -> None:
        """Read from one connection after the other until the task is cancelled."""
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
                        logger.exception("lost %s after an unexpected error", self)
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
            # Consumers need turns of the loop, or a burst that has arrived already
            # would overflow the mailboxes of consumers that keep up.
            await asyncio.sleep(0)

    async def _connect(self) -> Link:
        async with asyncio.timeout(self._send_timeout):
            return Link(*await asyncio.open_connection(self._host, self._port))

    async def _connect_again(self) -> tuple[Link, list[tuple[str, bytes]]]:
        """Return a connection with all subscriptions, and the payloads that have come."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
            try:
                link = await self._connect()
                return link, await self._subscribe_again(link)
            except Exception as exc:
                logger.debug("no connection to %s", self, exc_info=True)
                self._health = Health("degraded", self._health.since, _sentence(exc))

    async def _subscribe_again(self, link: Link) -> list[tuple[str, bytes]]:
        # Payloads that are newer than the gap are delivered after it.
        came: list[tuple[str, bytes]] = []
        try:
            replies = {topic: link.begin(SUBSCRIBE, topic) for topic in self._topics}
            async with asyncio.timeout(self._send_timeout):
                while not all(reply.done() for reply in replies.values()):
                    await self._take(link, lambda topic, payload: came.append((topic, payload)))
            # The layer has left these topics since the requests were sent.
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
    A layer for all processes that use one relay, with delivery at most once.

    During an outage, sending raises LayerUnavailable, and every channel gets a
    `layer.gap` afterwards. `send_timeout` is in seconds.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 7000,
        *,
        send_timeout: float = 5.0,
        **options: Any,
    ) -> None:
        super().__init__(addressing=TopicAddressing(), **options)
        self._host, self._port = host, port
        self._send_timeout = send_timeout

    def _make_broker(self) -> RelayBroker:
        return RelayBroker(self._host, self._port, self._send_timeout)
