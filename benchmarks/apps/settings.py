"""Settings that an application reads from its environment, where the suite puts them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

REDIS_URL = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379")
# "pubsub", "queue", "streams" or "memory".
LAYER = os.environ.get("BENCH_LAYER", "pubsub")
# "handler", or another way in which the application can send a message to clients.
LANE = os.environ.get("BENCH_LANE", "handler")

GROUP = "room"
TYPE = "chat.message"

# Large, because no contender may drop messages: the suite counts them.
CAPACITY = 1_000_000


def routed(
    routes: Mapping[str, Any],
    lifespan: Callable[[], AbstractAsyncContextManager[Any]],
) -> Any:
    """
    Return an ASGI application that calls one of several ASGI applications by its path.

    All contenders without routes of their own use this, so that none of them pays for the
    routing of a framework.
    """

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live(lifespan, receive, send)
        else:
            await routes[scope["path"]](scope, receive, send)

    return app


async def _live(lifespan: Any, receive: Any, send: Any) -> None:
    await receive()
    async with lifespan():
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
