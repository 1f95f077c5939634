"""One server of a layer: its clients, its readers, and its outages."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from typing import TYPE_CHECKING

from fast_channels.layers.health import Health, State

from ._client import SEND_TIMEOUT_SECONDS, Client
from ._hosts import describe
from ._reader import Reader
from ._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from ._client import RedisConnection
    from .type_defs import ChannelDecodedRedisHost

logger = logging.getLogger("fast_channels.layers.redis")

FLUSH = Script("flush")


class ServerState:
    """
    The state of a server, as seen by all connections to it.

    An outage is one outage, however many connections it breaks. It begins with the first
    lost connection and ends when all are back, with one WARNING and one INFO in the log.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """The address for logs, without a password."""
        self._state: State = "connecting"
        self._since = time.time()
        self._error: str | None = None
        # Connections that are lost and wanted.
        self._lost: set[object] = set()

    def health(self) -> Health:
        return Health(self._state, self._since, self._error)

    def lost(self, connection: object, exc: BaseException) -> None:
        """Note that a connection, or an attempt to open it again, has failed."""
        if self._state == "closed":
            return
        # The text of LayerUnavailable would name the server a second time.
        self._error = str(getattr(exc, "reason", exc)) or type(exc).__name__
        self._lost.add(connection)
        if self._state != "degraded":
            logger.warning("lost %s, trying to connect again: %s", self.name, self._error)
            self._enter("degraded")

    def connected(self, connection: object) -> None:
        """Note that a connection works, or is no longer needed."""
        self._lost.discard(connection)
        if self._lost or self._state in ("ready", "closed"):
            return
        if self._state == "degraded":
            logger.info("%s is back after %.1f s", self.name, time.time() - self._since)
        self._enter("ready")

    def close(self) -> None:
        """Ignore all later reports: the layer closes its connections."""
        self._enter("closed")

    def _enter(self, state: State) -> None:
        self._state, self._since = state, time.time()


class Server:
    """
    One of a layer's servers. Connections are opened when they are first needed.

    Publishing and control commands use a client each: a publish that waits for a server
    that does not read, or for a broken connection, must not delay joining and receiving.
    """

    def __init__(
        self, host: ChannelDecodedRedisHost, timeout: float = SEND_TIMEOUT_SECONDS
    ) -> None:
        self._host = host
        self.timeout = timeout
        """How long connecting and each command may take, in seconds."""
        self.state = ServerState(describe(host))
        self.publishing = Client(host, self.state, timeout)
        """For sending messages."""
        self.control = Client(host, self.state, timeout)
        """For everything else."""

    def reader(
        self,
        converse: Callable[[RedisConnection, Reader], Awaitable[None]],
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
    ) -> Reader:
        """Return a reader of this server that is not started yet; see Reader."""
        return Reader(self._host, converse, self.state, on_loss, on_return, timeout=self.timeout)

    async def reset(self) -> None:
        """Drop the connections of the clients, which seem to lead nowhere."""
        await asyncio.gather(self.publishing.reset(), self.control.reset())

    async def close(self) -> None:
        """Close the clients. Stop the readers first."""
        self.state.close()
        await asyncio.gather(self.publishing.close(), self.control.close())

    def __str__(self) -> str:
        return self.state.name


def health_of(servers: Sequence[Server]) -> dict[str, Health]:
    """Return the health of each server by its address; a repeated address gets a number."""
    found: dict[str, Health] = {}
    occurred = Counter[str]()
    for server in servers:
        occurred[str(server)] += 1
        number = occurred[str(server)]
        found[str(server) if number == 1 else f"{server} ({number})"] = server.state.health()
    return found


async def delete_keys(servers: Iterable[Server], prefix: str) -> None:
    """Delete all keys that begin with a prefix."""
    # The command takes a pattern, in which some characters have a meaning.
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
    await asyncio.gather(*(server.control.run(FLUSH, [], [pattern]) for server in servers))


async def ping_all(servers: Sequence[Server]) -> None:
    """Ask all servers for an answer, then raise the first error."""
    pings = (server.publishing.call("PING") for server in servers)
    for reply in await asyncio.gather(*pings, return_exceptions=True):
        if isinstance(reply, BaseException):
            raise reply
