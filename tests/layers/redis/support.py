"""Looking at a server from outside, and interrupting it."""

from __future__ import annotations

import contextlib
import os
import signal

import redis

from fast_channels.layers.redis._client import Client
from fast_channels.layers.redis._hosts import describe
from fast_channels.layers.redis._server import ServerState


def names_of_clients(url):
    """Return the names of all connections to a server."""
    with redis.Redis.from_url(url) as client:
        return [entry["name"] for entry in client.client_list()]


def last_commands(url):
    """Return the last command of every connection to a server."""
    with redis.Redis.from_url(url) as client:
        return [entry["cmd"] for entry in client.client_list()]


def subscribers(client):
    """Return how many connections have subscriptions."""
    return sum(entry["sub"] != "0" for entry in client.client_list())


def cut(client, *kinds):
    """Let the server close all connections, or all of some kinds, except this client's."""
    for kind in kinds or ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def client_of(host, **options):
    """Return a client of a server."""
    return Client(host, ServerState(describe(host)), **options)


@contextlib.contextmanager
def paused(server):
    """The server takes connections and commands, but answers none."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def outages(caplog):
    """Return the levels and first words of the log records about connections."""
    records = [r for r in caplog.records if r.name == "fast_channels.layers.redis"]
    return [(r.levelname, r.getMessage().split()[0]) for r in records]
