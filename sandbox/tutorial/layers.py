"""The channel layers of the showcase: one table, and `setup_layers()` that registers it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypedDict

from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
    channel_layers,
    register_channel_layer,
)

# The address of the broker, which all layers share.
redis_url = os.environ.get("REDIS_URL") or "redis://localhost:6399"


class LayerEntry(TypedDict):
    """A row of the table: a layer, and why it is of this kind."""

    layer: BaseChannelLayer
    description: str


LayerTable = Mapping[str, LayerEntry]


def layer_table(redis_url: str = redis_url) -> dict[str, LayerEntry]:
    """
    Return new layers by their aliases.

    Each layer has its own prefix, because all use one broker: the group "chat_room" of one
    layer is not the group "chat_room" of another.
    """
    return {
        "memory": {
            "layer": InMemoryChannelLayer(expiry=60, capacity=100),
            "description": "within one process, for tests and first steps without a broker",
        },
        # TODO 3.1: a row "chat" with a RedisPubSubChannelLayer
        # History and work need streams. The layers for other messages are quicker without.
        # TODO 4.1: the rows "queue", "notifications" and "analytics"
    }


def setup_layers(extra: LayerTable | None = None) -> None:
    """
    Register every layer of the table and of `extra`.

    The application's lifespan opens the layers later. A second call registers new aliases only.
    """
    for alias, entry in {**layer_table(), **(extra or {})}.items():
        if alias not in channel_layers:
            register_channel_layer(alias, entry["layer"])
