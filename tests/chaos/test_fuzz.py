"""
Arbitrary frames and broker payloads, sent to a live group of consumers.

No input closes another connection or raises an unhandled exception, and an ordinary broadcast
reaches every member afterwards. `SOAK=1` sends much more, each time something else; a failure
prints the input.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import os
import time

import hypothesis.strategies as st
import msgspec
import pytest
import redis
from hypothesis import HealthCheck, given, settings

from fast_channels.consumer import (
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.exceptions import InvalidMessage, MessageTooLarge
from fast_channels.testing import HttpCommunicator, WebsocketCommunicator, inspect
from tests.chaos.backends import PATIENCE, address_for, make

SOAK = bool(os.environ.get("SOAK"))

PROFILE = settings(
    max_examples=5000 if SOAK else 25,
    derandomize=not SOAK,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

ALIAS = "fuzz"
TOKEN = "still here "


class Shown:
    """Shows every message to the client, so that no content of it can be wrong."""

    async def chat_message(self, message):
        await self.show(repr(message)[:1000])

    async def token(self, message):
        # No sender of arbitrary messages can know the number.
        await self.show(str(message.get("text"))[:100])

    async def relay(self, content):
        """Send the client's text to the group, as any chat does."""
        message = {"type": "chat.message", "content": content}
        try:
            await self.channel_layer.group_send("room", message)
        except (InvalidMessage, MessageTooLarge):
            await self.close(1007, "that cannot be sent on")


class Chat(Shown, AsyncWebsocketConsumer):
    channel_layer_alias = ALIAS
    groups = ("room",)

    async def receive(self, text_data=None, bytes_data=None):
        await self.relay(text_data if text_data is not None else bytes_data)

    async def show(self, text):
        await self.send(text.encode(errors="replace").decode())


class JsonChat(Shown, AsyncJsonWebsocketConsumer):
    channel_layer_alias = ALIAS
    groups = ("room",)

    async def receive_json(self, content, **kwargs):
        await self.relay(content)

    async def show(self, text):
        await self.send_json({"shown": text.encode(errors="replace").decode()})


class Careful(Chat):
    """Closes when messages may have been lost; a forged gap must not close it."""

    on_gap = "close"

    async def layer_overflow(self, notice):
        raise AssertionError("no mailbox is full here")


class Stream(Shown, AsyncHttpConsumer):
    channel_layer_alias = ALIAS

    async def handle(self, body):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.send_headers()
        await self.send_body(b"begin", more_body=True)

    async def show(self, text):
        await self.send_body(text.encode(errors="replace"), more_body=True)


class Client:
    """One connection to a consumer of any kind."""

    def __init__(self, consumer) -> None:
        self.consumer = consumer

    async def connect(self):
        if issubclass(self.consumer, AsyncHttpConsumer):
            self.end = HttpCommunicator(self.consumer.as_asgi(), "/")
            await self.end.send_request()
            assert (await self.end.receive_output(PATIENCE))["type"] == "http.response.start"
            assert (await self.end.receive_output(PATIENCE))["body"] == b"begin"
        else:
            self.end = WebsocketCommunicator(self.consumer.as_asgi(), "/")
            assert await self.end.connect(PATIENCE) == (True, None)

    async def sees(self, token) -> bool:
        """Return whether a broadcast arrives; False if the connection was closed instead."""
        while True:
            event = await self.end.receive_output(PATIENCE)
            if event["type"] == "websocket.close":
                assert event["code"] in (1003, 1007, 1009)
                await self.end.wait(PATIENCE)
                return False
            if token in str(event.get("text") or event.get("body") or ""):
                return True

    async def leave(self):
        kind = "http" if issubclass(self.consumer, AsyncHttpConsumer) else "websocket"
        await self.end.send_input({"type": f"{kind}.disconnect"})
        await self.end.wait(PATIENCE)


