"""docs/troubleshooting.md quotes the real output of every entry."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import re
import socket
import subprocess
import sys
import traceback
import uuid
from typing import ClassVar

import pytest
import redis
import uvicorn
import websockets
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

from fast_channels import lifespan as lifespan_module
from fast_channels.cli import main as command_line
from fast_channels.consumer import AsyncConsumer, AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from fast_channels.consumer.limits import RateLimit
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)
from fast_channels.layers import (
    registry as registry_module,
)
from fast_channels.layers.broker import Outage
from fast_channels.layers.sync import SyncChannelLayer
from fast_channels.middleware import OriginValidator
from fast_channels.routing import ChannelNameRouter
from fast_channels.testing import WebsocketCommunicator
from fast_channels.testing.server import ValkeyServer, free_port
from fast_channels.worker import Worker
from tests.consumer.support import FragileLayer
from tests.documents.support import ROOT, RUN_BY, all_blocks
from tests.tutorial.support import assert_printed

PAGE = ROOT / "docs" / "troubleshooting.md"

# Seconds after which a test gives up.
PATIENCE = 15.0


class ChatConsumer(AsyncWebsocketConsumer):
    channel_layer_alias = "chat"
    groups: ClassVar[list[str]] = ["lobby"]

    async def receive(self, text_data=None, bytes_data=None):
        await self.channel_layer.group_send("lobby", {"type": "chat.message", "text": text_data})

    async def chat_message(self, message):
        await self.send(message["text"])


@pytest.fixture
def is_quoted(request):
    """Return a function that compares output with the block of this test, and must be called."""
    (quote,) = [
        block.text
        for block in all_blocks(PAGE)
        if (mark := RUN_BY.fullmatch(block.mark)) and mark["test"] == request.node.originalname
    ]
    compared = []

    def compare(output: str) -> None:
        assert_printed(quote, output)
        compared.append(output)

    yield compare
    assert compared, "nothing was compared with the page"


def printed(error: BaseException) -> str:
    """Return the last lines of the traceback."""
    return "".join(traceback.format_exception_only(error))


@contextlib.contextmanager
def raised():
    """Yield a list that has the printed error after the block."""
    lines: list[str] = []
    with pytest.raises(Exception) as caught:
        yield lines
    lines.append(printed(caught.value))


async def failure_of(call) -> str:
    """Return the printed error of a coroutine."""
    with raised() as lines:
        await call
    return lines[0]


def application(*endpoints, registry):
    """Return an application with endpoints at /0, /1, ..., and the lifespan of the layers."""
    routes = [WebSocketRoute(f"/{n}", endpoint) for n, endpoint in enumerate(endpoints)]
    return FastAPI(routes=routes, lifespan=registry.lifespan)


async def start(app: FastAPI) -> None:
    async with app.router.lifespan_context(app):
        pass


@contextlib.asynccontextmanager
async def served(app, **options):
    """Run a real server in this process, and yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, **options))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        async with asyncio.timeout(PATIENCE):
            while not server.started:
                await asyncio.sleep(0.005)
        yield listening.getsockname()[1]
        server.should_exit = True
        await serving


@contextlib.asynccontextmanager
async def connected(consumer_class, *, path="/"):
    """Connect a client to a consumer for the length of the block."""
    client = WebsocketCommunicator(consumer_class.as_asgi(), path)
    assert (await client.connect())[0]
    yield client
    await client.disconnect()


async def until_logged(caplog, text: str) -> None:
    """Wait for a line in the log."""
    async with asyncio.timeout(PATIENCE):
        while text not in caplog.text:
            await asyncio.sleep(0.005)


# -- at the start ----------------------------------------------------------------------


async def test_layer_that_is_not_registered(is_quoted, registry):
    """The consumer of a route names a layer that is not registered."""
    registry.register("notifications", InMemoryChannelLayer())
    is_quoted(await failure_of(start(application(ChatConsumer.as_asgi(), registry=registry))))


