"""Hosts: the settings that name servers, their form in logs, and the server of a name."""

from __future__ import annotations

import zlib

import pytest
import redis.asyncio
from redis.asyncio import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis._hosts import describe
from fast_channels.layers.redis.utils import (
    close_redis,
    consistent_hash,
    create_pool,
    decode_hosts,
)

SENTINEL = {
    "sentinels": [("localhost", 26379)],
    "master_name": "main",
    "sentinel_kwargs": {"password": "secret"},
}


# -- decode_hosts --------------------------------------------------------------


def test_no_hosts_mean_a_server_on_this_machine():
    """The server is on the usual port."""
    assert decode_hosts(None) == [{"address": "redis://localhost:6379"}]


@pytest.mark.parametrize(
    ("entry", "decoded"),
    [
        ("redis://a:1/2", {"address": "redis://a:1/2"}),
        ("rediss://a", {"address": "rediss://a"}),
        ("unix:///run/x.sock", {"address": "unix:///run/x.sock"}),
        (("a", 1), {"host": "a", "port": 1}),
        (["a", 1], {"host": "a", "port": 1}),
        ({"address": "redis://a", "db": 3}, {"address": "redis://a", "db": 3}),
        ({"host": "a", "port": 1, "password": "b"}, {"host": "a", "port": 1, "password": "b"}),
        (SENTINEL, SENTINEL),
    ],
    ids=repr,
)
def test_every_form_of_a_host_is_understood(entry, decoded):
    """The forms may be mixed in one list."""
    assert decode_hosts([entry, "redis://other"]) == [decoded, {"address": "redis://other"}]


def test_mapping_is_copied():
    """Later changes of the settings change no layer."""
    settings = {"host": "a"}
    (decoded,) = decode_hosts([settings])
    settings["host"] = "b"
    assert decoded == {"host": "a"}


@pytest.mark.parametrize("hosts", ["redis://:secret@localhost", b"redis://:secret@localhost"])
@pytest.mark.parametrize("make", [decode_hosts, RedisChannelLayer, RedisPubSubChannelLayer])
def test_bare_string_is_refused(make, hosts):
    """The sentence shows the intended list, without a password."""
    with pytest.raises(ValueError, match="pass a list") as caught:
        make(hosts)
    assert isinstance(caught.value, InvalidChannelLayerError)
    assert type(hosts).__name__ in str(caught.value)
    assert "['redis://localhost" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("make", [decode_hosts, RedisChannelLayer, RedisPubSubChannelLayer])
def test_empty_list_is_refused(make):
    """A layer needs at least one server."""
    with pytest.raises(ValueError, match="at least one"):
        make([])


@pytest.mark.parametrize(
    "entry",
    ["localhost", "localhost:6379", "http://localhost", "", ("a",), ("a", 1, 2), 6379, None],
)
def test_entry_that_is_no_host_is_refused(entry):
    """The sentence shows the entry and the allowed forms."""
    with pytest.raises(ValueError, match=r"redis://|URL") as caught:
        decode_hosts([entry])
    assert repr(entry) in str(caught.value)


