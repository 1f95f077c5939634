"""A connection is found by its addresses and ended; no other connection is affected."""

from __future__ import annotations

import contextlib
import socket

import pytest

from fast_channels.consumer.abort import DESCRIPTORS, abort


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=str)
def pairs(request):
    """Two connections of this process to one listener: (server's end, client's end) of each."""
    host, family = request.param
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, 0), family=family))
        except OSError:
            pytest.skip(f"this machine has no {host}")
        found = []
        for _ in range(2):
            client = stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
            server = stack.enter_context(listener.accept()[0])
            server.setblocking(False)
            client.settimeout(5)
            found.append((server, client))
        yield found


def scope(server, port=int):
    """Return a scope as servers write it; some write the port as a string."""
    ends = {"server": server.getsockname(), "client": server.getpeername()}
    return {end: (address[0], port(address[1])) for end, address in ends.items()}


def drain(client):
    while client.recv(65_536):
        pass


@pytest.mark.parametrize("port", [int, str])
def test_connection_is_ended_under_its_owner(pairs, port):
    """Both ends see it at once, even with unread data; the other connection stays open."""
    (server, client), (other, neighbour) = pairs
    with contextlib.suppress(BlockingIOError):
        while True:
            server.send(bytes(65_536))
    assert abort(scope(server, port)) is True
    with pytest.raises(OSError, match=r"."):
        server.send(b"more")
    other.send(b"fine")
    assert neighbour.recv(10) == b"fine"
    server.close()
    with pytest.raises(ConnectionResetError):
        drain(client)


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"server": None, "client": None},
        {"server": ("/tmp/socket", None), "client": None},
        {"server": ("127.0.0.1", 80), "client": ("203.0.113.9", 0)},
        {"server": ("127.0.0.1", 9), "client": ("203.0.113.9", 4711)},
    ],
    ids=["empty", "none", "unix", "behind a proxy", "of nobody"],
)
def test_connection_that_is_not_there_is_not_found(scope):
    """The search leaves no descriptor open."""
    before = len(list(DESCRIPTORS.iterdir()))
    assert abort(scope) is False
    assert len(list(DESCRIPTORS.iterdir())) == before
