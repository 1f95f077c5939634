"""The application of the security guide behaves as the guide says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time

import httpx
import pytest
import redis
import websockets
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import AsyncWebsocketConsumer, InMemoryChannelLayer, consumer
from fast_channels.exceptions import DenyConnection
from fast_channels.layers import RedisStreamsChannelLayer
from fast_channels.testing import ResumingCommunicator, WebsocketCommunicator
from tests.documents.support import ROOT, block_with
from tests.servers.support import PATIENCE, ServerProcess, closing, complaints

GUIDE = ROOT / "docs" / "security.md"
FOLDER = ROOT / "docs" / "examples" / "security"

OURS = (b"origin", b"https://chat.example.org")
SIGN_IN, NOT_A_MEMBER = 4401, 4403


class Clients:
    """Clients of the example's application, as any user. All leave in the end."""

    def __init__(self, main, accounts):
        self.app, self.main, self.accounts = main.app, main, accounts
        self._open = []
        accounts.members["tea"] = {"ada", "bob"}
        accounts.members["coffee"] = {"bob"}

    def sign_in(self, user, seconds=3600.0):
        """Return the secret of a new session."""
        secret = f"secret-of-{user}-{len(self.accounts.sessions)}"
        self.accounts.sessions[secret] = self.accounts.Session(user, time.time() + seconds)
        return secret

    async def connect(self, path, *headers):
        client = WebsocketCommunicator(self.app, path, headers=headers)
        assert (await client.connect(PATIENCE))[0]
        self._open.append(client)
        return client

    async def member(self, user, room="tea"):
        cookie = (b"cookie", f"theme=dark; session={self.sign_in(user)}".encode())
        return await self.connect(f"/ws/rooms/{room}", OURS, cookie)

    async def leave(self):
        for client in self._open:
            # Closed clients have ended already.
            with contextlib.suppress(Exception):
                await client.disconnect(timeout=PATIENCE)


async def ends_with(client):
    """Return the code of the close frame, which must be the next event."""
    event = await client.receive_output(PATIENCE)
    assert event["type"] == "websocket.close", event
    await client.wait(PATIENCE)
    return event["code"]


@pytest.fixture
async def clients(load_example, redis_url):
    main = load_example("security/main", REDIS_URL=redis_url)
    accounts = load_example("security/accounts")
    connecting = Clients(main, accounts)
    async with main.lifespan(main.app):
        yield connecting
        await connecting.leave()


class TestCookies:
    async def test_members_read_each_other(self, clients):
        """Both members read a message, with the name that the server has set."""
        ada, bob = await clients.member("ada"), await clients.member("bob")
        await ada.send_json_to({"text": "hello", "user": "bob", "type": "membership.ended"})
        for client in (ada, bob):
            assert await client.receive_json_from(PATIENCE) == {"user": "ada", "text": "hello"}

    @pytest.mark.parametrize("origin", [b"https://evil.example", None])
    async def test_page_of_another_site_is_rejected_though_it_has_the_cookie(self, clients, origin):
        """The handshake is rejected before the consumer runs."""
        headers = [(b"cookie", f"session={clients.sign_in('ada')}".encode())]
        headers += [(b"origin", origin)] if origin is not None else []
        client = WebsocketCommunicator(clients.app, "/ws/rooms/tea", headers=headers)
        assert not (await client.connect(PATIENCE))[0]

    @pytest.mark.parametrize("cookie", [b"", b"session=wrong", b"session=\x00;;=", b'session="'])
    async def test_client_without_a_session_is_told_to_sign_in(self, clients, cookie):
        """The client is accepted and closed, because a browser hides the reason of a rejection."""
        client = await clients.connect("/ws/rooms/tea", OURS, (b"cookie", cookie))
        assert await ends_with(client) == SIGN_IN

    async def test_session_that_is_over_is_none(self, clients):
        """The cookie of an expired session is rejected."""
        cookie = f"session={clients.sign_in('ada', seconds=-1)}".encode()
        client = await clients.connect("/ws/rooms/tea", OURS, (b"cookie", cookie))
        assert await ends_with(client) == SIGN_IN

    async def test_connection_ends_with_its_session(self, clients):
        """The connection is closed even if the client sends nothing."""
        cookie = f"session={clients.sign_in('ada', seconds=0.2)}".encode()
        client = await clients.connect("/ws/rooms/tea", OURS, (b"cookie", cookie))
        assert await ends_with(client) == SIGN_IN


