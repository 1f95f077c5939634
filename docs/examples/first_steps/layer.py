"""The layer: on Redis if REDIS_URL is set, in memory otherwise."""

import os

from fast_channels import BaseChannelLayer, InMemoryChannelLayer, RedisPubSubChannelLayer


def make_layer() -> BaseChannelLayer:
    if url := os.environ.get("REDIS_URL"):
        return RedisPubSubChannelLayer(hosts=[url])
    return InMemoryChannelLayer()
