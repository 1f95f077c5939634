"""Realtime for FastAPI, Starlette and any ASGI app: consumers and channel layers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    RateLimit,
)
from .exceptions import (
    AcceptConnection,
    ChannelFull,
    ChannelLayerError,
    DenyConnection,
    FastChannelsError,
    InvalidMessage,
    InvalidName,
    InvalidPosition,
    LayerUnavailable,
    MessageTooLarge,
    StopConsumer,
    UnknownLayer,
)
from .layers import (
    BaseChannelLayer,
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)
from .layers.sync import SyncChannelLayer
from .middleware import OriginValidator
from .routing import ChannelNameRouter, WebSocketRouter
from .worker import Worker

if TYPE_CHECKING:
    from .layers.redis import RedisChannelLayer, RedisPubSubChannelLayer, RedisStreamsChannelLayer

__version__ = "2.0.0"

__all__ = [
    "AcceptConnection",
    "AsyncConsumer",
    "AsyncHttpConsumer",
    "AsyncJsonWebsocketConsumer",
    "AsyncWebsocketConsumer",
    "BaseChannelLayer",
    "ChannelFull",
    "ChannelLayerError",
    "ChannelLayerRegistry",
    "ChannelNameRouter",
    "DenyConnection",
    "FastChannelsError",
    "InMemoryChannelLayer",
    "InvalidMessage",
    "InvalidName",
    "InvalidPosition",
    "LayerUnavailable",
    "MessageTooLarge",
    "OriginValidator",
    "RateLimit",
    "RedisChannelLayer",
    "RedisPubSubChannelLayer",
    "RedisStreamsChannelLayer",
    "StopConsumer",
    "SyncChannelLayer",
    "UnknownLayer",
    "WebSocketRouter",
    "Worker",
    "channel_layers",
    "get_channel_layer",
    "has_layers",
    "register_channel_layer",
    "unregister_channel_layer",
]

_REDIS_LAYERS = ("RedisChannelLayer", "RedisPubSubChannelLayer", "RedisStreamsChannelLayer")

# Type checkers see the imports above instead, and report names that do not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a Redis layer on first use, because redis is an optional dependency."""
        if name in _REDIS_LAYERS:
            return getattr(importlib.import_module(".layers.redis", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