class TestRooms:
    async def test_who_is_no_member_reads_nothing(self, clients):
        """A user who is not a member is closed with a code of the application."""
        assert await ends_with(await clients.member("ada", room="coffee")) == NOT_A_MEMBER

    async def test_who_is_removed_is_closed_and_others_stay(self, clients, load_example):
        """A removal closes open connections, too."""
        ada, bob = await clients.member("ada"), await clients.member("bob")
        sockets = load_example("security/sockets")
        await sockets.remove_member("tea", "ada")
        assert await ends_with(ada) == NOT_A_MEMBER
        await bob.send_json_to({"text": "alone"})
        assert await bob.receive_json_from(PATIENCE) == {"user": "bob", "text": "alone"}
        assert await ends_with(await clients.member("ada")) == NOT_A_MEMBER

    async def test_frame_that_is_too_large_closes(self, clients):
        """The connection is closed with 1009 before the frame is parsed."""
        ada = await clients.member("ada")
        await ada.send_json_to({"text": "x" * 4_001})
        assert await ends_with(ada) == 1009

    async def test_frames_that_are_too_many_close(self, clients):
        """The connection is closed with 1008."""
        ada = await clients.member("ada")
        for _ in range(60):
            await ada.send_json_to({})
        assert await ends_with(ada) == 1008


