"""The example of customizing: a user's own layer, consumer, script and broadcast."""

from __future__ import annotations

import pytest

from fast_channels.layers import InMemoryChannelLayer, RedisPubSubChannelLayer
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import free_port
from sandbox.customizing.consumer import MonitoringConsumer
from tests.showcase.support import WebServer, run_module


@pytest.fixture(scope="module")
def customized(broker, logs):
    log = logs / "customized.log"
    with WebServer(log, broker.url, app="sandbox.customizing.main:app") as server:
        yield server


async def test_consumer_routes_by_the_type_of_the_message(customized):
    """Each type has its method, and the client gets the requested messages."""
    async with customized.socket("monitoring") as client:
        await client.send_json({"type": "ping"})
        assert await client.next_json() == {"type": "pong"}
        await client.send_json({"type": "watch", "severity": "high"})
        assert await client.next_json() == {"type": "watching", "severity": "high"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "type is None, accepted are ping, watch, alert"),
        ({"type": "receive"}, "type is 'receive', accepted are ping, watch, alert"),
        ({"type": {}}, "type is {}, accepted are"),
        ({"type": "watch", "severity": "loud"}, "severity is 'loud', accepted are low, medium"),
        ({"type": "alert", "severity": "low"}, "message is None, accepted is a string"),
        ({"type": "alert", "severity": [], "message": "x"}, "severity is [], accepted are"),
    ],
)
async def test_message_without_a_route_is_answered_with_a_sentence(customized, content, said):
    """The answer has the value and the accepted ones."""
    async with customized.socket("monitoring") as client:
        await client.send_json(content)
        answer = await client.next_json()
        assert answer["type"] == "error"
        assert said in answer["message"]


async def test_alert_is_broadcast_over_several_layers(customized):
    """Watchers, notifications and the chat all get it."""
    async with (
        customized.socket("monitoring") as watcher,
        customized.socket("notifications") as notifications,
        customized.socket("chat") as chat,
    ):
        await watcher.send_json({"type": "alert", "severity": "high", "message": "disk is full"})
        expected = {"type": "alert", "severity": "high", "message": "disk is full"}
        assert await watcher.next_json() == expected
        assert (await notifications.next_json())["message"] == "disk is full"
        assert await chat.next() == "monitoring: disk is full"


async def test_alert_that_a_broker_does_not_take_is_answered_with_a_sentence(registry):
    """Layers of other brokers deliver it, and the connection continues."""
    registry.register("monitoring", InMemoryChannelLayer())
    for alias in ("notifications", "chat"):
        nowhere = f"redis://127.0.0.1:{free_port()}"
        registry.register(alias, RedisPubSubChannelLayer([nowhere]))
    client = WebsocketCommunicator(MonitoringConsumer.as_asgi(), "/")
    await client.connect()
    await client.send_json_to({"type": "alert", "severity": "high", "message": "no disk"})
    answers = [await client.receive_json_from(timeout=5) for _ in range(2)]
    assert [answer["type"] for answer in answers] == ["error", "alert"]
    assert "does not answer" in answers[0]["message"]
    await client.disconnect()


async def test_outside_script_alerts_those_who_watch_for_it(customized):
    """A client that watches for errors only does not get a less severe alert."""
    async with customized.socket("monitoring") as client:
        await client.send_json({"type": "watch", "severity": "high"})
        await client.next_json()
        for severity in ("medium", "high"):
            done = run_module(
                *("sandbox.customizing.send_alert", f"a {severity}", "--severity", severity),
                redis_url=customized.redis_url,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout == f"alert sent ({severity}): a {severity}\n"
        expected = {"type": "alert", "severity": "high", "message": "a high"}
        assert await client.next_json() == expected


def test_outside_script_without_a_broker_prints_one_line():
    """The script prints no traceback, and its exit code is 1."""
    url = f"redis://127.0.0.1:{free_port()}"
    done = run_module("sandbox.customizing.send_alert", "x", redis_url=url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("send_alert: ")
    assert "does not answer" in line
