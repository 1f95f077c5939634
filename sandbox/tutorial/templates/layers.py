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

# Makes a layer for the broker at this URL.
LayerFactory = Callable[[str], BaseChannelLayer]

# Layers share one broker, so each has a prefix of its own: the group "chat_room"
# of one layer is not the group "chat_room" of another.
LAYERS: Mapping[str, LayerFactory] = {
    # This process only: tests, and first steps without a broker.
    "memory": lambda _url: InMemoryChannelLayer(expiry=60, capacity=100),
    # People typing: lowest latency. Who is not connected has missed it.
    # TODO 3.1: a row "chat" with a RedisPubSubChannelLayer
    # Keeps what it carried: who was away is sent what was said meanwhile, and a worker's
    # report outlives a broken connection. Few and not for long, so that one can see the end.
    # TODO 4.1: a row "queue" with a RedisStreamsChannelLayer
    # Worth something now or never, so nothing is kept.
    # TODO 5.6: a row "notifications" with a RedisPubSubChannelLayer
    # Many small events in bursts, each of which counts: they wait for a worker, and are
    # handed to another if that one dies.
    # TODO 5.12: a row "analytics" with a RedisStreamsChannelLayer
}


def redis_url() -> str:
    """Address of the broker, from the environment variable REDIS_URL."""
    return os.environ.get("REDIS_URL") or DEFAULT_REDIS_URL


def setup_layers(extra: Mapping[str, LayerFactory] | None = None) -> None:
    """
    Register every layer of the table, and those of `extra`.

    Nothing connects yet: the application's lifespan opens the layers. Calling
    this again registers only what is new.
    """
    for alias, make in {**LAYERS, **(extra or {})}.items():
        if alias not in channel_layers:
            register_channel_layer(alias, make(redis_url()))