class TestTokens:
    async def test_program_shows_its_token_in_a_header(self, clients):
        """A program needs no origin, and its route ignores cookies."""
        token = clients.sign_in("ada").encode()
        program = await clients.connect("/ws/services/tea", (b"authorization", b"Bearer " + token))
        await program.send_json_to({"text": "beep"})
        assert await program.receive_json_from(PATIENCE) == {"user": "ada", "text": "beep"}
        thief = await clients.connect("/ws/services/tea", (b"cookie", b"session=" + token))
        assert await ends_with(thief) == SIGN_IN

    async def test_ticket_is_good_for_one_connection(self, clients):
        """A used ticket is rejected, so a ticket in a log is worthless."""
        transport = httpx.ASGITransport(clients.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://chat") as http:
            assert (await http.post("/ticket")).status_code == 401
            http.cookies.set("session", clients.sign_in("ada"))
            ticket = (await http.post("/ticket")).json()["ticket"]
        client = await clients.connect(f"/ws/tickets/tea?ticket={ticket}")
        await client.send_json_to({"text": "hello"})
        assert await client.receive_json_from(PATIENCE) == {"user": "ada", "text": "hello"}
        for again in (f"ticket={ticket}", "ticket=", "", "ticket=wrong"):
            assert await ends_with(await clients.connect(f"/ws/tickets/tea?{again}")) == SIGN_IN

    async def test_ticket_is_forgotten_by_itself(self, clients, redis_url):
        """The server keeps a ticket for at most half a minute."""
        ticket = await clients.accounts.tickets.issue(clients.sign_in("ada"))
        with redis.Redis.from_url(redis_url) as server:
            assert 0 < server.ttl(f"ticket:{ticket}") <= 30

    async def test_nobody_receives_before_the_first_message(self, clients):
        """Messages arrive only after the client has signed in."""
        layer = clients.main.channel_layers["rooms"]
        client = await clients.connect("/ws/first-message")
        await layer.group_send("user.ada", {"type": "notice", "text": "for ada"})
        assert await client.receive_nothing(timeout=0.05)
        await client.send_json_to({"token": clients.sign_in("ada")})
        assert await client.receive_json_from(PATIENCE) == {"signed_in": "ada"}
        await layer.group_send("user.ada", {"type": "notice", "text": "for ada"})
        assert await client.receive_json_from(PATIENCE) == {"notice": "for ada"}

    @pytest.mark.parametrize("frame", ['{"token": "wrong"}', '{"token": 1}', "[]", '"x"'])
    async def test_first_message_without_a_token_closes(self, clients, frame):
        """Any first frame without a valid token closes the connection."""
        client = await clients.connect("/ws/first-message")
        await client.send_to(text_data=frame)
        assert await ends_with(client) == SIGN_IN

    async def test_who_does_not_sign_in_is_closed(self, clients, load_example, monkeypatch):
        """A client that does not sign in in time is closed."""
        sockets = load_example("security/sockets")
        monkeypatch.setattr(sockets.FirstMessageConsumer, "patience", 0.05)
        client = await clients.connect("/ws/first-message")
        assert await ends_with(client) == SIGN_IN


# -- over a real server ----------------------------------------------------------


class SecuredServer(ServerProcess):
    folder = FOLDER
    application = "main:app"


async def test_what_ends_up_in_logs_of_a_real_server(tmp_path, redis_url):
    """Uvicorn logs the query string even without its access log; this library does not."""
    command = "uvicorn --port {port} --no-access-log {application}"
    environment = {"REDIS_URL": redis_url}
    server = SecuredServer("uvicorn", tmp_path / "log", command=command, environment=environment)
    try:
        url = f"ws://127.0.0.1:{server.port}"
        async with websockets.connect(f"{url}/ws/tickets/tea?ticket=a-ticket") as client:
            assert (await closing(client))[0] == SIGN_IN
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(f"{url}/ws/rooms/tea", origin="https://evil.example")
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(f"{url}/ws/rooms/tea")
        origin = "https://chat.example.org"
        async with websockets.connect(f"{url}/ws/rooms/tea", origin=origin) as client:
            assert (await closing(client))[0] == SIGN_IN
    finally:
        await asyncio.to_thread(server.stop)
    lines = server.output.splitlines()
    ours = [line for line in lines if "fast_channels.consumer" in line]
    assert ours
    assert [line for line in ours if "a-ticket" in line] == []
    theirs = [line for line in lines if "a-ticket" in line]
    assert theirs
    assert all('"WebSocket /ws/tickets/tea?ticket=a-ticket"' in line for line in theirs)
    assert complaints(server.output) == []
    # The line that the guide shows, but for addresses and times.
    (shown,) = [line for line in GUIDE.read_text().splitlines() if "RoomConsumer closed:" in line]
    assert generic(shown) in map(generic, ours)


def generic(line):
    """Return a line of the log without the parts that differ each time."""
    return re.sub(r"client=\S+|after=\S+", "", line)


# -- other statements of the guide ---------------------------------------------------


async def test_type_that_a_client_may_choose_calls_any_handler(registry):
    """A frame that is sent on as a message closes the connection of another client."""
    space: dict = {}
    registry.register("default", InMemoryChannelLayer())
    exec(block_with(GUIDE, "class Careless"), space)
    victim = WebsocketCommunicator(space["Careless"].as_asgi(), "/")
    client = WebsocketCommunicator(space["Careless"].as_asgi(), "/")
    await victim.connect()
    await client.connect()
    await client.send_json_to({"type": "close"})
    await client.send_json_to({"type": "member.removed"})
    assert await ends_with(victim) == 1000
    assert registry["default"].statistics().unknown_type == 2
    await client.wait()


async def test_groups_of_the_class_are_delivered_before_a_first_message(registry):
    """Groups of the class deliver before a client could sign in."""

    class Early(AsyncWebsocketConsumer):
        channel_layer_alias = "default"
        groups = ("room",)

        async def said(self, message):
            await self.send(message["text"])

    registry.register("default", InMemoryChannelLayer())
    client = WebsocketCommunicator(Early.as_asgi(), "/")
    await client.connect()
    await registry["default"].group_send(
        "room", {"type": "said", "text": "to nobody in particular"}
    )
    assert await client.receive_from() == "to nobody in particular"
    await client.disconnect()


async def test_middleware_of_http_is_not_asked_for_websockets(registry):
    """Starlette calls HTTP middleware for requests only, not for WebSockets."""
    asked = []
    app = FastAPI(routes=[WebSocketRoute("/ws", AsyncWebsocketConsumer.as_asgi())])

    @app.middleware("http")
    async def check(request, call_next):
        asked.append(request.url.path)
        return await call_next(request)

    client = WebsocketCommunicator(app, "/ws")
    assert (await client.connect())[0]
    await client.disconnect()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as http:
        await http.get("/page")
    assert asked == ["/page"]


async def test_member_who_is_admitted_again_gets_what_was_said_meanwhile(registry):
    """A member who is admitted again receives the messages of the time in between."""
    banned = set()

    class Room(AsyncWebsocketConsumer):
        channel_layer_alias = "default"
        resumable = True

        async def connect(self):
            if banned:
                raise DenyConnection
            await self.join_group("room")
            await self.accept()

        async def said(self, message):
            await self.send(message["text"])

    registry.register("default", InMemoryChannelLayer(history_size=10))
    async with registry["default"] as layer:
        client = ResumingCommunicator(Room.as_asgi(), "/")
        await client.connect()
        await client.receive_told()
        await client.cut()
        banned.add("everybody")
        stranger = WebsocketCommunicator(Room.as_asgi(), "/")
        assert not (await stranger.connect())[0]
        await layer.group_send("room", {"type": "said", "text": "not for its ears"})
        banned.clear()
        client = await client.again()
        assert await client.receive_from() == "not for its ears"
        await client.cut()


async def test_what_is_encrypted_and_what_is_not(redis_url):
    """Payloads are unreadable on the server; names of groups are readable."""
    space: dict = {}
    block = block_with(GUIDE, "symmetric_encryption_keys")
    exec(block.replace("redis://localhost:6379", redis_url), space)
    layer = space["layer"]
    assert isinstance(layer, RedisStreamsChannelLayer)
    async with layer:
        await layer.group_send("diagnoses", {"type": "x", "text": "a-secret-text"})
        await layer.send("letters", {"type": "x", "text": "a-secret-text"})
        with redis.Redis.from_url(redis_url) as server:
            names = server.keys("*")
            stored = b"".join(server.dump(name) for name in names)
        history = await layer.history("diagnoses")
    assert b"a-secret-text" not in stored
    assert any(b"diagnoses" in name for name in names)
    assert [message["text"] for _, message in history.messages] == ["a-secret-text"]


async def test_keys_are_changed_without_losing_messages(redis_url):
    """The first key encrypts, and all keys decrypt."""
    options = {"hosts": [redis_url], "history_size": 10}
    async with RedisStreamsChannelLayer(symmetric_encryption_keys=["old"], **options) as before:
        await before.group_send("g", {"type": "x", "text": "before"})
    async with RedisStreamsChannelLayer(
        symmetric_encryption_keys=["new", "old"], **options
    ) as after:
        history = await after.history("g")
    assert [message["text"] for _, message in history.messages] == ["before"]


def test_rows_of_limits_are_attributes_with_these_defaults():
    """Each limit in the table is an attribute of the class, with the default of the table."""
    rows = 0
    for line in GUIDE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].startswith("`Async"):
            owner = getattr(consumer, cells[0].strip("`"))
            default = getattr(owner, cells[1].strip("`"))
            shown = cells[2].replace(",", "").split()[0]
            assert shown == ("none" if default is None else f"{default:.0f}"), line
            rows += 1
    assert rows >= 7
