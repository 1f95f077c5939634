"""Codecs: values that can be sent, the errors for others, and the envelope around a payload."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import json
import math
import types
import typing
import uuid

import msgspec
import pytest

from fast_channels.exceptions import (
    ChannelLayerError,
    InvalidMessage,
)
from fast_channels.layers.codecs import JSONCodec, MsgPackCodec


class Text(str):
    __slots__ = ()


class Number(float):
    __slots__ = ()


class Colour(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    YES = "yes"


class Pair(typing.NamedTuple):
    left: int
    right: int


CODECS = {"msgpack": MsgPackCodec(), "json": JSONCodec()}


@pytest.fixture(params=CODECS)
def codec(request):
    return CODECS[request.param]


def travelled(codec, value):
    """Return the value that arrives for a value in a message."""
    return codec.decode(codec.encode({"type": "test", "value": value}))["value"]


def refused(codec, message):
    with pytest.raises(InvalidMessage) as caught:
        codec.encode(message)
    return caught.value


# -- values that can be sent -----------------------------------------------------

PLAIN = [
    None,
    True,
    False,
    0,
    -1,
    2**53 + 1,
    2**63,
    2**64 - 1,
    -(2**63),
    1.5,
    -0.25,
    1e300,
    5e-324,
    "",
    "text",
    'üñï 🎉 \0 \u2028 \\ "quoted" </script>',
    [],
    {},
    [1, [2, [3, {"deep": [None]}]]],
    {"": {"a b": {"ü": 1}}},
    ["x"] * 1000,
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:30])
def test_plain_values_arrive_as_they_were_sent(codec, value):
    """The values keep their type."""
    arrived = travelled(codec, value)
    assert arrived == value
    assert type(arrived) is type(value)


def test_empty_message_travels(codec):
    """Only its receiver can decide whether an empty message makes sense."""
    assert codec.decode(codec.encode({})) == {}


def test_bytes_travel_in_msgpack():
    """The value arrives as bytes."""
    assert travelled(CODECS["msgpack"], b"\0\xff") == b"\0\xff"


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_travels_in_msgpack(value):
    """MessagePack has a form for infinity."""
    assert travelled(CODECS["msgpack"], value) == value


def test_nan_travels_in_msgpack():
    """MessagePack has a form for NaN."""
    assert math.isnan(travelled(CODECS["msgpack"], math.nan))


@pytest.mark.parametrize(
    ("value", "arrives_as"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        (Pair(1, 2), [1, 2]),
        (Colour.RED, 1),
        (Word.YES, "yes"),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        ({Word.YES: 1}, {"yes": 1}),
        ({Text("key"): 1}, {"key": 1}),
    ],
    ids=repr,
)
def test_close_relatives_of_plain_types_arrive_as_those(codec, value, arrives_as):
    """A tuple arrives as a list, an IntEnum as a number, any kind of dict as a dict."""
    assert travelled(codec, value) == arrives_as
    assert json.dumps(travelled(codec, value)) == json.dumps(arrives_as)


@pytest.mark.parametrize(
    ("value", "arrives_as"),
    [(Text("safe"), "safe"), ([Text("a")], ["a"]), (Number(1.5), 1.5)],
    ids=repr,
)
def test_subclasses_of_str_and_float_arrive_as_those(codec, value, arrives_as):
    """Markup of a template engine is such a subclass."""
    arrived = travelled(codec, value)
    assert arrived == arrives_as
    assert type(arrived) is type(arrives_as)


@pytest.mark.parametrize(
    "value",
    [types.MappingProxyType({"a": 1}), collections.UserDict(a=1), collections.ChainMap({"a": 1})],
    ids=lambda value: type(value).__name__,
)
def test_any_mapping_may_be_in_a_message(codec, value):
    """A message itself may be any mapping, too."""
    assert codec.decode(codec.encode(value)) == {"a": 1}
    assert travelled(codec, value) == {"a": 1}
    assert travelled(codec, [{"in": value}]) == [{"in": {"a": 1}}]


def test_msgpack_bytes_are_those_of_other_implementations():
    """A channels_redis process can read them."""
    encoded = MsgPackCodec().encode({"a": True, "b": None, "c": {"d": []}})
    assert encoded == b"\x83\xa1a\xc3\xa1b\xc0\xa1c\x81\xa1d\x90"


def test_json_bytes_are_json():
    """Any other JSON library can read them."""
    message = {"type": "test", "value": ["ü", 1.5, None, 2**64]}
    assert json.loads(JSONCodec().encode(message)) == message


def test_equal_messages_have_equal_bytes(codec):
    """The keys are in the order of the mapping."""
    assert codec.encode({"a": 1, "b": 2}) == codec.encode({"a": 1, "b": 2})


# -- values that cannot be sent --------------------------------------------------

REFUSED = {
    "datetime": (dt.datetime(2024, 1, 2, tzinfo=dt.UTC), "isoformat"),
    "date": (dt.date(2024, 1, 2), "isoformat"),
    "time": (dt.time(1, 2), "isoformat"),
    "timedelta": (dt.timedelta(1), "str(value)"),
    "uuid": (uuid.UUID(int=5), "str(value)"),
    "decimal": (decimal.Decimal("1.5"), "str(value)"),
    "complex": (1j, "str(value)"),
    "set": ({1}, "a list"),
    "frozenset": (frozenset({1}), "a list"),
    "bytearray": (bytearray(b"x"), "bytes"),
    "memoryview": (memoryview(b"x"), "bytes"),
    "object": (object(), "str(value)"),
    "generator": ((n for n in ()), "list"),
    "class": (int, "str(value)"),
    "struct": (msgspec.Raw(b"1"), "str(value)"),
    "plain enum": (enum.Enum("Plain", "A").A, "str(value)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_value_of_another_type_is_refused_with_a_remedy(codec, kind):
    """The sentence has the place of the value, its type, and a replacement."""
    value, remedy = REFUSED[kind]
    error = refused(codec, {"type": "test", "value": value})
    assert error.where == "message['value']"
    assert error.value is value
    assert remedy in error.remedy
    assert f"message['value'] is {value!r}"[:60] in str(error)
    assert type(value).__name__ in str(error)


def test_bytes_are_refused_in_json():
    """The remedy is the other format, or text."""
    error = refused(JSONCodec(), {"type": "test", "value": [b"x"]})
    assert error.where == "message['value'][0]"
    assert 'serializer_format="msgpack"' in error.remedy


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_json_lacks_is_refused_there(value):
    """The value would arrive as None."""
    error = refused(JSONCodec(), {"type": "test", "in": {"list": [0, value]}})
    assert error.where == "message['in']['list'][1]"
    assert "JSON has no such number" in error.remedy


@pytest.mark.parametrize("key", [5, None, 1.5, b"bytes", ("a",), True])
def test_key_that_is_no_string_is_refused(codec, key):
    """The key would arrive as a string, or not at all."""
    error = refused(codec, {"type": "test", "in": [{key: 1}]})
    assert error.where == "a key of message['in'][0]"
    assert error.value is key
    assert "use str(key)" in error.remedy


def test_path_leads_through_lists_tuples_and_mappings(codec):
    """The depth of the value does not matter."""
    message = {"a": [1, ({"b c": [{"d": {1}}]},)]}
    assert refused(codec, message).where == "message['a'][1][0]['b c'][0]['d']"


def test_first_wrong_value_is_named(codec):
    """The first one in the order of the message counts."""
    assert refused(codec, {"a": 1, "b": {2}, "c": {3}}).where == "message['b']"


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_integer_beyond_64_bits_is_refused_in_msgpack(value):
    """MessagePack has no form for it."""
    error = refused(MsgPackCodec(), {"type": "test", "value": value})
    assert "2**64" in str(error)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**30])
def test_integer_beyond_64_bits_travels_in_json(value):
    """The value may also be refused, but never changed."""
    try:
        arrived = travelled(JSONCodec(), value)
    except InvalidMessage:
        return
    assert arrived == value


def test_lone_surrogate_is_refused(codec):
    """A lone surrogate is not a character, so UTF-8 has no form for it."""
    for message in ({"value": "\ud800"}, {"\ud800": 1}):
        assert "surrogates" in str(refused(codec, message))


def test_message_that_contains_itself_is_refused(codec):
    """The message may contain itself directly or through a list."""
    message = {"type": "test"}
    message["list"] = [message]
    assert "contains itself" in str(refused(codec, message))


@pytest.mark.parametrize("depth", [50, 200, 400, 600, 800, 900, 950, 990, 2000, 50_000])
@pytest.mark.parametrize("kind", ["lists", "mappings"])
def test_deep_message_travels_or_is_refused(codec, depth, kind):
    """The message never fails at a receiver, nor in the sentence that refuses it."""
    value = None
    for _ in range(depth):
        value = [value] if kind == "lists" else {"a": value}
    sentence = payload = None
    try:
        payload = codec.encode({"type": "test", "value": value})
    except InvalidMessage as exc:
        sentence = str(exc)
    while value is not None:
        # Taken apart from outside, because freeing a deep value at once may exceed the stack,
        # too.
        value = value[0] if kind == "lists" else value["a"]
    if payload is None:
        assert len(sentence) < 250
        assert depth > 50
    else:
        assert codec.decode(payload)["type"] == "test"


def test_large_value_is_shortened_in_the_sentence(codec):
    """The error's attributes still have all of it."""
    value = set(range(10_000))
    error = refused(codec, {"value": value})
    assert len(str(error)) < 250
    assert error.value is value


def test_invalid_message_is_a_type_error_of_the_layer(codec):
    """Code can catch either class."""
    error = refused(codec, {"value": {1}})
    assert isinstance(error, TypeError)
    assert isinstance(error, ChannelLayerError)
