"""A subclass owns its namespace: no name that it uses for itself breaks a live consumer."""

from __future__ import annotations

import asyncio
import inspect

import pytest

from fast_channels.consumer import (
    AsyncConsumer,
    AsyncHttpConsumer,
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
)
from fast_channels.consumer.handlers import HOOKS, INTERNAL_PREFIX
from fast_channels.consumer.limits import OPTIONS
from fast_channels.exceptions import ConsumerStateError
from fast_channels.testing import HttpCommunicator, WebsocketCommunicator
from tests.consumer.support import ALIAS, errors

CONSUMERS = [AsyncConsumer, AsyncWebsocketConsumer, AsyncJsonWebsocketConsumer, AsyncHttpConsumer]

# Options that are checked at start; `forwards` has a check of its own.
CHECKED_OPTIONS = {*OPTIONS, "forwards"}

# Users replace these on purpose, as they do with hooks: every send passes through `base_send`.
TO_REPLACE = {"base_send", "as_asgi"}


def names_of(*classes):
    """Return every name that the library uses on consumers, from the classes themselves."""
    found = set()
    for owner in classes:
        for base in owner.__mro__[:-1]:
            found |= {*vars(base), *inspect.get_annotations(base)}
    return sorted(name for name in found if not name.startswith("__"))


def internal_names():
    return [name for name in names_of(*CONSUMERS) if name.startswith("_")]


def public_names(owner, *, without):
    return [n for n in names_of(owner) if not n.startswith("_") and n not in without]


class Chat(AsyncJsonWebsocketConsumer):
    """Calls the library by its class, so that a subclass may have any name for itself."""

    channel_layer_alias = ALIAS
    groups = ("room",)

    async def connect(self):
        await AsyncWebsocketConsumer.accept(self)
        type(self).after_connect(self)

    def after_connect(self):
        """Set attributes here."""

    async def receive_json(self, content, **kwargs):
        await AsyncJsonWebsocketConsumer.send_json(self, {"echo": content})

    async def chat_message(self, message):
        await AsyncJsonWebsocketConsumer.send_json(self, {"chat": message["text"]})


async def serves_well(layer, kind, caplog):
    """Check that a consumer of a class accepts, echoes, gets messages, and ends in order."""
    client = WebsocketCommunicator(kind.as_asgi(), "/")
    assert await client.connect() == (True, None)
    await client.send_json_to(1)
    assert await client.receive_json_from() == {"echo": 1}
    for text in "ab":
        await layer.group_send("room", {"type": "chat.message", "text": text})
        assert await client.receive_json_from() == {"chat": text}
    await client.disconnect(1001)
    assert layer.statistics().channels == layer.statistics().members == 0
    assert not errors(caplog)


VALUES = {
    "number": lambda: 30,
    "text": lambda: "playing",
    "task": lambda: asyncio.ensure_future(asyncio.sleep(0)),
    "callable": lambda: lambda *args: None,
}


def test_everything_internal_has_one_prefix():
    """Other names are public, documented, and covered by the tests below."""
    assert [name for name in internal_names() if not name.startswith(INTERNAL_PREFIX)] == []


# Each class has a `_fc_kind` of its own, which is made with it.
@pytest.mark.parametrize("name", [n for n in internal_names() if n != "_fc_kind"])
def test_internal_name_is_refused_with_a_sentence(name):
    """The sentence has the class, the attribute, its value and the remedy."""
    kind = type("Mine", (Chat,), {})
    setattr(kind, name, "mine")
    with pytest.raises(ConsumerStateError, match=rf"Mine\.{name} is 'mine'; .* use another name"):
        kind.as_asgi()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "name", public_names(AsyncJsonWebsocketConsumer, without=TO_REPLACE | HOOKS)
)
async def test_attribute_of_an_instance_breaks_nothing(layer, caplog, name, value):
    """A live consumer may be given any attribute, under any name but that of a hook."""
    kind = type("Mine", (Chat,), {"after_connect": lambda c: setattr(c, name, VALUES[value]())})
    await serves_well(layer, kind, caplog)


@pytest.mark.parametrize("name", public_names(AsyncJsonWebsocketConsumer, without=TO_REPLACE))
async def test_attribute_of_a_class_breaks_nothing_in_silence(layer, caplog, name):
    """If the library would read or call it, the class is refused when it is mounted."""
    value = object()
    kind = type("Mine", (Chat,), {name: value})
    if name in CHECKED_OPTIONS | HOOKS:
        with pytest.raises(ConsumerStateError) as caught:
            kind.as_asgi()
        assert f"Mine.{name} is {value!r}" in str(caught.value)
        assert str(caught.value).count("; ") == 1
    else:
        await serves_well(layer, kind, caplog)


@pytest.mark.parametrize(
    "name", public_names(AsyncJsonWebsocketConsumer, without=TO_REPLACE | HOOKS)
)
async def test_method_of_a_class_breaks_nothing_in_silence(layer, caplog, name):
    """A helper of the user's own, with arguments of its own, is never called by the library."""

    async def method(self):
        raise AssertionError("the library has called it")

    kind = type("Mine", (Chat,), {name: method})
    if name in CHECKED_OPTIONS:
        with pytest.raises(ConsumerStateError, match=rf"^Mine\.{name} is <function"):
            kind.as_asgi()
    else:
        await serves_well(layer, kind, caplog)


@pytest.mark.parametrize("name", public_names(AsyncHttpConsumer, without=TO_REPLACE | HOOKS))
@pytest.mark.parametrize("value", ["number", "callable"])
async def test_attribute_of_an_http_consumer_breaks_nothing(caplog, name, value):
    """The answer to a request does not depend on attributes of the user's own."""

    class Answer(AsyncHttpConsumer):
        async def handle(self, body):
            setattr(self, name, VALUES[value]())
            await AsyncHttpConsumer.send_response(self, 200, body)

    client = HttpCommunicator(Answer.as_asgi(), "/", method="POST", body=b"hello")
    await client.send_request()
    response = await client.get_response()
    assert (response["status"], response["body"]) == (200, b"hello")
    assert not errors(caplog)


@pytest.mark.parametrize("option", sorted(CHECKED_OPTIONS - {"max_body_size", "forwards"}))
async def test_option_of_an_instance_is_checked_at_start(layer, option):
    """An __init__ may set options; one of a wrong kind is an error before anything is sent."""

    class Mine(Chat):
        def __init__(self):
            setattr(self, option, object())

    client = WebsocketCommunicator(Mine.as_asgi(), "/")
    with pytest.raises(ConsumerStateError, match=rf"^Mine\.{option} is <object .*; give "):
        await client.connect()


@pytest.mark.parametrize("type_", ["disconnected", "deliveries", "join.group", "leave.group"])
async def test_name_that_the_library_only_offers_may_be_a_handler(layer, type_):
    """Code that had such a handler before the library offered the name goes on to work."""

    async def handler(self, message):
        await AsyncJsonWebsocketConsumer.send_json(self, message["type"])

    kind = type("Mine", (Chat,), {type_.replace(".", "_"): handler})
    client = WebsocketCommunicator(kind.as_asgi(), "/")
    await client.connect()
    await layer.group_send("room", {"type": type_})
    assert await client.receive_json_from() == type_
    await client.disconnect()
