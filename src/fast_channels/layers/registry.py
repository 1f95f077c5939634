"""Alias → layer."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import InvalidChannelLayerError, UnknownLayer

from .base import BaseChannelLayer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator


class ChannelLayerRegistry:
    """The layers of an application, by alias."""

    def __init__(self) -> None:
        self._layers: dict[str, BaseChannelLayer] = {}

    def register(self, alias: str, layer: BaseChannelLayer) -> None:
        """Put `layer` under `alias`, in place of what may be there."""
        if not isinstance(layer, BaseChannelLayer):
            raise InvalidChannelLayerError(
                f"cannot register {layer!r} as {alias!r}: it is a {type(layer).__name__}, "
                "not a channel layer; subclass BaseChannelLayer"
            )
        self._layers[alias] = layer

    def unregister(self, alias: str) -> None:
        """Forget an alias; one that is not there is fine. The layer is not closed."""
        self._layers.pop(alias, None)

    def get(self, alias: str = "default") -> BaseChannelLayer | None:
        return self._layers.get(alias)

    def require(self, alias: str, wanted_by: str | None = None) -> BaseChannelLayer:
        """Return the layer, or raise UnknownLayer in the name of `wanted_by`."""
        layer = self._layers.get(alias)
        if layer is None:
            raise UnknownLayer(alias, self.list_aliases(), wanted_by)
        return layer

    def list_aliases(self) -> list[str]:
        return list(self._layers)

    def clear(self) -> None:
        """Forget every layer. None is closed."""
        self._layers.clear()

    @contextlib.asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None]:
        """
        Keep every registered layer open: `FastAPI(lifespan=channel_layers.lifespan)`.

        Raises UnknownLayer if a consumer is mounted in `app` whose layer is
        missing, and LayerUnavailable if a broker does not answer. In a lifespan
        of your own: `async with channel_layers.lifespan(app): yield`.
        """
        for consumer_class in _mounted_consumers(app):
            if consumer_class.channel_layer_alias is not None:
                self.require(consumer_class.channel_layer_alias, consumer_class.__name__)
        async with contextlib.AsyncExitStack() as stack:
            # One layer may be registered under several aliases.
            for layer in dict.fromkeys(self._layers.values()):
                await stack.enter_async_context(layer)
            yield

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
    channel_layers.register(alias, layer)


def unregister_channel_layer(alias: str) -> None:
    channel_layers.unregister(alias)


def has_layers() -> bool:
    """Whether any layer is registered."""
    return len(channel_layers) > 0


def _mounted_consumers(app: Any) -> Iterator[Any]:
    """
    Yield the consumer classes that an application's routes lead to.

    Looks where Starlette keeps routes, and where middleware usually keeps what
    is inside it. A consumer that is mounted in another way is not found, and
    fails when its first client comes.
    """
    if (consumer_class := getattr(app, "consumer_class", None)) is not None:
        yield consumer_class
        return
    routes = getattr(app, "routes", None)
    for route in routes or ():
        yield from _mounted_consumers(route)
    # What has routes leads to them through `app` once more.
    for name in () if routes else ("app", "application", "inner"):
        inside = getattr(app, name, None)
        if callable(inside):
            yield from _mounted_consumers(inside)
