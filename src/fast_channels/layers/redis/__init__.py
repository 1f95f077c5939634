"""Layers on a Redis or Valkey server. Needs the extra `redis`."""

from fast_channels.exceptions import MissingExtra

try:
    # hiredis parses the replies, and redis does everything else.
    import hiredis as _hiredis
    import redis.asyncio as _redis
except ImportError:
    raise MissingExtra("a Redis channel layer", "redis") from None

from .core import RedisChannelLayer
from .pubsub import RedisPubSubChannelLayer
from .streams import RedisStreamsChannelLayer

del _hiredis, _redis

__all__ = ["RedisChannelLayer", "RedisPubSubChannelLayer", "RedisStreamsChannelLayer"]