def test_groups_without_a_layer(is_quoted):
    """The class has groups and no alias."""

    class RoomConsumer(AsyncWebsocketConsumer):
        groups: ClassVar[list[str]] = ["lobby"]

    with raised() as lines:
        RoomConsumer.as_asgi()
    is_quoted(lines[0])


async def test_broker_that_does_not_answer(is_quoted, registry):
    """No server listens at the address."""
    registry.register("chat", RedisPubSubChannelLayer([f"redis://127.0.0.1:{free_port()}"]))
    is_quoted(await failure_of(start(application(ChatConsumer.as_asgi(), registry=registry))))


def test_hosts_that_are_no_list_of_addresses(is_quoted):
    """A string instead of a list, and an address without a scheme, are errors."""
    with raised() as single:
        RedisPubSubChannelLayer("redis://localhost:6379")
    with raised() as schemeless:
        RedisPubSubChannelLayer(["localhost:6379"])
    is_quoted(single[0] + schemeless[0])


def test_layer_that_is_a_class(is_quoted, registry):
    """A class instead of a layer is an error."""
    with raised() as lines:
        registry.register("chat", InMemoryChannelLayer)
    is_quoted(lines[0])


def test_redis_that_is_not_installed(is_quoted):
    """Only classes that need redis cannot be imported."""
    program = "from fast_channels.layers import RedisChannelLayer"
    program = f"import sys; sys.modules['redis'] = None; {program}"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    is_quoted(done.stderr)


def test_add_websocket_route_is_gone(is_quoted):
    """Starlette has removed the method, and FastAPI with it."""
    with raised() as lines:
        FastAPI().add_websocket_route("/ws/chat", ChatConsumer.as_asgi())
    is_quoted(lines[0])


async def test_consumer_that_is_decorated(is_quoted, registry):
    """A consumer decorated like a FastAPI function is an error."""
    app = FastAPI(lifespan=registry.lifespan)
    app.websocket("/ws/chat")(ChatConsumer.as_asgi())
    is_quoted(await failure_of(start(app)))


async def test_consumer_class_as_a_route(is_quoted, registry):
    """A class without as_asgi() is an error."""
    is_quoted(await failure_of(start(application(ChatConsumer, registry=registry))))


async def test_consumer_object_as_a_route(is_quoted, registry):
    """A consumer object refuses its second client."""
    registry.register("chat", InMemoryChannelLayer())
    consumer = ChatConsumer()
    client = WebsocketCommunicator(consumer, "/")
    assert (await client.connect())[0]
    is_quoted(await failure_of(WebsocketCommunicator(consumer, "/").connect()))
    await client.disconnect()


async def test_several_workers_with_layers_in_memory(is_quoted, registry, monkeypatch, caplog):
    """The second of them says so."""
    registry.register("chat", InMemoryChannelLayer())
    monkeypatch.setattr(lifespan_module, "is_second_worker", lambda: True)
    await start(application(registry=registry))
    is_quoted(caplog.text)


