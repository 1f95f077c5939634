"""The channel layers of the showcase: one table, and `setup_layers()` that registers it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
    channel_layers,
    register_channel_layer,
)

DEFAULT_REDIS_URL = "redis://localhost:6399"

# A function that makes a layer for the broker at a URL.
LayerFactory = Callable[[str], BaseChannelLayer]

# All layers use one broker, so each has its own prefix: the group "chat_room" of one layer is
# not the group "chat_room" of another.
LAYERS: Mapping[str, LayerFactory] = {
    # Within one process, for tests and for first steps without a broker.
    "memory": lambda _url: InMemoryChannelLayer(expiry=60, capacity=100),
    # Chat: the lowest latency. Clients that are not connected miss the message.
    # TODO 3.1: a row "chat" with a RedisPubSubChannelLayer
    # Keeps messages, so that clients can resume and reports survive a lost connection. The
    # history is short, so that you can see how it ends.
    # TODO 4.1: a row "queue" with a RedisStreamsChannelLayer
    # Notifications matter now or never, so the layer keeps none.
    # TODO 5.6: a row "notifications" with a RedisPubSubChannelLayer
    # Bursts of small events that must not be lost. They wait for a worker, and another worker
    # receives them if that one dies.
    # TODO 5.12: a row "analytics" with a RedisStreamsChannelLayer
}


def redis_url() -> str:
    """Return the address of the broker, from the environment variable REDIS_URL."""
    return os.environ.get("REDIS_URL") or DEFAULT_REDIS_URL


def setup_layers(extra: Mapping[str, LayerFactory] | None = None) -> None:
    """
    Register every layer of the table and of `extra`.

    The application's lifespan opens the layers later. A second call registers new aliases only.
    """
    for alias, make in {**LAYERS, **(extra or {})}.items():
        if alias not in channel_layers:
            register_channel_layer(alias, make(redis_url()))
