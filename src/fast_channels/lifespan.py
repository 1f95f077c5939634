"""
Open the registered layers with an application, and close them with it.

Before the application starts, this module checks that every mounted consumer can work.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import sys
from typing import TYPE_CHECKING, Any

from fast_channels.drain import check_drain_times, drain_before_stop
from fast_channels.exceptions import ConsumerStateError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from fast_channels.layers.registry import ChannelLayerRegistry

logger = logging.getLogger("fast_channels.layers")


@contextlib.asynccontextmanager
async def lifespan(registry: ChannelLayerRegistry, app: object) -> AsyncGenerator[None]:
    """Keep the layers open while the application runs; see `ChannelLayerRegistry.lifespan`."""
    check_drain_times(registry.drain_timeout, registry.drain_spread)
    mounted = [c for c in _mounted_consumers(app) if c.channel_layer_alias is not None]
    for consumer_class in mounted:
        registry.require(consumer_class.channel_layer_alias, consumer_class.__name__)

    async def end_connections() -> None:
        timeout = registry.drain_timeout
        await registry.connections.drain(timeout, min(registry.drain_spread, timeout))

    async with contextlib.AsyncExitStack() as stack:
        # Runs last: connections must be rejected until all layers are closed.
        stack.callback(registry.connections.resume)
        # A layer may have several aliases.
        for layer in dict.fromkeys(map(registry.require, registry.list_aliases())):
            await stack.enter_async_context(layer)
        for consumer_class in mounted:
            _check_resumable(registry, consumer_class)
        _warn_of_separate_groups(registry)
        stack.push_async_callback(end_connections)
        if registry.handle_signals:
            # The layers stay open: requests that still run may send through them.
            stack.enter_context(drain_before_stop(end_connections))
        registry.connections.resume()
        yield


def _check_resumable(registry: ChannelLayerRegistry, consumer_class: Any) -> None:
    # HTTP consumers have no such attribute.
    if getattr(consumer_class, "resumable", False):
        layer = registry.require(consumer_class.channel_layer_alias)
        layer.require_history(f"{consumer_class.__name__}.resumable")


def _warn_of_separate_groups(registry: ChannelLayerRegistry) -> None:
    """Log a warning if several workers use a layer that does not connect processes."""
    separate = [alias for alias in registry.list_aliases() if registry[alias].within_process]
    if separate and is_second_worker():
        logger.warning(
            "several workers serve this application, and each has separate groups in %s: a "
            "message reaches only the clients of the worker that sends it; register a "
            "RedisPubSubChannelLayer or RedisChannelLayer instead, or start one worker",
            ", ".join(f"{registry[alias]} {alias!r}" for alias in separate),
        )


def is_second_worker() -> bool:
    """
    Return True in the second process that a server's parent process has started.

    One worker warns for all of them. A reloader starts processes, too, one after the other.
    """
    if multiprocessing.parent_process() is None or {"--reload", "dev"} & set(sys.argv):
        return False
    # Not a public attribute: (2,) in the second child, and (1, 2) in the second child of the
    # first. The public name has the number only if the server sets no name of its own.
    identity = getattr(multiprocessing.current_process(), "_identity", ())
    return identity[-1:] == (2,)


def _mounted_consumers(app: Any) -> Iterator[Any]:
    """
    Yield the consumer classes in the routes of an application.

    Looks at the attributes in which Starlette and FastAPI keep routes and middleware
    usually keeps the application inside. A consumer that is mounted in another way
    is not found, and fails when its first client connects.
    """
    if (consumer_class := getattr(app, "consumer_class", None)) is not None:
        yield consumer_class
        return
    _check_route(app)
    routes = getattr(app, "routes", None)
    for route in routes or ():
        yield from _mounted_consumers(route)
    # An object with routes also leads to them through `app`.
    for name in () if routes else ("app", "application", "inner", "original_router"):
        inside = getattr(app, name, None)
        if callable(inside):
            yield from _mounted_consumers(inside)


def _check_route(app: Any) -> None:
    """Raise ConsumerStateError if a consumer is in a route where no client can reach it."""
    # By attributes, because modules of this rank do not import consumers.
    if isinstance(app, type) and hasattr(app, "as_asgi") and hasattr(app, "channel_layer_alias"):
        raise ConsumerStateError(
            f"{app.__name__} is mounted as a class; mount {app.__name__}.as_asgi(), which makes "
            "a consumer for each connection"
        )
    consumer_class = getattr(getattr(app, "endpoint", None), "consumer_class", None)
    # Only FastAPI's routes for functions have this attribute.
    if consumer_class is not None and getattr(app, "dependant", None) is not None:
        path, mounted = getattr(app, "path", ""), f"{consumer_class.__name__}.as_asgi()"
        raise ConsumerStateError(
            f"{mounted} is decorated like a function at {path!r}, where no client reaches it; "
            f"put WebSocketRoute({path!r}, {mounted}), or a Route for HTTP, into the `routes` "
            "of the application or router"
        )