class Party:
    """A live group on its own loop: two consumers of each kind, and a misbehaving guest."""

    def __init__(self, kind, url, registry) -> None:
        self.kind = kind
        self.url = url
        self.registry = registry
        self.loop = asyncio.new_event_loop()
        # Unhandled exceptions, and records logged as errors.
        self.unhandled = []
        self.loop.set_exception_handler(lambda _, context: self.unhandled.append(context))
        self.errors = logging.Handler(logging.ERROR)
        self.errors.emit = lambda record: self.unhandled.append(record.getMessage())
        self.number = 0

    def run(self, coroutine):
        async def in_time():
            async with asyncio.timeout(PATIENCE):
                return await coroutine

        return self.loop.run_until_complete(in_time())

    def __enter__(self):
        # Garbage of earlier tests must not be counted here.
        gc.collect()
        logging.getLogger().addHandler(self.errors)
        self.run(self._begin())
        return self

    def __exit__(self, *_):
        logging.getLogger().removeHandler(self.errors)
        try:
            self.run(self._end())
        finally:
            self.loop.close()

    async def _begin(self):
        self.layer = make(self.kind, self.url)
        await self.layer.open()
        self.registry.register(ALIAS, self.layer)
        self.clients = [Client(c) for c in (Chat, JsonChat, Careful, Stream) for _ in range(2)]
        for client in self.clients:
            await client.connect()

    async def _end(self):
        for client in self.clients:
            await client.leave()
        assert self.layer.statistics().channels == 0
        await self.layer.close()

    async def everybody_sees_a_broadcast(self):
        self.number += 1
        token = f"{TOKEN}{self.number}."
        await self.layer.group_send("room", {"type": "token", "text": token})
        for client in self.clients:
            assert await client.sees(token), f"a {client.consumer.__name__} was closed"
        assert self.unhandled == []
        return token

    def throw_frame(self, consumer, event):
        async def throw():
            guest = Client(consumer)
            await guest.connect()
            await guest.end.send_input(event)
            await guest.end.send_input({"type": "websocket.receive", "text": '"after"'})
            # The broadcast comes after the frames were handled, or after the guest was closed.
            await guest.sees("after")
            token = await self.everybody_sees_a_broadcast()
            if not guest.end.future.done() and await guest.sees(token):
                await guest.leave()

        self.run(throw())

    def throw_payloads(self, payloads, where):
        async def throw():
            before = self.counted()
            await self.inject(payloads, where)
            await self.everybody_sees_a_broadcast()
            # The broadcast was delivered to every member.
            assert self.counted() >= before + len(payloads) + len(self.clients)

        self.run(throw())

    def counted(self) -> int:
        """Return how many payloads and messages the counters have seen, with any outcome."""
        counters = dataclasses.asdict(self.layer.statistics())
        kinds = ("delivered", "undecodable", "unclaimed")
        return sum(counters[kind] for kind in kinds)

    async def inject(self, payloads, where):
        """Put bytes where the layer reads them, as a foreign peer would."""
        if self.kind == "memory":
            topic = {"group": "room", "channel": self.names[0]}[where]
            for payload in payloads:
                await inspect.broker(self.layer).publish(topic, payload)
        else:
            await asyncio.to_thread(self.inject_from_outside, payloads, where)

    def inject_from_outside(self, payloads, where):
        with redis.Redis.from_url(self.url) as client:
            if self.kind == "queue":
                key = f"asgi{self.names[0].partition('!')[0]}!"
                # The next sender removes entries older than `expiry`, even unread ones.
                now = time.time()
                client.zadd(key, {payload: now + n / 1e6 for n, payload in enumerate(payloads)})
            else:
                topic = "asgi__group__room" if where == "group" else self.names[0]
                for payload in payloads:
                    client.publish(topic, payload)

    @property
    def names(self):
        return list(inspect.hub(self.layer).mailboxes)


# -- the input --------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400, "\ud800", "type"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)

TEXTS = st.one_of(
    st.text(),
    st.text(st.characters(categories=["Cs", "Cc", "Lu"]), max_size=20),
    JSON.map(json.dumps),
    st.sampled_from(
        [
            *('{"a":', '{"a" 1}', '{"a":1,"a":2}', "[1,]", "NaN", "-Infinity", "1e999", ""),
            *("[" * 100_000, '{"a":' * 5000, "[" * 400 + "]" * 400, "[" * 900 + "]" * 900),
            *("9" * 5000, "[0.1" + ",0.1" * 240_000 + "]", '"\\ud800"', "\ufeff1", "\0"),
            *("x" * 999_999, "x" * 2_000_000, "ü" * 600_000, "null", '"\\u0000"'),
        ]
    ),
)

BYTES = st.binary() | st.sampled_from([b"x" * 999_999, b"x" * 2_000_000, b"\xff" * 100])

FRAMES = st.one_of(
    st.builds(lambda text: {"type": "websocket.receive", "text": text}, TEXTS),
    st.builds(lambda data: {"type": "websocket.receive", "bytes": data}, BYTES),
    st.builds(
        lambda text, data: {"type": "websocket.receive", "text": text, "bytes": data},
        st.none() | TEXTS,
        st.none() | BYTES,
    ),
    st.just({"type": "websocket.receive"}),
)