async def test_port_that_is_taken(is_quoted, caplog):
    """Another server already uses the port."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = uvicorn.Config(FastAPI(), port=other.getsockname()[1], log_config=None)
        with pytest.raises(SystemExit):
            await uvicorn.Server(config).serve()
    is_quoted(caplog.text)


async def test_server_without_a_websocket_library(is_quoted, caplog):
    """Without a WebSocket library, uvicorn serves pages but no sockets."""
    async with served(FastAPI(), ws="none", http="h11") as port:
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(f"ws://127.0.0.1:{port}/ws/chat")
    is_quoted(caplog.text)


# -- sending ----------------------------------------------------------------------------


async def test_group_name_with_other_characters(is_quoted):
    """A group name that a client chose may be invalid."""
    async with InMemoryChannelLayer() as layer:
        send = layer.group_send("room 1", {"type": "chat.message"})
        is_quoted(await failure_of(send))


async def test_values_that_cannot_travel(is_quoted):
    """Each error has the path of the value, and a remedy."""
    messages = [
        {"type": "chat.message", "at": dt.date(2026, 5, 1)},
        {"type": "chat.message", "user": {"id": uuid.uuid4()}},
        {"type": "chat.message", "scores": {7: 1200}},
    ]
    async with InMemoryChannelLayer() as layer:
        is_quoted("".join([await failure_of(layer.group_send("lobby", m)) for m in messages]))


async def test_message_that_is_too_large(is_quoted):
    """A picture, for example, exceeds the limit."""
    async with InMemoryChannelLayer() as layer:
        message = {"type": "chat.message", "picture": b"x" * 2_000_000}
        is_quoted(await failure_of(layer.group_send("lobby", message)))


async def test_channel_that_is_full(is_quoted, redis_url):
    """Without a worker, a channel reaches its capacity."""
    async with RedisStreamsChannelLayer([redis_url], capacity=1) as layer:
        await layer.send("mails", {"type": "mail.send"})
        is_quoted(await failure_of(layer.send("mails", {"type": "mail.send"})))


async def test_layer_that_cannot_do_that(is_quoted, registry, redis_url):
    """Work, history and resume need a layer that stores messages."""

    class DurableChat(ChatConsumer):
        resumable = True

    layer = RedisPubSubChannelLayer([redis_url])
    registry.register("chat", layer)
    resumable = await failure_of(start(application(DurableChat.as_asgi(), registry=registry)))
    async with layer:
        history = await failure_of(layer.history("lobby"))
        work = await failure_of(layer.take("mails").__aenter__())
    is_quoted(resumable + history + work)


async def test_channel_of_another_process(is_quoted, redis_url):
    """Only the process of a channel can add it to groups."""
    async with (
        RedisPubSubChannelLayer([redis_url]) as one,
        RedisPubSubChannelLayer([redis_url]) as other,
    ):
        is_quoted(await failure_of(one.group_add("lobby", await other.new_channel())))


async def test_broker_that_refuses(is_quoted, redis_url):
    """Another program uses a key of the layer."""
    with redis.Redis.from_url(redis_url) as connection:
        connection.set("asgi:group:lobby", "not a group")
    async with RedisChannelLayer([redis_url]) as layer:
        is_quoted(await failure_of(layer.group_send("lobby", {"type": "chat.message"})))


async def test_sync_layer_on_a_running_loop(is_quoted):
    """A blocking call would stop the loop that has to complete it."""
    async with InMemoryChannelLayer() as layer:
        with raised() as lines:
            SyncChannelLayer(layer).group_send("lobby", {"type": "chat.message"})
    is_quoted(lines[0])


# -- in the log ------------------------------------------------------------------------


async def test_message_without_a_handler(is_quoted, registry, caplog):
    """Messages without a handler, with a reserved type and without a type are skipped."""
    layer = InMemoryChannelLayer()
    registry.register("chat", layer)
    async with connected(ChatConsumer) as client:
        for type_ in ({"type": "chat.massage"}, {"type": "close"}, {"text": "no type"}):
            await layer.group_send("lobby", type_)
        await layer.group_send("lobby", {"type": "chat.message", "text": "after"})
        assert await client.receive_from() == "after"
    is_quoted(caplog.text)


async def test_handler_that_is_no_coroutine_is_none(registry, caplog):
    """A method that returns nothing to await is not a handler, as the page says."""

    class Blocking(ChatConsumer):
        def chat_message(self, message):
            """Return None."""

    layer = InMemoryChannelLayer()
    registry.register("chat", layer)
    async with connected(Blocking):
        await layer.group_send("lobby", {"type": "chat.message", "text": "x"})
        await until_logged(caplog, "has no handler for message type 'chat.message'")


async def test_handler_that_fails(is_quoted, registry, caplog):
    """The log has the traceback, and the connection is closed."""
    layer = InMemoryChannelLayer()
    registry.register("chat", layer)
    async with connected(ChatConsumer) as client:
        await layer.group_send("lobby", {"type": "chat.message"})
        assert (await client.receive_output())["code"] == 1011
    is_quoted(caplog.text)


async def test_consumer_that_sends_before_it_accepts(is_quoted, caplog):
    """An overridden connect() has to call accept()."""

    class GreetingConsumer(AsyncWebsocketConsumer):
        async def connect(self):
            await self.send("welcome")

    client = WebsocketCommunicator(GreetingConsumer.as_asgi(), "/")
    assert await client.connect() == (False, 1011)
    is_quoted(caplog.text)


async def test_connection_to_the_broker_that_is_lost(is_quoted, caplog):
    """An outage logs one line at its begin and one at its end."""
    caplog.set_level(logging.INFO)
    with ValkeyServer() as server:
        async with RedisPubSubChannelLayer([server.url]) as layer:
            await layer.group_add("lobby", await layer.new_channel())
            await asyncio.to_thread(server.kill)
            await until_logged(caplog, "trying to connect again")
            await asyncio.to_thread(server.start)
            await until_logged(caplog, "is back")
    is_quoted(caplog.text)


async def test_payload_of_somebody_else(is_quoted, redis_url, caplog):
    """A process with the same prefix and another format sends unreadable payloads."""
    async with (
        RedisPubSubChannelLayer([redis_url]) as layer,
        RedisPubSubChannelLayer([redis_url], serializer_format="json") as other,
    ):
        await layer.group_add("lobby", await layer.new_channel())
        await other.group_send("lobby", {"type": "chat.message"})
        await until_logged(caplog, "skipped a payload")
    is_quoted(caplog.text)


async def test_handler_that_outlasts_the_drain(is_quoted, registry, caplog):
    """A handler that runs too long is cancelled."""

    class SlowConsumer(AsyncWebsocketConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            handling.set()
            await asyncio.Event().wait()

    handling = asyncio.Event()
    client = WebsocketCommunicator(SlowConsumer.as_asgi(), "/")
    await client.connect()
    await client.send_to("take your time")
    await handling.wait()
    await registry.connections.drain(0.01, 0)
    registry.connections.resume()
    with contextlib.suppress(asyncio.CancelledError):
        await client.disconnect()
    is_quoted(caplog.text)


# -- in the browser --------------------------------------------------------------------


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data)


class Limited(Echo):
    max_frame_size = 1000
    rate_limit = RateLimit(per_second=0.01, burst=2)


class Alone(Echo):
    max_connections = 1


class Failing(Echo):
    async def receive(self, text_data=None, bytes_data=None):
        raise ZeroDivisionError


class Watched(Echo):
    heartbeat_interval = 0.01
    heartbeat_timeout = 0.01


class Careful(ChatConsumer):
    on_gap = "close"


class Json(AsyncJsonWebsocketConsumer):
    """Accepts only JSON."""


async def close_of(client) -> tuple[int, str]:
    """Return the code and reason of the server's close."""
    while (event := await client.receive_output(PATIENCE))["type"] != "websocket.close":
        pass
    return event["code"], event["reason"]


