"""The servers of a layer: the entries of `hosts`, and the server that a name lives on."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from fast_channels.exceptions import InvalidChannelLayerError

if TYPE_CHECKING:
    from .type_defs import ChannelDecodedRedisHost, ChannelRawRedisHost

DEFAULT_URL = "redis://localhost:6379"

# How long one Sentinel may take to answer. Less than a connection may take, so that one that
# hangs leaves time to ask the others.
SENTINEL_TIMEOUT_SECONDS = 1.0


def decode_hosts(
    hosts: Sequence[ChannelRawRedisHost] | None,
) -> list[ChannelDecodedRedisHost]:
    """
    Return the keywords of each host. Raises ValueError, which names the mistake.

    An entry is a URL (`redis://`, `rediss://` for TLS, `unix://`), a pair (host, port), a
    mapping with "address" set to a URL and more keywords of redis-py's Connection, a mapping
    with "sentinels", "master_name" and "sentinel_kwargs", or keywords of Connection alone.
    Without a URL, "ssl": True means TLS: next to "sentinels" for the server that they name,
    and in "sentinel_kwargs" for the Sentinels. None means a server on this machine.
    """
    if hosts is None:
        return [{"address": DEFAULT_URL}]
    if isinstance(hosts, (str, bytes)):
        raise InvalidChannelLayerError(
            f"hosts is a single {type(hosts).__name__}; pass a list, even if there is only one "
            "host: ['redis://localhost:6379']"
        )
    if not hosts:
        raise InvalidChannelLayerError("hosts is an empty list; name at least one server")
    decoded = [_decode_host(entry) for entry in hosts]
    for host in decoded:
        _check(host)
    return decoded


def _check(host: ChannelDecodedRedisHost) -> None:
    """Raise InvalidChannelLayerError for a host that redis-py does not accept."""
    try:
        # This does not connect, and only redis-py knows all the keywords.
        # Some versions of redis-py have no types here.
        create_pool(host).make_connection()  # type: ignore[no-untyped-call]
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise InvalidChannelLayerError(
            f"host {describe(host)!r} cannot be used: {type(exc).__name__}: {exc}"
        ) from exc


def _decode_host(entry: ChannelRawRedisHost) -> ChannelDecodedRedisHost:
    if isinstance(entry, Mapping):
        return dict(entry)
    if isinstance(entry, str):
        if not entry.startswith(("redis://", "rediss://", "unix://")):
            raise InvalidChannelLayerError(
                f"host {_without_secrets(entry)!r} is not the URL of a server; use one that "
                "begins with redis://, rediss:// or unix://, such as redis://localhost:6379"
            )
        return {"address": entry}
    if isinstance(entry, (tuple, list)) and len(entry) == 2:
        return {"host": entry[0], "port": entry[1]}
    raise InvalidChannelLayerError(
        f"host {entry!r} is a {type(entry).__name__}; use a URL, a pair (host, port) or a mapping"
    )


def checked_prefix(prefix: str) -> str:
    """Return the prefix of all keys. Raises InvalidChannelLayerError unless it is a string."""
    if not isinstance(prefix, str):
        raise InvalidChannelLayerError(f"prefix is {prefix!r}; it must be a string such as 'asgi'")
    return prefix


class _Sentinels(Sentinel):
    """
    Sentinels that close their connections once they have answered.

    Each attempt to connect asks with clients of its own, and redis-py leaves their connections
    open until the garbage collector finds them.
    """

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        try:
            address: tuple[str, int] = await super().discover_master(service_name)
        finally:
            await asyncio.gather(*map(close_redis, self.sentinels))
        return address


def create_pool(host: ChannelDecodedRedisHost) -> ConnectionPool:
    """Return a pool for a decoded host. Nothing is connected yet."""
    options: dict[str, Any] = dict(host)
    # Commands are not idempotent, so redis-py must not repeat them.
    options.setdefault("retry", Retry(NoBackoff(), 0))
    if "address" in options:
        pool: ConnectionPool = ConnectionPool.from_url(options.pop("address"), **options)  # pyright: ignore[reportUnknownMemberType]
        return pool
    if "sentinels" in options:
        # Neither class has types in redis-py.
        sentinels = _Sentinels(  # type: ignore[no-untyped-call]
            options.pop("sentinels"),
            sentinel_kwargs={
                "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
                "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
                "retry": Retry(NoBackoff(), 0),
                **(options.pop("sentinel_kwargs", None) or {}),
            },
        )
        name = options.pop("master_name")
        return SentinelConnectionPool(name, sentinels, **options)  # type: ignore[no-untyped-call]
    if options.pop("ssl", False):
        options.setdefault("connection_class", SSLConnection)
    return ConnectionPool(**options)


async def close_redis(connection: Redis) -> None:
    """Close a client and its pool, with any supported version of redis-py."""
    await connection.aclose(close_connection_pool=True)


def describe(host: ChannelDecodedRedisHost) -> str:
    """Return the address for errors and logs, without its password."""
    if "address" in host:
        return _without_secrets(str(host["address"]))
    if "sentinels" in host:
        return f"sentinel master {host.get('master_name')!r}"
    scheme = "rediss" if host.get("ssl") else "redis"
    return f"{scheme}://{host.get('host', 'localhost')}:{host.get('port', 6379)}"


def _without_secrets(url: str) -> str:
    """Return a URL without user and password. Options go too: they may contain them."""
    scheme, separator, rest = url.partition("?")[0].rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def consistent_hash(value: str | bytes, ring_size: int) -> int:
    """
    Return the index of the host that a name lives on, of `ring_size` hosts.

    This is the scheme of channels_redis: the low 12 bits of CRC-32, scaled to the ring.
    """
    if ring_size == 1:
        return 0
    if isinstance(value, str):
        value = value.encode()
    return int((zlib.crc32(value) & 0xFFF) / (4096 / ring_size))
