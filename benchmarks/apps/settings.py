"""What the suite tells an application, by way of its environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

REDIS_URL = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:6379")
# "pubsub", "queue", "streams" or "memory".
LAYER = os.environ.get("BENCH_LAYER", "pubsub")
# "handler", or another way in which the contender can forward a message.
LANE = os.environ.get("BENCH_LANE", "handler")

GROUP = "room"
TYPE = "chat.message"

# Nobody may drop messages here, by design or otherwise: they are counted.
CAPACITY = 1_000_000


def routed(
    routes: Mapping[str, Any],
    lifespan: Callable[[], AbstractAsyncContextManager[Any]],
) -> Any:
    """
    Return an ASGI application of ASGI applications, by path.

    Whoever is no framework is served by this, so that what a framework's routing
    costs is not counted for one of them and not for another.
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
