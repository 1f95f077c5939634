"""Formats of messages in Redis with addresses, and user-defined formats."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import pickle
import sys
import time

import msgspec
import pytest
from cryptography.fernet import Fernet, InvalidToken

from fast_channels.exceptions import InvalidChannelLayerError, MissingExtra
from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.names import ADDRESS_KEY
from fast_channels.layers.redis.serializers import (
    BaseMessageSerializer,
    Envelope,
    JSONSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    SerializersRegistry,
    registry,
)
from tests.layers.support import arrives, received

SERIALIZERS = {"msgpack": MsgPackSerializer, "json": JSONSerializer}
LAYERS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
ADDRESSES = ["specific.abc!def", [], ["a"], [f"specific.{n}!group.room" for n in range(500)]]


@pytest.fixture(params=SERIALIZERS)
def make(request):
    return SERIALIZERS[request.param]


def reencoded(serializer, payload, to):
    """Return the result of the base class's address(), which decodes and encodes again."""
    return BaseMessageSerializer.address(serializer, payload, to)


# -- addresses -----------------------------------------------------------------


@pytest.mark.parametrize("keys", [0, 1, 2, 14, 15, 16, 17, 65534, 65535, 70_000])
def test_splicing_an_address_equals_encoding_it(make, keys):
    """This holds for every length of the map's header, and for an empty message."""
    serializer = make()
    message = {f"k{n}": n for n in range(keys)}
    payload = serializer.as_bytes(message)
    to = ["specific.abc!def"]
    assert serializer.from_bytes(serializer.address(payload, to)) == {ADDRESS_KEY: to, **message}
    assert serializer.from_bytes(reencoded(serializer, payload, to)) == {ADDRESS_KEY: to, **message}


@pytest.mark.parametrize("to", ADDRESSES, ids=["string", "none", "one", "many"])
def test_spliced_bytes_are_those_of_a_message_that_begins_with_the_address(make, to):
    """A peer cannot see a difference."""
    serializer = make()
    message = {"type": "test", "nested": {"list": [1, None]}, "text": 'ü "{[,'}
    expected = serializer.as_bytes({ADDRESS_KEY: to, **message})
    assert serializer.address(serializer.as_bytes(message), to) == expected


@pytest.mark.parametrize("message", [{}, {"a": {}}, {"a": []}, {"}": "{"}])
def test_json_with_an_address_is_json(message):
    """Any JSON parser can read it."""
    serializer = JSONSerializer()
    payload = serializer.address(serializer.as_bytes(message), ["x"])
    assert json.loads(payload) == {ADDRESS_KEY: ["x"], **message}


def test_addresses_do_not_change_the_payload(make):
    """One payload is addressed to several inboxes."""
    serializer = make()
    payload = serializer.as_bytes({"type": "test"})
    first, second = (serializer.from_bytes(serializer.address(payload, to)) for to in ("a", "b"))
    assert (first[ADDRESS_KEY], second[ADDRESS_KEY]) == ("a", "b")
    assert serializer.from_bytes(payload) == {"type": "test"}


@pytest.mark.parametrize("keys", [0, 1, 14, 15, 65535])
def test_what_a_server_puts_together_equals_splicing_it(make, keys):
    """The server adds only the list of names."""
    serializer = make()
    payload = serializer.as_bytes({f"k{n}": n for n in range(keys)})
    names = ["specific.abc!group.room", "specific.abc!def"]
    kind, before, after = serializer.around(payload)
    written = {"msgpack": msgspec.msgpack, "json": msgspec.json}[kind].encode(names)
    assert before + written + after == serializer.address(payload, names)


def test_what_only_the_sender_can_write_is_not_taken_apart():
    """Encrypted messages and user-defined formats are examples."""

    class Own(BaseMessageSerializer):
        as_bytes = from_bytes = bytes

    assert MsgPackSerializer(symmetric_encryption_keys=["key"]).around(b"\x80") is None
    assert JSONSerializer(symmetric_encryption_keys=["key"]).around(b"{}") is None
    assert Own().around(b"") is None


# -- envelope ------------------------------------------------------------------


def test_serialize_and_deserialize_are_inverse(make):
    """This holds with and without a prefix and encryption."""
    message = {"type": "test", "nested": [1, {"a": None}]}
    for options in (
        {},
        {"random_prefix_length": 12},
        {"symmetric_encryption_keys": ["a", "b"]},
        {"symmetric_encryption_keys": ["a"], "random_prefix_length": 5, "expiry": 60},
    ):
        serializer = make(**options)
        assert serializer.deserialize(serializer.serialize(message)) == message