async def close_after(consumer_class, *frames) -> tuple[int, str]:
    """Send frames, and return the code and reason of the server's close."""
    client = WebsocketCommunicator(consumer_class.as_asgi(), "/")
    await client.connect()
    for frame in frames:
        text, data = (frame, None) if isinstance(frame, str) else (None, frame)
        await client.send_to(text, data)
    return await close_of(client)


async def close_of_a_second_client() -> tuple[int, str]:
    async with connected(Alone):
        return await close_after(Alone)


async def close_of_a_slow_handler(registry) -> tuple[int, str]:
    """Overflow a mailbox while a handler runs, and return the close."""
    layer = InMemoryChannelLayer(capacity=1, overflow="close")
    registry.register("chat", layer)
    handling, done = asyncio.Event(), asyncio.Event()

    class Slow(ChatConsumer):
        async def receive(self, text_data=None, bytes_data=None):
            handling.set()
            await done.wait()

    client = WebsocketCommunicator(Slow.as_asgi(), "/")
    await client.connect()
    await client.send_to("begin")
    await handling.wait()
    for _ in range(3):
        await layer.group_send("lobby", {"type": "chat.message", "text": "x"})
    done.set()
    return await close_of(client)


async def close_after_a_gap(registry) -> tuple[int, str]:
    """Interrupt the broker of a consumer with `on_gap = "close"`, and return the close."""
    layer = FragileLayer()
    registry.register("chat", layer)
    client = WebsocketCommunicator(Careful.as_asgi(), "/")
    await client.connect()
    layer.broker.report_outage(Outage(1.0, 2.0, lost=["lobby"]))
    return await close_of(client)


