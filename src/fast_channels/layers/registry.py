"""Alias → layer."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Any

from fast_channels.connections import Connections, check_drain
from fast_channels.exceptions import (
    ConsumerStateError,
    InvalidChannelLayerError,
    UnknownLayer,
)

from .base import BaseChannelLayer
from .signals import drained_before_stop
from .workers import place_among_workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator


logger = logging.getLogger("fast_channels.layers")


class ChannelLayerRegistry:
    """The layers of an application, by alias, and how the application ends."""

    def __init__(self) -> None:
        self._layers: dict[str, BaseChannelLayer] = {}
        # What consumers serve at this moment.
        self.connections = Connections()
        # Seconds that all connections have to end when the process does. Docker
        # kills a container 10 s after it has asked.
        self.drain_timeout = 8.0
        # Seconds of these in which connections are closed, one batch after the
        # other, so that clients do not all come back in the same moment.
        self.drain_spread = 4.0
        # Whether `lifespan` drains before the server is told of SIGTERM and Ctrl+C.
        self.handle_signals = True

    def register(self, alias: str, layer: BaseChannelLayer) -> None:
        """Put `layer` under `alias`, in place of what may be there."""
        if not isinstance(layer, BaseChannelLayer):
            raise InvalidChannelLayerError(
                f"cannot register {layer!r} as {alias!r}: it is a {type(layer).__name__}, "
                f"not a channel layer; {_remedy(layer)}"
            )
        self._layers[alias] = layer

    def unregister(self, alias: str) -> None:
        """Forget an alias; one that is not there is fine. The layer is not closed."""
        self._layers.pop(alias, None)

    def get(self, alias: str = "default") -> BaseChannelLayer | None:
        """Return the layer, or None."""
        return self._layers.get(alias)

    def require(self, alias: str, wanted_by: str | None = None) -> BaseChannelLayer:
        """Return the layer, or raise UnknownLayer in the name of `wanted_by`."""
        layer = self._layers.get(alias)
        if layer is None:
            raise UnknownLayer(alias, self.list_aliases(), wanted_by)
        return layer

    def list_aliases(self) -> list[str]:
        """Return the aliases in the order they were registered."""
        return list(self._layers)

    def clear(self) -> None:
        """Forget every layer. None is closed."""
        self._layers.clear()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """
        Keep every registered layer open: `FastAPI(lifespan=channel_layers.lifespan)`.

        At the end connections are drained, see `drain`, and the layers closed.
        Under a server that would close all connections at once when it is told
        to stop, such as uvicorn, the signal is held back until they are
        drained; a second one, more than a second later, is not. Set
        `handle_signals`, `drain_timeout` and `drain_spread` before.

        Raises UnknownLayer if a consumer is mounted in `app` whose layer is
        missing, MissingCapability if it is resumable and its layer keeps no
        history, ConsumerStateError if a class is mounted instead of its
        `as_asgi()` or by a decorator of FastAPI, which is for functions, and
        LayerUnavailable if a broker does not answer. In a lifespan of your own:
        `async with channel_layers.lifespan(app): yield`.
        """
        check_drain(self.drain_timeout, self.drain_spread)
        mounted = [c for c in _mounted_consumers(app) if c.channel_layer_alias is not None]
        for consumer_class in mounted:
            self.require(consumer_class.channel_layer_alias, consumer_class.__name__)
        async with contextlib.AsyncExitStack() as stack:
            # Last of all: nobody may come in while layers are being closed.
            stack.callback(self.connections.resume)
            # One layer may be registered under several aliases.
            for layer in dict.fromkeys(self._layers.values()):
                await stack.enter_async_context(layer)
            for consumer_class in mounted:
                self._require_history(consumer_class)
            self._warn_of_workers(stack.enter_context(place_among_workers()))
            stack.push_async_callback(self._end_connections)
            if self.handle_signals:
                # The layers stay: requests still under way may send through them.
                stack.enter_context(drained_before_stop(self._end_connections))
            self.connections.resume()
            yield

    async def drain(self, *, timeout: float | None = None, spread: float | None = None) -> None:
        """
        End every connection that consumers serve on this loop, then close the layers.

        WebSockets are closed with 1012 and streams ended, in batches within
        `spread` seconds, each when its handler has returned; `disconnect` runs
        for all of them. What is not over after `timeout` seconds is cancelled,
        and within one more second no longer waited for. By default these are
        `drain_spread` and `drain_timeout`. From the first moment on new
        connections are closed with 1012, and requests answered with 503, until
        a lifespan begins. Calling it twice, or at the same time, is fine.
        """
        await self._end_connections(timeout, spread)
        for layer in dict.fromkeys(self._layers.values()):
            await layer.close()

    async def _end_connections(
        self, timeout: float | None = None, spread: float | None = None
    ) -> None:
        timeout = self.drain_timeout if timeout is None else timeout
        spread = min(self.drain_spread, timeout) if spread is None else spread
        await self.connections.drain(timeout, spread)

    def _require_history(self, consumer_class: Any) -> None:
        # Consumers over HTTP have no such attribute.
        if getattr(consumer_class, "resumable", False):
            layer = self.require(consumer_class.channel_layer_alias)
            layer.require_history(f"{consumer_class.__name__}.resumable")

    def _warn_of_workers(self, place: int) -> None:
        alone = [alias for alias, layer in self._layers.items() if layer.within_process]
        if place == 1 and alone:
            logger.warning(
                "several workers serve this application, and each has groups of its own in %s: a "
                "message reaches only the clients of the worker that sends it; register a "
                "RedisPubSubChannelLayer or RedisChannelLayer there, or start one worker",
                ", ".join(f"{self._layers[alias]} {alias!r}" for alias in alone),
            )

    def __contains__(self, alias: object) -> bool:
        return alias in self._layers

    def __getitem__(self, alias: str) -> BaseChannelLayer:
        return self.require(alias)

    def __len__(self) -> int:
        return len(self._layers)


# The registry that consumers look in.
channel_layers = ChannelLayerRegistry()


def get_channel_layer(alias: str = "default") -> BaseChannelLayer | None:
    """Return the layer registered as `alias`, or None."""
    return channel_layers.get(alias)


def register_channel_layer(alias: str, layer: BaseChannelLayer) -> None:
    """Register a layer in `channel_layers`, in place of what may be there."""
    channel_layers.register(alias, layer)


def unregister_channel_layer(alias: str) -> None:
    """Forget an alias; one that is not there is fine. The layer is not closed."""
    channel_layers.unregister(alias)


def has_layers() -> bool:
    """Whether any layer is registered."""
    return len(channel_layers) > 0


def _remedy(layer: object) -> str:
    if isinstance(layer, type) and issubclass(layer, BaseChannelLayer):
        return f"make one, with {layer.__name__}(...)"
    return "subclass BaseChannelLayer"


def _mounted_consumers(app: Any) -> Iterator[Any]:
    """
    Yield the consumer classes that an application's routes lead to.

    Looks where Starlette and FastAPI keep routes, and where middleware usually
    keeps what is inside it. A consumer that is mounted in another way is not found, and
    fails when its first client comes.
    """
    if (consumer_class := getattr(app, "consumer_class", None)) is not None:
        yield consumer_class
        return
    _refuse_misplaced(app)
    routes = getattr(app, "routes", None)
    for route in routes or ():
        yield from _mounted_consumers(route)
    # What has routes leads to them through `app` once more.
    for name in () if routes else ("app", "application", "inner", "original_router"):
        inside = getattr(app, name, None)
        if callable(inside):
            yield from _mounted_consumers(inside)


def _refuse_misplaced(app: Any) -> None:
    """Raise ConsumerStateError if a consumer is in a route in which no client reaches it."""
    # By its attributes, since this room knows no consumers.
    if isinstance(app, type) and hasattr(app, "as_asgi") and hasattr(app, "channel_layer_alias"):
        raise ConsumerStateError(
            f"{app.__name__} is mounted as a class; mount {app.__name__}.as_asgi(), which makes "
            "a consumer for each connection"
        )
    consumer_class = getattr(getattr(app, "endpoint", None), "consumer_class", None)
    # FastAPI's own routes have this: how to call a function with what is in the request.
    if consumer_class is not None and getattr(app, "dependant", None) is not None:
        path, mounted = getattr(app, "path", ""), f"{consumer_class.__name__}.as_asgi()"
        raise ConsumerStateError(
            f"{mounted} is decorated like a function at {path!r}, where no client reaches it; "
            f"put WebSocketRoute({path!r}, {mounted}), or a Route for HTTP, into the `routes` "
            "of the application or router"
        )