def test_payload_of_msgpack_is_plain_msgpack():
    """Without a prefix and encryption, the payload is nothing else."""
    message = {"a": True, "b": None, "c": {"d": []}}
    expected = b"\x83\xa1a\xc3\xa1b\xc0\xa1c\x81\xa1d\x90"
    assert MsgPackSerializer().serialize(message) == expected
    assert RedisPubSubChannelLayer(["redis://x"]).serialize(message) == expected
    queue = RedisChannelLayer(["redis://x"])
    assert queue.serialize(message)[12:] == expected
    assert queue.deserialize(queue.serialize(message)) == message


def test_prefix_has_the_length_that_was_asked_for(make):
    """The prefix is different every time."""
    serializer = make(random_prefix_length=7)
    first, second = serializer.serialize({}), serializer.serialize({})
    assert first[7:] == second[7:] == make().serialize({})
    assert first[:7] != second[:7]


def test_ttl_of_a_token_is_the_expiry_and_a_little_more():
    """The margin allows for clocks that differ; a fraction of a second is accepted."""
    assert MsgPackSerializer(expiry=60)._envelope.ttl == 70
    assert MsgPackSerializer(expiry=0.5)._envelope.ttl == 10
    assert MsgPackSerializer()._envelope.ttl is None


# -- registry ------------------------------------------------------------------


class Pickled(BaseMessageSerializer):
    def as_bytes(self, message):
        return pickle.dumps(dict(message))

    def from_bytes(self, message):
        return pickle.loads(message)


class Reversed:
    """A class without the base class: two methods, and its own envelope."""

    def __init__(self, **options):
        self.options = options

    def serialize(self, message):
        return msgspec.json.encode(message)[::-1]

    def deserialize(self, message):
        return msgspec.json.decode(message[::-1])


class OnlySerialize:
    def serialize(self, message):
        return b""


def test_known_formats_are_registered():
    """Each format has its name."""
    assert isinstance(registry.get_serializer("msgpack"), MsgPackSerializer)
    assert isinstance(registry.get_serializer("json"), JSONSerializer)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_unknown_format_is_refused_with_the_known_ones(layer):
    """The error comes when the layer is made."""
    with pytest.raises(SerializerDoesNotExist) as caught:
        layer(["redis://x"], serializer_format="yaml")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == "no serializer is called 'yaml'; registered: 'json', 'msgpack'"


def test_class_without_the_two_methods_is_refused():
    """The sentence names the missing method."""
    for wrong in (OnlySerialize, int, object):
        with pytest.raises(TypeError, match=r"serialize\(\)"):
            SerializersRegistry().register_serializer("wrong", wrong)


def test_registry_passes_arguments_on():
    """Arguments are passed by position and by name."""
    own = SerializersRegistry()
    own.register_serializer("pickle", Pickled)
    serializer = own.get_serializer("pickle", None, random_prefix_length=3)
    assert len(serializer.serialize({})) == 3 + len(pickle.dumps({}))


def test_address_of_a_foreign_serializer_is_made_by_itself():
    """The base class decodes and encodes it again, because it does not know the bytes."""
    own = SerializersRegistry()
    own.register_serializer("reversed", Reversed)
    serializer = own.get_serializer("reversed")
    payload = serializer.address(serializer.as_bytes({"a": 1}), "x")
    assert json.loads(payload[::-1]) == {"a": 1, ADDRESS_KEY: "x"}


@pytest.fixture
def formats(monkeypatch):
    """The registry of the layers; formats registered by the test are removed afterwards."""
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    registry.register_serializer("pickle", Pickled)
    registry.register_serializer("reversed", Reversed)


@pytest.mark.parametrize("format", ["pickle", "reversed"])
@pytest.mark.parametrize("kind", LAYERS)
async def test_format_of_ones_own_works_end_to_end(formats, redis_url, kind, format):
    """Messages arrive directly, in a group, and in a shared channel where one exists."""
    async with contextlib.AsyncExitStack() as stack:
        layer, peer = [
            await stack.enter_async_context(LAYERS[kind]([redis_url], serializer_format=format))
            for _ in range(2)
        ]
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        message = {"type": "test", "nested": [1, {"ü": None}]}
        await peer.send(inbox.name, message)
        assert await arrives(inbox) == message
        await peer.group_send("room", message)
        assert await arrives(inbox) == message
        await layer.send(inbox.name, message)
        assert await arrives(inbox) == message
        if kind == "queue":
            await peer.send("shared", message)
            assert await received(layer, "shared") == message
            await peer.group_add("room", "shared")
            await peer.group_send("room", message)
            assert await received(layer, "shared") == message


