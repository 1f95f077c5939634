"""The lifespan of an application: its layers, its mounted consumers, and its end."""

from __future__ import annotations

import asyncio
import sys
from types import SimpleNamespace
from typing import ClassVar

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from fast_channels import lifespan as module
from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import ConsumerStateError, LayerUnavailable, UnknownLayer
from fast_channels.layers import (
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    RedisPubSubChannelLayer,
)
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import free_port
from tests.layers.support import RecordingLayer


@pytest.fixture
def own():
    """A registry other than the one of the process."""
    return ChannelLayerRegistry()


@pytest.fixture
def layer():
    return InMemoryChannelLayer()


# -- the start -----------------------------------------------------------------


async def test_lifespan_opens_and_closes_every_layer(own):
    """Each layer has one session."""
    layers = [RecordingLayer() for _ in range(3)]
    for n, layer in enumerate(layers):
        own.register(f"layer-{n}", layer)
    async with own.lifespan():
        assert [layer.broker.calls for layer in layers] == [[("start",)]] * 3
    assert [layer.broker.calls for layer in layers] == [[("start",), ("stop",)]] * 3


async def test_layer_with_two_aliases_is_opened_once(own):
    """The layer is also closed once."""
    layer = RecordingLayer()
    own.register("a", layer)
    own.register("b", layer)
    async with own.lifespan():
        assert len(layer.brokers) == 1
    assert layer.broker.calls == [("start",), ("stop",)]


async def test_lifespan_without_layers_is_fine(own):
    """The lifespan has no layer to open."""
    async with own.lifespan():
        pass


async def test_lifespan_takes_the_application(own):
    """Starlette passes the application to lifespan functions."""
    async with own.lifespan(Starlette()):
        pass


async def test_lifespan_may_come_again(own):
    """A test client enters it for every test."""
    layer = RecordingLayer()
    own.register("a", layer)
    for _ in range(3):
        async with own.lifespan():
            pass
    assert [broker.calls for broker in layer.brokers] == [[("start",), ("stop",)]] * 3


async def test_layers_are_closed_when_the_application_fails(own):
    """The error passes."""
    layer = RecordingLayer()
    own.register("a", layer)
    with pytest.raises(ZeroDivisionError):
        async with own.lifespan():
            raise ZeroDivisionError
    assert layer.broker.calls[-1] == ("stop",)


async def test_lifespan_fails_for_a_mounted_consumer_without_its_layer(registry):
    """The check needs no client: mounting is enough."""

    class LonelyConsumer(AsyncWebsocketConsumer):
        channel_layer_alias = "nowhere"

    app = Starlette(
        routes=[WebSocketRoute("/", LonelyConsumer.as_asgi())], lifespan=registry.lifespan
    )
    with pytest.raises(UnknownLayer, match=r"LonelyConsumer.*'nowhere'"):
        async with app.router.lifespan_context(app):
            raise AssertionError("the application must not start")


async def test_lifespan_fails_for_a_consumer_class_that_is_mounted_itself(own):
    """The error says how to mount it; the first client would only cause a TypeError."""

    class ForgottenConsumer(AsyncWebsocketConsumer):
        pass

    app = Starlette(routes=[WebSocketRoute("/", ForgottenConsumer)], lifespan=own.lifespan)
    with pytest.raises(ConsumerStateError, match=r"mount ForgottenConsumer\.as_asgi\(\)"):
        async with app.router.lifespan_context(app):
            raise AssertionError("the application must not start")


async def test_lifespan_fails_for_a_broker_that_does_not_answer(own):
    """The layers opened before are closed again, and the error names the address."""
    good = RecordingLayer()
    port = free_port()
    own.register("good", good)
    own.register("bad", RedisPubSubChannelLayer([f"redis://127.0.0.1:{port}"]))
    before = asyncio.all_tasks()
    with pytest.raises(LayerUnavailable, match=f"127.0.0.1:{port}"):
        async with own.lifespan():
            raise AssertionError("the application must not start")
    assert good.broker.calls == [("start",), ("stop",)]
    assert asyncio.all_tasks() == before


async def test_layer_that_was_registered_meanwhile_is_left_alone(own, layer):
    """The lifespan closes only the layers that it has opened."""
    first, second = RecordingLayer(), RecordingLayer()
    own.register("a", first)
    async with own.lifespan():
        own.unregister("a")
        own.register("b", second)
        await second.open()
    assert first.broker.calls == [("start",), ("stop",)]
    assert second.broker.calls == [("start",)]
    await second.close()


# -- the end -------------------------------------------------------------------


class Counted(AsyncWebsocketConsumer):
    """Counts its disconnects, and records whether the layer was open then."""

    channel_layer_alias = "chat"
    groups = ("room",)
    ends: ClassVar[list[int]] = []

    async def disconnect(self, code):
        self.ends.append(code)
        await self.channel_layer.group_send("room", {"type": "left"})


