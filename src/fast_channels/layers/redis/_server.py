"""One of a layer's servers, and the connections to it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from ._connection import TIMEOUT
from ._hosts import describe
from ._pipe import Pipe
from ._supervisor import Supervisor
from ._watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fast_channels.layers.health import Health

    from ._connection import Link
    from .type_defs import ChannelDecodedRedisHost


class Server:
    """Connections are made when they are first needed."""

    def __init__(self, host: ChannelDecodedRedisHost, timeout: float = TIMEOUT) -> None:
        self._host = host
        # Seconds to connect, and for a command to be answered.
        self.timeout = timeout
        self.watch = Watch(describe(host))
        self.publishing = Pipe(host, self.watch, timeout)
        # Apart from it, so that a publish that is stuck delays nobody's
        # group_add and no reading.
        self.control = Pipe(host, self.watch, timeout)

    def supervised(
        self,
        converse: Callable[[Link, Supervisor], Awaitable[None]],
        on_loss: Callable[[], None] = lambda: None,
        on_return: Callable[[float, float, bool], None] = lambda _since, _until, _recovered: None,
    ) -> Supervisor:
        """Return a reading connection for `converse`; see Supervisor."""
        return Supervisor(
            self._host, converse, self.watch, on_loss, on_return, timeout=self.timeout
        )

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
