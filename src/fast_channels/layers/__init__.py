"""Moving messages between channels: the layers, and the registry that finds them."""

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


def __getattr__(name: str) -> Any:
    """Import the Redis layers when asked for, since redis is an extra."""
    if name in ("RedisChannelLayer", "RedisPubSubChannelLayer", "RedisStreamsChannelLayer"):
        return getattr(importlib.import_module(".redis", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