async def close_at_the_end(registry) -> tuple[int, str]:
    """Drain the server, and return the close."""
    client = WebsocketCommunicator(Echo.as_asgi(), "/")
    await client.connect()
    await registry.connections.drain(1, 0)
    registry.connections.resume()
    return await close_of(client)


def rows() -> list[tuple[str, str]]:
    """Return the code and reason of each row of the table, without backticks."""
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| 1\d\d\d", line)]
    return [
        (cells[1].strip(), cells[2].strip().strip("`"))
        for cells in (line.split("|") for line in lines)
    ]


async def test_close_codes_are_those_of_the_table(registry):
    """Rows and provoked closes are the same."""
    endings = [
        await close_after(Json, b"1234"),
        await close_after(Json, "{"),
        await close_after(Limited, "1", "2", "3"),
        await close_after(Limited, "x" * 1001),
        await close_after(Failing, "x"),
        await close_after(Watched),
        await close_at_the_end(registry),
        await close_after_a_gap(registry),
        await close_of_a_second_client(),
        await close_of_a_slow_handler(registry),
    ]
    assert len(rows()) == len(endings)
    for (code, quote), ending in zip(rows(), endings, strict=True):
        assert code == str(ending[0])
        assert re.fullmatch(".*".join(map(re.escape, quote.split("…"))), ending[1]), (quote, ending)


async def test_handshake_that_is_refused(is_quoted, registry, caplog):
    """A missing route, a close in connect() and a forbidden origin refuse a handshake."""
    caplog.set_level(logging.INFO)

    class Closed(AsyncWebsocketConsumer):
        async def connect(self):
            await self.close()

    guarded = OriginValidator(Echo.as_asgi(), ["https://example.com"])
    app = application(Closed.as_asgi(), guarded, registry=registry)
    async with served(app) as port:
        for path in ("0", "1", "nowhere"):
            with pytest.raises(websockets.InvalidStatus):
                await websockets.connect(f"ws://127.0.0.1:{port}/{path}")
    is_quoted(caplog.text)


# -- workers ---------------------------------------------------------------------------


class Mailer(AsyncConsumer):
    async def mail_send(self, message):
        raise ConnectionError("the mail server does not answer")


router = ChannelNameRouter({"mails": Mailer.as_asgi()})


def test_worker_that_cannot_start(is_quoted, registry, capsys):
    """Each mistake prints one line, and the exit code is 2."""
    here = f"{__name__}:router"
    for arguments in (
        ["mailer", "mails"],
        ["mailer:router", "mails"],
        [here, "mails"],
        [here, "mail", "--setup", f"{__name__}:setup"],
    ):
        assert command_line(["worker", *arguments]) == 2
    is_quoted(capsys.readouterr().err.replace(__name__, "mailer"))


def setup():
    registry_module.register_channel_layer("default", InMemoryChannelLayer())


async def test_work_that_fails(is_quoted, caplog):
    """Work that fails is retried; work without a handler is not."""
    async with InMemoryChannelLayer(retry_backoff=(60.0, 60.0)) as layer:
        worker = Worker(router, ["mails"], layer=layer, concurrency=1)
        running = asyncio.create_task(worker.run())
        await layer.send("mails", {"type": "mail.send"})
        await layer.send("mails", {"type": "mail.sent"})
        await until_logged(caplog, "dead letter")
        worker.stop()
        await running
    is_quoted(caplog.text)


