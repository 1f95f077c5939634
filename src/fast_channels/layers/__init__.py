"""Channel layers, which move messages between channels, and the registry of layers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .base import BaseChannelLayer
from .in_memory import InMemoryChannelLayer
from .registry import (
    ChannelLayerRegistry,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)

if TYPE_CHECKING:
    from .redis import RedisChannelLayer, RedisPubSubChannelLayer, RedisStreamsChannelLayer

__all__ = [
    "BaseChannelLayer",
    "ChannelLayerRegistry",
    "InMemoryChannelLayer",
    "RedisChannelLayer",
    "RedisPubSubChannelLayer",
    "RedisStreamsChannelLayer",
    "channel_layers",
    "get_channel_layer",
    "has_layers",
    "register_channel_layer",
    "unregister_channel_layer",
]


# Type checkers see the imports above instead, and report names that do not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import a Redis layer on first use, because redis is an optional dependency."""
        if name in ("RedisChannelLayer", "RedisPubSubChannelLayer", "RedisStreamsChannelLayer"):
            return getattr(importlib.import_module(".redis", __name__), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
