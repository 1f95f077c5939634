"""The registry of channel layers: alias → layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_channels.drain import Connections
from fast_channels.exceptions import InvalidChannelLayerError, UnknownLayer
from fast_channels.lifespan import lifespan

from .base import BaseChannelLayer

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class ChannelLayerRegistry:
    """The layers of an application by alias, and the settings for its shutdown."""

    def __init__(self) -> None:
        self._layers: dict[str, BaseChannelLayer] = {}
        self.connections = Connections()
        """The connections that consumers serve now."""
        self.drain_timeout = 8.0
        """Seconds until a drain cancels connections. Docker kills a container after 10 s."""
        self.drain_spread = 4.0
        """Seconds over which a drain closes connections, so that clients reconnect in batches."""
        self.handle_signals = True
        """If true, `lifespan` drains before the server gets SIGTERM or Ctrl+C."""

    def register(self, alias: str, layer: BaseChannelLayer) -> None:
        """Register `layer` as `alias`, replacing the layer registered before."""
        if not isinstance(layer, BaseChannelLayer):
            raise InvalidChannelLayerError(
                f"cannot register {layer!r} as {alias!r}: it is a {type(layer).__name__}, "
                f"not a channel layer; {_hint(layer)}"
            )
        self._layers[alias] = layer

    def unregister(self, alias: str) -> None:
        """Remove an alias, if it is registered. The layer is not closed."""
        self._layers.pop(alias, None)

    def get(self, alias: str = "default") -> BaseChannelLayer | None:
        """Return the layer, or None."""
        return self._layers.get(alias)

    def require(self, alias: str, wanted_by: str | None = None) -> BaseChannelLayer:
        """Return the layer, or raise UnknownLayer, which names `wanted_by`."""
        layer = self._layers.get(alias)
        if layer is None:
            raise UnknownLayer(alias, self.list_aliases(), wanted_by)
        return layer

    def list_aliases(self) -> list[str]:
        """Return the aliases in the order in which they were registered."""
        return list(self._layers)

    def clear(self) -> None:
        """Remove every alias. No layer is closed."""
        self._layers.clear()

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """
        Keep every registered layer open: `FastAPI(lifespan=channel_layers.lifespan)`.

        At the end, connections are drained, see `drain`, and the layers closed. Some
        servers, such as uvicorn, close all connections as soon as they get a signal to
        stop. There the lifespan holds the signal back until connections are
        drained; a second signal, more than a second later, reaches the server at once.
        Set `handle_signals`, `drain_timeout` and `drain_spread` before.

        Raises UnknownLayer if the layer of a consumer mounted in `app` is not registered,
        MissingCapability if a mounted consumer is resumable and its layer keeps no
        history, ConsumerStateError if a class is mounted instead of its
        `as_asgi()` or with a decorator of FastAPI, which is for functions, and
        LayerUnavailable if a broker does not answer. In a lifespan of your own:
        `async with channel_layers.lifespan(app): yield`.
        """
        return lifespan(self, app)

    async def drain(self, *, timeout: float | None = None, spread: float | None = None) -> None:
        """
        End every connection that consumers serve on this loop, then close the layers.

        WebSockets are closed with 1012 and HTTP streams ended, in batches within `spread`
        seconds, each when its handler has returned; `disconnect` runs for all of
        them. Connections that remain after `timeout` seconds are cancelled, and the
        drain returns within one more second. The defaults are `drain_spread`
        and `drain_timeout`. From the first moment, and until a lifespan begins, new
        WebSockets are closed with 1012 and requests answered with 503. You may call
        `drain` twice, even at the same time.
        """
        timeout = self.drain_timeout if timeout is None else timeout
        spread = min(self.drain_spread, timeout) if spread is None else spread
        await self.connections.drain(timeout, spread)
        # A layer may have several aliases.
        for layer in dict.fromkeys(self._layers.values()):
            await layer.close()

    def __contains__(self, alias: object) -> bool:
        return alias in self._layers

    def __getitem__(self, alias: str) -> BaseChannelLayer:
        return self.require(alias)

    def __len__(self) -> int:
        return len(self._layers)


channel_layers = ChannelLayerRegistry()
"""The registry in which consumers look up their layers."""


def get_channel_layer(alias: str = "default") -> BaseChannelLayer | None:
    """Return the layer registered as `alias`, or None."""
    return channel_layers.get(alias)


def register_channel_layer(alias: str, layer: BaseChannelLayer) -> None:
    """Register a layer in `channel_layers`, replacing the layer registered before."""
    channel_layers.register(alias, layer)


def unregister_channel_layer(alias: str) -> None:
    """Remove an alias, if it is registered. The layer is not closed."""
    channel_layers.unregister(alias)


def has_layers() -> bool:
    """Return True if any layer is registered."""
    return len(channel_layers) > 0


def _hint(layer: object) -> str:
    if isinstance(layer, type) and issubclass(layer, BaseChannelLayer):
        return f"make one, with {layer.__name__}(...)"
    return "subclass BaseChannelLayer"
