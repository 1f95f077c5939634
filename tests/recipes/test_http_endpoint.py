"""docs/recipes/http-endpoint.md."""

from __future__ import annotations

import asyncio

import pytest

from fast_channels.exceptions import LayerUnavailable


@pytest.fixture
async def server(serve):
    return await serve("http-endpoint")


async def test_who_watches_an_order_hears_of_a_change(server):
    """All clients of that order hear it, from async endpoints and from threads; no others do."""
    async with (
        server.socket("/ws/orders/7") as one,
        server.socket("/ws/orders/7") as two,
        server.socket("/ws/orders/8") as other,
    ):
        for socket in (one, two, other):
            assert await socket.next() == {"status": "unknown"}
        await server.request("PUT", "/orders/7", params={"status": "paid"})
        await server.request("DELETE", "/orders/7")
        for socket in (one, two):
            assert await socket.next() == {"status": "paid"}
            assert await socket.next() == {"status": "cancelled"}
        await server.request("PUT", "/orders/8", params={"status": "sent"})
        assert await other.next() == {"status": "sent"}


async def test_who_comes_later_is_sent_the_present_status(server):
    """The stored status makes up for messages that were sent before the client came."""
    await server.request("PUT", "/orders/7", params={"status": "paid"})
    async with server.socket("/ws/orders/7") as socket:
        assert await socket.next() == {"status": "paid"}


async def test_change_while_the_status_is_read_is_not_missed(server, monkeypatch):
    """The consumer joins first, so a later change arrives through the layer."""
    reading, changed = asyncio.Event(), asyncio.Event()
    consumer = server.module.OrderConsumer
    accept = consumer.accept

    async def slow_accept(self):
        reading.set()
        await changed.wait()
        await accept(self)

    monkeypatch.setattr(consumer, "accept", slow_accept)
    async with asyncio.TaskGroup() as group:

        async def watch():
            async with server.socket("/ws/orders/7") as socket:
                return [await socket.next(), await socket.next()]

        watching = group.create_task(watch())
        await reading.wait()
        await server.request("PUT", "/orders/7", params={"status": "paid"})
        changed.set()
    assert watching.result() == [{"status": "paid"}, {"status": "paid"}]


async def test_outage_of_the_broker_does_not_fail_the_change(server, monkeypatch, caplog):
    """The order is changed; the log says that no client was notified."""

    async def unavailable(*_):
        raise LayerUnavailable("the broker", "refused")

    monkeypatch.setattr(server.module.channel_layers["orders"], "group_send", unavailable)
    answer = await server.request("PUT", "/orders/7", params={"status": "paid"})
    assert answer == {"status": "paid"}
    assert server.module.STATUS[7] == "paid"
    assert "clients were not told that order 7 is paid" in caplog.text