# Every name that a message could try to call.
METHODS = sorted(
    {
        name
        for consumer in (Chat, JsonChat, Careful, Stream, AsyncHttpConsumer)
        for name in dir(consumer)
        # A consumer's own methods with one argument are handlers.
        if name not in ("chat_message", "token", "show", "relay")
    }
)
TYPES = st.one_of(
    st.sampled_from(METHODS),
    st.sampled_from(METHODS).map(lambda name: name.replace("_", ".")),
    st.sampled_from(["layer.gap", "layer.overflow", "websocket.close", "http.disconnect", ".", ""]),
    st.text(max_size=30),
    JSON,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def packed(value) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return b"\xc1 never used"


def messages(party):
    """Messages with forged parts, and addresses of all channels, of none, or of invalid ones."""
    names = party.names if party.kind == "queue" else ["specific.x!y"]
    inbox = names[0].partition("!")[0] + "!"
    name = st.sampled_from(
        [*names, inbox, f"{inbox}group.room", f"{inbox}group.", "", "!", "group.room"]
    )
    address = st.one_of(
        name, st.lists(name, max_size=5), st.lists(name | PLAIN, max_size=3), st.text(), PLAIN
    )
    parts = {"type": TYPES, "__asgi_channel__": address, "groups": PLAIN, "code": PLAIN}
    return st.fixed_dictionaries({}, optional=parts).map(packed)


def sealed(party, payload) -> bytes:
    """Return a payload in its wire form: the queue puts 12 random bytes before it."""
    return (b"twelve bytes" if party.kind == "queue" else b"") + payload


def payloads(party):
    """A batch smaller than a mailbox: bytes, any MessagePack, forged messages."""
    depth = [b"\x91" * 100_000, b"\x81\xa1a" * 2000, b"\xdf\xff\xff\xff\xff", b"\x80", b"\x90"]
    shaped = st.one_of(messages(party), PLAIN.map(packed), st.sampled_from(depth))
    payload = st.one_of(shaped.map(lambda payload: sealed(party, payload)), st.binary())
    # The payloads differ, because equal members of a sorted set are one.
    return st.lists(payload, min_size=1, max_size=15, unique=True)


# The places where any peer can put a payload; on streams, only appended ones count.
FORGED = ("memory", "pubsub", "queue")


@pytest.fixture(params=FORGED)
def party(request, registry):
    kind = request.param
    with Party(kind, address_for(kind, request), registry) as party:
        yield party


@pytest.mark.timeout(0 if SOAK else 60)
@pytest.mark.parametrize("consumer", [Chat, JsonChat])
def test_arbitrary_frames_disturb_no_other_connection(party, consumer):
    """Frames close at most their own connection, with a code that says the reason."""

    @PROFILE
    @given(FRAMES)
    def throw(event):
        party.throw_frame(consumer, event)

    throw()


@pytest.mark.timeout(0 if SOAK else 60)
def test_arbitrary_payloads_close_no_connection(party):
    """The payloads are counted, and skipped if they are not messages for a channel here."""

    @PROFILE
    @given(payloads(party), st.sampled_from(["group", "channel"]))
    def throw(payloads, where):
        party.throw_payloads(payloads, where)

    throw()


def test_no_type_reaches_a_method_of_the_library(party):
    """Neither its name nor a dotted form calls it; each consumer counts the message."""
    types = [*METHODS, *(name.replace("_", ".") for name in METHODS if "_" in name)]
    types = list(dict.fromkeys([*types, "layer.gap", "layer.overflow", "websocket.close"]))
    everybody = {"__asgi_channel__": party.names} if party.kind == "queue" else {}
    thrown = [sealed(party, packed({"type": type_, **everybody})) for type_ in types]
    for start in range(0, len(thrown), 15):
        party.throw_payloads(thrown[start : start + 15], "group")
    unknown = party.layer.statistics().unknown_type
    assert unknown == len(types) * len(party.clients)


def test_arbitrary_names_among_the_members_of_a_group_keep_nothing_from_the_others(
    redis_url, registry
):
    """A broadcast reaches every other member, no matter what a peer has added in Redis."""
    with Party("queue", redis_url, registry) as party:
        with redis.Redis.from_url(redis_url) as client:
            names = [b"", b"!", b"a name", b"specific.gone!x", b"x" * 500, "ü".encode()]
            client.zadd("asgi:group:room", {name: time.time() for name in names})
        party.run(party.everybody_sees_a_broadcast())


def test_member_that_is_no_text_keeps_nothing_from_the_others(redis_url, registry):
    """Bytes that are not UTF-8 cannot name a channel."""
    with Party("queue", redis_url, registry) as party:
        with redis.Redis.from_url(redis_url) as client:
            client.zadd("asgi:group:room", {b"\xff\xfe": time.time()})
        party.run(party.everybody_sees_a_broadcast())


class Trusting(JsonChat):
    """Forwards JSON unchecked, as many programs do."""

    async def relay(self, content):
        await self.channel_layer.group_send("room", {"type": "chat.message", "content": content})


@pytest.mark.parametrize("text", ["9" * 30, "[0.1" + ",0.1" * 240_000 + "]"])
def test_json_that_no_layer_can_carry_is_the_clients_mistake(text, registry):
    """The close code says so, and no traceback lets clients fill the log."""
    with Party("memory", None, registry) as party:
        party.throw_frame(Trusting, {"type": "websocket.receive", "text": text})