async def test_subclass_is_encrypted_like_the_others(formats, redis_url):
    """The base class adds the envelope."""
    options = {"serializer_format": "pickle", "symmetric_encryption_keys": ["secret"]}
    async with RedisChannelLayer([redis_url], **options) as layer:
        assert b"visible" not in layer.serialize({"type": "visible"})
        inbox = await layer.open_channel()
        async with RedisChannelLayer([redis_url], **options) as peer:
            await peer.send(inbox.name, {"type": "test"})
        assert await arrives(inbox) == {"type": "test"}


# -- envelope ------------------------------------------------------------------


def fernet(key):
    digest = hashlib.sha256(key if isinstance(key, bytes) else key.encode()).digest()
    return Fernet(base64.urlsafe_b64encode(digest))


def test_envelope_without_options_is_nothing():
    """The payload is unchanged."""
    envelope = Envelope()
    assert envelope.seal(b"payload") == b"payload"
    assert envelope.open(b"payload") == b"payload"


def test_prefix_makes_equal_payloads_differ():
    """The prefix has the given length, and opening removes it."""
    envelope = Envelope(prefix_length=12)
    sealed = {envelope.seal(b"payload") for _ in range(50)}
    assert len(sealed) == 50
    for payload in sealed:
        assert payload[12:] == b"payload"
        assert envelope.open(payload) == b"payload"


@pytest.mark.parametrize("key", ["secret", b"secret", "ünïcode", b"\xff\0"])
def test_encrypted_payload_is_a_fernet_token(key):
    """The key is made from the SHA-256 of the given one."""
    envelope = Envelope([key])
    sealed = envelope.seal(b"payload")
    assert b"payload" not in sealed
    assert fernet(key).decrypt(sealed) == b"payload"
    assert envelope.open(fernet(key).encrypt(b"other")) == b"other"


def test_prefix_stands_before_the_token():
    """The reader knows the length of the prefix."""
    envelope = Envelope(["secret"], prefix_length=5)
    sealed = envelope.seal(b"payload")
    assert fernet("secret").decrypt(sealed[5:]) == b"payload"
    assert envelope.open(sealed) == b"payload"


def test_first_key_encrypts_and_all_decrypt():
    """Keys can be rotated without losing messages in transit."""
    old, new = Envelope(["old"]), Envelope(["new", "old"])
    assert new.open(old.seal(b"payload")) == b"payload"
    assert fernet("new").decrypt(new.seal(b"payload")) == b"payload"
    with pytest.raises(InvalidToken):
        old.open(new.seal(b"payload"))


def test_payload_of_another_key_is_refused():
    """Unencrypted and changed payloads are refused, too."""
    envelope = Envelope(["mine"])
    sealed = envelope.seal(b"payload")
    for payload in (
        Envelope(["other"]).seal(b"x"),
        b"plain",
        b"",
        sealed[:-1],
        sealed[:-4] + b"AAAA",
    ):
        with pytest.raises(InvalidToken):
            envelope.open(payload)


def test_payload_older_than_its_ttl_is_refused():
    """A younger payload is accepted, and without a ttl the age does not matter."""
    key = "secret"
    now = int(time.time())
    old, young = (fernet(key).encrypt_at_time(b"x", now - age) for age in (100, 30))
    envelope = Envelope([key], ttl=60)
    assert envelope.open(young) == b"x"
    with pytest.raises(InvalidToken):
        envelope.open(old)
    assert Envelope([key]).open(old) == b"x"


@pytest.mark.parametrize("keys", ["secret", b"secret"])
def test_single_string_of_keys_is_refused(keys):
    """The string would be a list of one-letter keys."""
    with pytest.raises(InvalidChannelLayerError, match="pass a list of keys") as caught:
        Envelope(keys)
    assert isinstance(caught.value, ValueError)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("keys", [None, [], ()])
def test_no_keys_mean_no_encryption(keys):
    """The library is not needed then."""
    assert Envelope(keys).seal(b"payload") == b"payload"


def test_encryption_without_its_library_names_the_extra(monkeypatch):
    """Plain envelopes work."""
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    assert Envelope(None, 3).open(b"xyzpayload") == b"payload"
    with pytest.raises(MissingExtra) as caught:
        Envelope(["secret"])
    assert isinstance(caught.value, ImportError)
    assert "pip install 'fast-channels[encryption]'" in str(caught.value)