def test_wrong_url_is_shown_without_its_password():
    """URLs end up in logs and tracebacks."""
    with pytest.raises(ValueError, match="server:1") as caught:
        decode_hosts(["http://user:secret@server:1"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("prefix", [None, 5, b"asgi"])
@pytest.mark.parametrize("layer", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_prefix_that_is_no_string_is_refused(layer, prefix):
    """The error comes when the layer is made."""
    with pytest.raises(InvalidChannelLayerError, match="prefix"):
        layer(["redis://localhost"], prefix=prefix)


# -- describe ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:secret@localhost", "redis://localhost"),
        ("rediss://user:secret@localhost:1", "rediss://localhost:1"),
        ("redis://user:se@cret@localhost:1", "redis://localhost:1"),
        ("unix://user:secret@/run/x.sock", "unix:///run/x.sock"),
        (("localhost", 6380), "redis://localhost:6380"),
        ({"host": "localhost", "password": "secret"}, "redis://localhost:6379"),
        ({"host": "localhost", "ssl": True}, "rediss://localhost:6379"),
        ({"address": "redis://localhost", "password": "secret"}, "redis://localhost"),
        (SENTINEL, "sentinel master 'main'"),
    ],
    ids=repr,
)
def test_address_is_shown_without_its_password(entry, shown):
    """The address is shown in messages, in logs, and when a layer is printed."""
    (host,) = decode_hosts([entry])
    assert describe(host) == shown
    assert shown in str(RedisChannelLayer([entry]))
    assert shown in str(RedisPubSubChannelLayer([entry]))


def test_password_among_the_options_of_a_url_is_not_shown():
    """redis-py accepts the password there, too."""
    (host,) = decode_hosts(["redis://localhost:6379/0?password=secret&db=2"])
    assert create_pool(host).connection_kwargs["password"] == "secret"
    assert "secret" not in describe(host)


# -- create_pool ---------------------------------------------------------------


def test_pool_of_a_url_has_its_options():
    """The options of the mapping around the URL count, too."""
    (host,) = decode_hosts([{"address": "redis://user:pw@server:1234/5", "client_name": "me"}])
    options = create_pool(host).connection_kwargs
    found = {key: options[key] for key in ("host", "port", "db", "username", "client_name")}
    expected = {"host": "server", "port": 1234, "db": 5, "username": "user", "client_name": "me"}
    assert found == expected


def test_pool_of_keywords_passes_them_on():
    """A connection of redis-py takes the keywords."""
    (host,) = decode_hosts([{"host": "server", "port": 1234, "db": 5}])
    options = create_pool(host).connection_kwargs
    assert (options["host"], options["port"], options["db"]) == ("server", 1234, 5)


@pytest.mark.parametrize("ssl", [True, False])
def test_keywords_may_ask_for_tls(ssl):
    """A URL says so with its scheme."""
    (host,) = decode_hosts([{"host": "server", "ssl": ssl}])
    assert (create_pool(host).connection_class is SSLConnection) is ssl
    assert host == {"host": "server", "ssl": ssl}


def test_sentinel_is_not_waited_for_as_long_as_a_connection_may_take():
    """A Sentinel is not retried either, because others can be asked; the user's options count."""
    (host,) = decode_hosts([{**SENTINEL, "sentinel_kwargs": {"socket_timeout": 3}}])
    (sentinel,) = create_pool(host).sentinel_manager.sentinels
    options = sentinel.connection_pool.connection_kwargs
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (3, 1)
    assert options["retry"]._retries == 0


def test_pool_of_sentinels_asks_them_for_the_master():
    """The pool passes on the options of the Sentinels, and leaves the given mapping unchanged."""
    (host,) = decode_hosts([SENTINEL])
    pool = create_pool(host)
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "main"
    (sentinel,) = pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_kwargs["password"] == "secret"
    assert host == SENTINEL


def test_nothing_is_repeated_behind_our_back():
    """A command may have been executed although its answer was lost."""
    (host,) = decode_hosts(["redis://localhost"])
    assert create_pool(host).connection_kwargs["retry"]._retries == 0


async def test_close_redis_closes_a_client_with_its_pool(redis_url):
    """No connection is left."""
    client = redis.asyncio.Redis(connection_pool=create_pool({"address": redis_url}))
    assert await client.ping()
    await close_redis(client)
    assert not client.connection_pool._in_use_connections


# -- consistent_hash -----------------------------------------------------------


def test_one_host_has_every_name():
    """The hash does not matter."""
    assert {consistent_hash(f"name-{n}", 1) for n in range(100)} == {0}


@pytest.mark.parametrize("ring_size", [2, 3, 4, 5, 7, 16, 100])
def test_host_is_the_low_12_bits_of_the_crc_scaled_to_the_ring(ring_size):
    """Peers with the same formula find the same server."""
    found = set()
    for n in range(2000):
        name = f"specific.{n}!"
        expected = (zlib.crc32(name.encode()) & 0xFFF) * ring_size // 4096
        assert consistent_hash(name, ring_size) == consistent_hash(name.encode(), ring_size)
        assert consistent_hash(name, ring_size) == expected
        found.add(expected)
    assert found == set(range(ring_size))


@pytest.mark.parametrize(("name", "host"), [("key_one", 1), ("key_two", 0)])
def test_known_values_stay(name, host):
    """A name stays on its server from one version to the next."""
    assert consistent_hash(name, 2) == host


def test_queue_layer_hashes_over_its_own_hosts():
    """The method has the name that it has in channels_redis."""
    layer = RedisChannelLayer(["redis://a", "redis://b", "redis://c"])
    assert layer.ring_size == 3
    assert layer.consistent_hash("name") == consistent_hash("name", 3)


@pytest.mark.parametrize(
    "host",
    [{"address": "http://localhost"}, {"host": "localhost", "prot": 6379}, "redis://localhost:x/0"],
    ids=repr,
)
def test_host_that_cannot_be_used_is_refused_at_once(host):
    """The error comes at once, not after five seconds without an answer."""
    with pytest.raises(InvalidChannelLayerError, match=r"localhost.* cannot be used"):
        decode_hosts([host])
