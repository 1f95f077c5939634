"""Helpers of fast-channels 1.1 under their old names."""

from ._hosts import close_redis, consistent_hash, create_pool, decode_hosts

__all__ = ["close_redis", "consistent_hash", "create_pool", "decode_hosts"]
