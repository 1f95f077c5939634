"""
Codecs turn messages into bytes and back.

A codec decides which values a message may have. `check_values` finds values that would arrive
changed or not at all, so that the sender gets an error instead of a receiver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fast_channels.exceptions import InvalidMessage

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage


class Codec(Protocol):
    """Turns a message into bytes and back."""

    def encode(self, message: ChannelMessage, /) -> bytes:
        """Return the payload. Raise InvalidMessage if `decode` would return another message."""
        ...

    def decode(self, payload: bytes, /) -> Any:
        """Undo `encode`. A payload for which this raises is skipped, counted and logged."""
        ...


class MsgPackCodec:
    """MessagePack, in the default form of msgpack-python."""

    # Types without inner values that arrive unchanged.
    scalars = frozenset({type(None), bool, int, float, str, bytes})

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
        self.decode = msgspec.msgpack.Decoder().decode

    def encode(self, message: ChannelMessage) -> bytes:
        check_values(message, self.scalars)
        return _encoded(self._encoder.encode, message)


class JSONCodec:
    """JSON in UTF-8."""

    # Bytes and some floats have no form in JSON.
    scalars = frozenset({type(None), bool, int, str})

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)
        self.decode = msgspec.json.Decoder().decode

    def encode(self, message: ChannelMessage) -> bytes:
        check_values(message, self.scalars)
        return _encoded(self._encoder.encode, message)


def _plain(value: Any) -> Any:
    """Return a plain value for a value of a subclass, which msgspec does not encode."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, str):
        # The method of str itself, because a subclass may override it.
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no form in a payload")


def _encoded(encode: Any, message: ChannelMessage) -> bytes:
    try:
        payload: bytes = encode(message if isinstance(message, dict) else dict(message))
    except (OverflowError, RecursionError, TypeError, ValueError) as exc:
        # Examples: an int beyond 64 bits, a lone surrogate, too deep nesting.
        raise InvalidMessage("message", message, f"cannot be encoded: {exc}") from exc
    return payload


def check_values(message: ChannelMessage, scalars: frozenset[type]) -> None:
    """Raise InvalidMessage, with the path, for a value that would arrive changed."""
    try:
        _check_mapping(message, scalars, "message")
    except RecursionError:
        raise InvalidMessage("message", "...", "contains itself, or is nested too deep") from None


def _check_mapping(mapping: Mapping[Any, Any], scalars: frozenset[type], where: str) -> None:
    for key, value in mapping.items():
        if type(key) is not str and not isinstance(key, str):
            remedy = "keys must be strings; use str(key)"
            raise InvalidMessage(f"a key of {where}", key, remedy)
        if type(value) not in scalars:
            _check_value(value, scalars, f"{where}[{key!r}]")


def _check_value(value: Any, scalars: frozenset[type], where: str) -> None:
    if isinstance(value, Mapping):
        _check_mapping(value, scalars, where)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            if type(item) not in scalars:
                _check_value(item, scalars, f"{where}[{index}]")
    elif isinstance(value, float):
        # Only JSON gets here, because floats are scalars in MessagePack.
        if not math.isfinite(value):
            raise InvalidMessage(where, value, "JSON has no such number; send None or a string")
    elif not isinstance(value, tuple(scalars)):
        raise InvalidMessage(where, value, _value_remedy(value))


def _value_remedy(value: object) -> str:
    if hasattr(value, "isoformat"):
        return "would arrive as something else; send value.isoformat()"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return 'use serializer_format="msgpack", with bytes(value), or encode it as text'
    if isinstance(value, (set, frozenset)):
        return "sets do not travel; send a list"
    return "would not arrive as it is; send str(value) or plain numbers, strings, lists, mappings"
