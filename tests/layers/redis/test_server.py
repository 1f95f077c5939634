"""The state of a server: one outage, however many connections it breaks."""

from __future__ import annotations

import logging
import time

import pytest

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.health import Health, combined
from fast_channels.layers.redis._server import Server, ServerState, health_of
from tests.layers.redis.support import outages


@pytest.fixture
def state(caplog):
    caplog.set_level(logging.INFO)
    return ServerState("redis://here")


def test_server_is_connecting_until_something_answers(state):
    """From then on the server is ready, without a word in the log."""
    before = time.time()
    assert state.health().state == "connecting"
    state.connected("control")
    health = state.health()
    assert (health.state, health.error) == ("ready", None)
    assert before <= health.since <= time.time()


def test_outage_is_one_although_many_connections_are_lost(state, caplog):
    """The outage ends when the last connection is back."""
    state.connected("reader")
    for connection in ("reader", "control", "reader"):
        state.lost(connection, ConnectionError(f"{connection} is gone"))
    state.connected("control")
    assert state.health().state == "degraded"
    state.connected("reader")
    assert state.health().state == "ready"
    assert outages(caplog) == [("WARNING", "lost"), ("INFO", "redis://here")]


def test_last_error_is_kept(state):
    """The error stays when all is well again, for a later look."""
    state.lost("reader", ConnectionError("first"))
    state.lost("control", LayerUnavailable("redis://here", "second"))
    state.connected("reader")
    state.connected("control")
    assert state.health().error == "second"


def test_error_without_words_is_named_by_its_type(state):
    """A TimeoutError says nothing of itself."""
    state.lost("reader", TimeoutError())
    assert state.health().error == "TimeoutError"


def test_nothing_is_said_after_closing(state, caplog):
    """The layer lets go, and its connections with it."""
    state.connected("reader")
    state.close()
    state.lost("reader", ConnectionError("cut"))
    state.connected("reader")
    assert state.health().state == "closed"
    assert outages(caplog) == []


@pytest.mark.parametrize(
    ("states", "whole"),
    [
        (["ready", "ready"], "ready"),
        (["ready", "connecting"], "connecting"),
        (["ready", "degraded", "connecting"], "degraded"),
        (["closed"], "closed"),
    ],
)
def test_whole_is_as_good_as_its_worst_part(states, whole):
    """One server that is lost is seen in the health of the layer."""
    servers = {str(n): Health(state, n, None) for n, state in enumerate(states)}
    health = combined(servers)
    assert (health.state, health.since) == (whole, states.index(whole))
    assert health.servers == servers


def test_error_of_any_part_is_shown():
    """That of the worst before that of another."""
    ready = Health("ready", 1, "long ago")
    assert combined({"a": ready, "b": Health("ready", 2)}).error == "long ago"
    assert combined({"a": ready, "b": Health("degraded", 2, "now")}).error == "now"


def test_servers_of_the_same_address_are_told_apart():
    """Databases of one server, and Sentinels that use one name: none hides another."""
    hosts = [{"address": f"redis://localhost/{database}?a=b"} for database in (1, 1)]
    servers = [Server(host) for host in hosts]
    servers[0].state.lost("reader", ConnectionError("gone"))
    health = health_of(servers)
    assert [one.state for one in health.values()] == ["degraded", "connecting"]
    assert list(health) == ["redis://localhost/1", "redis://localhost/1 (2)"]