# -- nothing is logged ----------------------------------------------------------------


async def test_lifespan_that_was_not_passed(registry):
    """The application starts without its layer, and the first client meets the error."""
    app = FastAPI(routes=[WebSocketRoute("/", ChatConsumer.as_asgi())])
    await start(app)
    client = WebsocketCommunicator(app, "/")
    assert "no channel layer is called 'chat'" in await failure_of(client.connect())
    layer = InMemoryChannelLayer()
    registry.register("chat", layer)
    await start(app)
    assert layer.health().state == "closed"
    client = WebsocketCommunicator(app, "/")
    await client.connect()
    assert layer.health().state == "ready"
    await client.disconnect()
    await layer.close()


async def arrives(layer, sender) -> bool:
    """Return True if a message from `sender` is the next that a group member gets."""
    channel = await layer.new_channel()
    await layer.group_add("lobby", channel)
    await sender.group_send("lobby", {"type": "chat.message", "text": "from elsewhere"})
    await layer.group_send("lobby", {"type": "chat.message", "text": "from here"})
    async with asyncio.timeout(PATIENCE):
        return (await layer.receive(channel))["text"] == "from elsewhere"


async def test_layers_that_do_not_meet(redis_url):
    """Layers in memory and layers with different prefixes are separate."""
    async with InMemoryChannelLayer() as one, InMemoryChannelLayer() as other:
        assert not await arrives(one, other)
    async with (
        RedisPubSubChannelLayer([redis_url], prefix="chat") as one,
        RedisPubSubChannelLayer([redis_url], prefix="chat") as same,
        RedisPubSubChannelLayer([redis_url], prefix="other") as other,
    ):
        assert await arrives(one, same)
        assert not await arrives(one, other)


async def test_plain_channel_on_pub_sub(redis_url):
    """A message to a plain channel is lost on pub/sub and waits on streams."""
    message = {"type": "mail.send"}
    async with RedisPubSubChannelLayer([redis_url]) as layer:
        await layer.send("mails", message)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(layer.receive("mails"), 0.05)
    async with RedisStreamsChannelLayer([redis_url]) as layer:
        await layer.send("mails", message)
        assert await layer.receive("mails") == message


async def test_frame_to_a_closed_socket(registry):
    """A frame after the close raises nothing and is counted."""
    layer = InMemoryChannelLayer()
    registry.register("chat", layer)
    sent = asyncio.Event()

    class Parting(ChatConsumer):
        async def disconnect(self, code):
            await self.send("are you still there?")
            sent.set()

    async with connected(Parting):
        pass
    async with asyncio.timeout(PATIENCE):
        await sent.wait()
    assert layer.statistics().sent_after_close == 1


async def test_message_from_before_the_join():
    """A message from before the join is only in the history."""
    async with InMemoryChannelLayer(history_size=10) as layer:
        await layer.group_send("lobby", {"type": "chat.message", "text": "before"})
        channel = await layer.new_channel()
        await layer.group_add("lobby", channel)
        await layer.group_send("lobby", {"type": "chat.message", "text": "after"})
        assert (await layer.receive(channel))["text"] == "after"
        assert (await layer.history("lobby")).messages[0].message["text"] == "before"


def test_every_provocation_is_on_the_page():
    """The page names every test of this file, in a block or a row."""
    text = PAGE.read_text()
    tests = {name for name in globals() if name.startswith("test_")}
    named = {mark["test"] for block in all_blocks(PAGE) if (mark := RUN_BY.fullmatch(block.mark))}
    rows = set(re.findall(r"<!-- (test_\w+) --> \|$", text, re.MULTILINE))
    assert len(named) + len(rows) >= 25
    assert named | rows == tests - NOT_QUOTED


# Tests of other sentences of the page.
NOT_QUOTED = {
    "test_close_codes_are_those_of_the_table",
    "test_every_provocation_is_on_the_page",
    "test_handler_that_is_no_coroutine_is_none",
}