@pytest.fixture
async def visited(registry, monkeypatch):
    """Make a layer with connections, registered as `chat`."""
    monkeypatch.setattr(Counted, "ends", [])
    registry.register("chat", layer := RecordingLayer())
    clients = []

    async def visit(count=3):
        for _ in range(count):
            clients.append(WebsocketCommunicator(Counted.as_asgi(), "/"))
            await clients[-1].connect()
        return layer, clients

    yield visit
    registry.connections.resume()


async def test_end_of_the_lifespan_ends_connections_before_layers(registry, visited):
    """Their disconnect() may still send."""
    async with registry.lifespan():
        layer, clients = await visited()
    for client in clients:
        assert (await client.receive_output())["code"] == 1012
    assert Counted.ends == [1012] * 3
    assert layer.broker.count("publish", "room") == 3
    assert layer.broker.calls[-1] == ("stop",)
    assert len(layer.brokers) == 1


async def test_connections_are_taken_again_after_a_lifespan(registry, visited):
    """Tests of an application depend on it, and some have no lifespan of their own."""
    for _ in range(2):
        async with registry.lifespan():
            _, clients = await visited(1)
            assert not clients[-1].future.done()
    _, clients = await visited(1)
    assert not clients[-1].future.done()
    await registry.drain()
    assert Counted.ends == [1012] * 3


async def test_drain_ends_connections_and_closes_layers(registry, visited):
    """Two drains, even at once, are like one; new connections are turned away."""
    layer, _ = await visited()
    await asyncio.gather(registry.drain(timeout=5), registry.drain())
    await registry.drain()
    assert Counted.ends == [1012] * 3
    assert layer.broker.calls[-1] == ("stop",)
    _, (*_, late) = await visited(1)
    assert await late.receive_output() == {
        "type": "websocket.close",
        "code": 1012,
        "reason": "restarting",
    }
    assert len(layer.brokers) == 1
    async with registry.lifespan():
        _, (*_, new) = await visited(1)
        assert not new.future.done()


async def test_failing_application_drains_too(registry, visited):
    """The error passes when all connections have ended."""

    async def application():
        async with registry.lifespan():
            await visited()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await application()
    assert Counted.ends == [1012] * 3


async def test_lifespan_refuses_times_with_which_it_could_not_end(own):
    """The error comes at the start, not at the end of the application."""
    own.drain_timeout = 3
    with pytest.raises(ValueError, match=r"within 4.0 s.*after 3 s"):
        async with own.lifespan():
            raise AssertionError("the application must not start")


async def test_short_timeout_needs_no_spread(own):
    """The default spread is never longer than the timeout."""
    await own.drain(timeout=0.5)


# -- several workers -----------------------------------------------------------


@pytest.fixture
def child(monkeypatch):
    """Make this process the child of a server's parent process that was started as `number`."""

    def become(number, *arguments):
        process = SimpleNamespace(_identity=(number,))
        monkeypatch.setattr(module.multiprocessing, "parent_process", lambda: "the server's")
        monkeypatch.setattr(module.multiprocessing, "current_process", lambda: process)
        monkeypatch.setattr(sys, "argv", ["server", *arguments])

    return become


@pytest.mark.parametrize(("number", "warnings"), [(1, 0), (2, 1), (3, 0)])
async def test_second_worker_warns_of_a_layer_within_the_process(
    own, child, caplog, number, warnings
):
    """One worker warns for all; the warning names the layer, the problem and the remedy."""
    child(number)
    own.register("chat", InMemoryChannelLayer())
    own.register("other", RecordingLayer())
    async with own.lifespan():
        pass
    assert len(caplog.messages) == warnings
    for message in caplog.messages:
        assert "InMemoryChannelLayer 'chat'" in message
        assert "separate groups" in message
        assert "RedisPubSubChannelLayer" in message
        assert "other" not in message


@pytest.mark.parametrize("arguments", [["--reload"], ["dev", "main.py"]])
async def test_process_of_a_reloader_does_not_warn(own, child, caplog, arguments):
    """The reloader has started a second process, but only after the first one."""
    child(2, *arguments)
    own.register("chat", InMemoryChannelLayer())
    async with own.lifespan():
        pass
    assert caplog.messages == []


async def test_process_without_a_server_as_its_parent_does_not_warn(own, caplog):
    """Such a process is a script, a test, or a server with one process."""
    own.register("chat", InMemoryChannelLayer())
    async with own.lifespan():
        pass
    assert caplog.messages == []


async def test_workers_with_layers_that_leave_the_process_are_fine(own, child, caplog):
    """A broker connects the workers."""
    child(2)
    own.register("chat", RecordingLayer())
    async with own.lifespan():
        pass
    assert caplog.messages == []
