"""Layers on a Redis or Valkey server. Needs the extra `redis`."""

from fast_channels.exceptions import MissingExtra

try:
    import redis.asyncio as _redis
except ImportError:
    raise MissingExtra("a Redis channel layer", "redis") from None

from .core import RedisChannelLayer
from .pubsub import RedisPubSubChannelLayer

del _redis

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer"]
