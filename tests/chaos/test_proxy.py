"""The proxy treats connections as the scenarios need it."""

from __future__ import annotations

import socket
import time

import pytest
import redis

from tests.chaos.proxy import Connection, Proxy, having_sent
from tests.layers.support import comes_true


@pytest.fixture
def proxy(valkey):
    """A proxy before the shared server."""
    with Proxy(valkey.port) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    """Open plain sockets to the proxy."""
    opened = []

    def connect():
        opened.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


SUBSCRIBE = b"*2\r\n$9\r\nSUBSCRIBE\r\n$5\r\ntopic\r\n"


def ask(connection, command=b"PING\r\n"):
    """Send a command and return the first bytes of its answer."""
    connection.sendall(command)
    return connection.recv(1024)


def subscribe(connection):
    return ask(connection, SUBSCRIBE)


def test_bytes_pass_both_ways(proxy, redis_url):
    """Any number of bytes passes unchanged, and connections are counted."""
    value = bytes(range(256)) * 20_000
    with redis.Redis.from_url(proxy.url) as client:
        client.set("key", value)
        assert client.get("key") == value
    comes_true(lambda: proxy.connections == 0)
    assert proxy.accepted == 1


def test_delay_is_added_in_each_direction_and_not_to_each_chunk(proxy, connect):
    """Twenty commands sent together take as long as one."""
    connection = connect()
    assert ask(connection) == b"+PONG\r\n"
    proxy.delay(0.1)
    began = time.monotonic()
    for _ in range(20):
        connection.sendall(b"PING\r\n")
    received = b""
    while len(received) < 20 * len(b"+PONG\r\n"):
        received += connection.recv(1024)
    assert 0.2 <= time.monotonic() - began < 4.0
    proxy.restore()
    times = []
    for _ in range(20):
        began = time.monotonic()
        assert ask(connection) == b"+PONG\r\n"
        times.append(time.monotonic() - began)
    assert min(times) < 0.1


def test_cut_resets_connections_and_refuses_new_ones(proxy, connect):
    """The proxy refuses connections until the network is restored, on the same port."""
    connection = connect()
    ask(connection)
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.restore()
    assert ask(connect()) == b"+PONG\r\n"


def test_cut_now_lets_new_connections_come(proxy, connect):
    """Only present connections break."""
    connection = connect()
    ask(connection)
    assert proxy.cut_now() == 1
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    assert ask(connect()) == b"+PONG\r\n"


def test_blackhole_keeps_connections_and_forwards_nothing(proxy, connect):
    """Data on old and new connections arrives after the network is restored."""
    old = connect()
    ask(old)
    proxy.blackhole()
    new = connect()
    for connection in (old, new):
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.1)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(5)
    proxy.restore()
    assert [old.recv(64), new.recv(64)] == [b"+PONG\r\n", b"+PONG\r\n"]


def test_one_kind_of_connections_is_chosen_by_what_was_sent(proxy, connect):
    """Other connections are not affected."""
    listener, other = connect(), connect()
    assert subscribe(listener).startswith(b"*3")
    assert ask(other) == b"+PONG\r\n"
    assert proxy.count(having_sent("SUBSCRIBE")) == 1
    assert proxy.cut_now(having_sent("SUBSCRIBE")) == 1
    with pytest.raises(ConnectionResetError):
        listener.recv(1)
    assert ask(other) == b"+PONG\r\n"


def test_connection_that_becomes_of_the_kind_is_cut_then(proxy, connect, redis_url):
    """The connection is cut before the server sees the command."""
    proxy.cut(having_sent("SUBSCRIBE"))
    connection = connect()
    assert ask(connection) == b"+PONG\r\n"
    with pytest.raises(ConnectionResetError):
        subscribe(connection)
    with redis.Redis.from_url(redis_url) as client:
        assert client.pubsub_channels() == []


def test_command_is_recognized_however_it_is_cut_into_chunks():
    """The cut may be at any place within its first line and its name."""
    for place in range(SUBSCRIBE.index(b"topic")):
        connection = Connection(None, None)
        connection.note(b"x" * 100 + SUBSCRIBE[:place])
        connection.note(SUBSCRIBE[place:])
        assert connection.commands == {"SUBSCRIBE"}


def test_kind_of_connections_is_held_and_let_go(proxy, connect):
    """A waiting subscription is confirmed when the network is restored."""
    proxy.blackhole(having_sent("SUBSCRIBE"))
    listener, other = connect(), connect()
    assert ask(listener) == ask(other) == b"+PONG\r\n"
    listener.sendall(SUBSCRIBE)
    listener.settimeout(0.1)
    with pytest.raises(TimeoutError):
        listener.recv(1)
    assert ask(other) == b"+PONG\r\n"
    proxy.restore()
    listener.settimeout(5)
    assert listener.recv(1024).startswith(b"*3")


def test_client_of_a_dead_server_is_reset(connect, proxy):
    """The proxy does not answer in place of the server."""
    proxy.target = 1  # no server listens there
    with pytest.raises(ConnectionResetError):
        ask(connect())
