"""docs/recipes/jwt.md."""

from __future__ import annotations

import asyncio
import time

import jwt
import pytest
from websockets.exceptions import ConnectionClosedError

from fast_channels.testing import WebsocketCommunicator
from tests.recipes.support import PATIENCE


@pytest.fixture
async def server(serve):
    return await serve("jwt")


@pytest.fixture
def token(server):
    return server.module.token_for


async def test_token_is_found_beside_the_resume_protocol(server, token):
    """A client that may resume offers that protocol as well."""
    offered = ["fast-channels.resume.v1", "bearer", token("ada")]
    async with server.socket("/ws/members", subprotocols=offered) as socket:
        assert socket.connection.subprotocol == "bearer"
        await socket.send({"text": "hello"})
        assert await socket.next() == {"user": "ada", "text": "hello"}


def bearer(token):
    return {"subprotocols": ["bearer", token]}


async def test_member_with_a_token_takes_part(server, token):
    """The token may be the first frame or a sub-protocol."""
    async with (
        server.socket("/ws/members") as first,
        server.socket("/ws/members", **bearer(token("bob"))) as second,
    ):
        assert second.connection.subprotocol == "bearer"
        await first.send({"token": token("ada")})
        await first.send({"text": "hello"})
        assert await first.next() == await second.next() == {"user": "ada", "text": "hello"}


async def test_token_that_expires_during_the_connection_closes_it(server, token, monkeypatch):
    """The code is 4401, as soon as the token expires."""
    soon = {"sub": "ada", "exp": time.time() + 0.1}
    monkeypatch.setattr(server.module, "claims_of", lambda _: soon)
    async with server.socket("/ws/members", **bearer(token("ada"))) as socket:
        assert await socket.closed() == (4401, "the token has expired")
    assert time.time() >= soon["exp"]


async def test_newer_token_keeps_the_connection_open(load_recipe):
    """The timer of the first token is cancelled; another runs until the newer one expires."""
    module = load_recipe("jwt")
    consumer = module.MemberConsumer()
    offered = ["bearer", module.token_for("ada", 60)]
    client = WebsocketCommunicator(consumer, "/", subprotocols=offered)
    await client.connect()
    await client.send_json_to({"text": "hello"})
    await client.receive_json_from()
    first = consumer.timer
    await client.send_json_to({"token": module.token_for("ada", 300)})
    await client.send_json_to({"text": "still here"})
    assert await client.receive_json_from() == {"user": "ada", "text": "still here"}
    assert first.cancelled()
    assert not consumer.timer.done()
    await client.disconnect()
    await asyncio.wait([consumer.timer], timeout=PATIENCE)
    assert consumer.timer.cancelled()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda module: module.token_for("ada", -1), "Signature has expired"),
        (lambda module: module.token_for("ada") + "x", "Signature verification failed"),
        (
            lambda module: jwt.encode({"sub": "ada", "exp": 9e9}, "k" * 32),
            "Signature verification failed",
        ),
        (lambda module: jwt.encode({"sub": "ada"}, module.KEY), 'Token is missing the "exp" claim'),
        (
            lambda module: jwt.encode({"sub": "ada", "exp": 9e9}, "", algorithm="none"),
            "The specified alg value is not allowed",
        ),
        (lambda module: "no-token", "Not enough segments"),
    ],
    ids=["expired", "changed", "another key", "for ever", "unsigned", "none at all"],
)
async def test_token_that_is_not_to_be_believed_closes_with_4401(load_recipe, make, reason):
    """The reason says why."""
    module = load_recipe("jwt")
    client = WebsocketCommunicator(
        module.MemberConsumer.as_asgi(), "/", subprotocols=["bearer", make(module)]
    )
    assert await client.connect() == (True, "bearer")
    close = await client.receive_output()
    assert (close["type"], close["code"], close["reason"]) == ("websocket.close", 4401, reason)
    await client.wait()


async def test_nobody_is_sent_nothing(server, token, monkeypatch):
    """A client without a token joins no group, and the server closes it after a while."""
    monkeypatch.setattr(server.module, "TOKEN_TIMEOUT_SECONDS", 0.1)
    async with (
        server.socket("/ws/members") as nobody,
        server.socket("/ws/members", **bearer(token("ada"))) as ada,
    ):
        await ada.send({"text": "for members"})
        await ada.next()
        # The first event that the client gets is the close.
        with pytest.raises(ConnectionClosedError, match="no token came"):
            await nobody.next()
        assert nobody.connection.close_code == 4401


async def test_frame_before_the_token_closes(server):
    """The frame is not handled."""
    async with server.socket("/ws/members") as socket:
        await socket.send({"text": "hello"})
        assert await socket.closed() == (4400, "send a token, then texts")


async def test_token_of_somebody_else_closes(server, token):
    """A connection belongs to one user."""
    async with server.socket("/ws/members", **bearer(token("ada"))) as socket:
        await socket.send({"token": token("bob")})
        assert await socket.closed() == (4401, "the token belongs to another user")
