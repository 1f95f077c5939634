"""One of a layer's servers, and the connections to it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING

from fast_channels.layers.health import Health, State

from ._client import SEND_TIMEOUT_SECONDS, Client
from ._hosts import describe
from ._reader import Reader

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ._client import RedisConnection
    from .type_defs import ChannelDecodedRedisHost


logger = logging.getLogger("fast_channels.layers.redis")


class ServerState:
    """
    However many connections a layer has to a server, an outage is one.

    It begins with the first connection that is lost and ends when all are
    back: one WARNING, one INFO.
    """

    def __init__(self, name: str) -> None:
        # For logs: the address, without a password.
        self.name = name
        self._state: State = "connecting"
        self._since = time.time()
        self._error: str | None = None
        # Connections that are not there and should be.
        self._lost: set[object] = set()

    def health(self) -> Health:
        return Health(self._state, self._since, self._error)

    def lost(self, connection: object, exc: BaseException) -> None:
        """Called when a connection fails, and when making it again does."""
        if self._state == "closed":
            return
        # LayerUnavailable would name the server once more.
        self._error = str(getattr(exc, "reason", exc)) or type(exc).__name__
        self._lost.add(connection)
        if self._state != "degraded":
            logger.warning("lost %s, trying to connect again: %s", self.name, self._error)
            self._enter("degraded")

    def back(self, connection: object) -> None:
        """Called when a connection does its work, or is not needed any more."""
        self._lost.discard(connection)
        if self._lost or self._state in ("ready", "closed"):
            return
        if self._state == "degraded":
            logger.info("%s is back after %.1f s", self.name, time.time() - self._since)
        self._enter("ready")

    def close(self) -> None:
        """Whatever is said afterwards is of no interest: the layer lets go."""
        self._enter("closed")

    def _enter(self, state: State) -> None:
        self._state, self._since = state, time.time()


class Server:
    """Connections are made when they are first needed."""

    def __init__(
        self, host: ChannelDecodedRedisHost, timeout: float = SEND_TIMEOUT_SECONDS
    ) -> None:
        self._host = host
        # Seconds to connect, and for a command to be answered.
        self.timeout = timeout
        self.watch = ServerState(describe(host))
        self.publishing = Client(host, self.watch, timeout)
        # Apart from it, so that a publish that is stuck delays nobody's
        # group_add and no reading.
        self.control = Client(host, self.watch, timeout)

    def supervised(
        self,
        converse: Callable[[RedisConnection, Reader], Awaitable[None]],
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
    ) -> Reader:
        """Return a reading connection for `converse`; see Reader."""
        return Reader(self._host, converse, self.watch, on_loss, on_return, timeout=self.timeout)

    async def reset(self) -> None:
        """Give up the pipes' connections: the way to the server is not what it seems."""
        await asyncio.gather(self.publishing.reset(), self.control.reset())

    async def close(self) -> None:
        """Let go of the pipes; who has a supervised connection stops that first."""
        self.watch.close()
        await asyncio.gather(self.publishing.close(), self.control.close())

    def __str__(self) -> str:
        return self.watch.name


def health_of(servers: Sequence[Server]) -> dict[str, Health]:
    """Return the health of each by its address, which gets a number if it occurs again."""
    found: dict[str, Health] = {}
    occurred = Counter[str]()
    for server in servers:
        occurred[str(server)] += 1
        number = occurred[str(server)]
        found[str(server) if number == 1 else f"{server} ({number})"] = server.watch.health()
    return found


async def ping_all(servers: Sequence[Server]) -> None:
    """Raise the error of the first that does not answer, after all were asked."""
    pings = (server.publishing.call("PING") for server in servers)
    for reply in await asyncio.gather(*pings, return_exceptions=True):
        if isinstance(reply, BaseException):
            raise reply
