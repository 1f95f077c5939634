"""
Formats of messages in Redis, and how to add one.

Subclass `BaseMessageSerializer`, register it under a name, and pass that name as
`serializer_format`. The base class adds encryption and the random prefix.
"""

from __future__ import annotations

import abc
import base64
import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_channels.exceptions import InvalidChannelLayerError, MissingExtra
from fast_channels.layers.codecs import JSONCodec, MsgPackCodec
from fast_channels.layers.names import ADDRESS_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_channels.type_defs import ChannelMessage

    from .type_defs import SymmetricEncryptionKeys


class SerializerDoesNotExist(KeyError):
    """No serializer is registered for `format`. `known` lists the registered ones."""

    def __init__(self, format: str, known: Sequence[str] = ()) -> None:
        super().__init__(format)
        self.format = format
        self.known = tuple(known)

    def __str__(self) -> str:
        known = ", ".join(map(repr, self.known)) or "none"
        return f"no serializer is called {self.format!r}; registered: {known}"


class Envelope:
    """
    The envelope of a payload in Redis: a random prefix, and encryption.

    The random prefix makes equal messages different members of a sorted set. A key becomes
    a Fernet key as base64(sha256(key)). The first key encrypts and all of them decrypt, so
    that keys can be rotated.
    """

    def __init__(
        self,
        keys: Sequence[str | bytes] | None = None,
        prefix_length: int = 0,
        ttl: int | None = None,
    ) -> None:
        if isinstance(keys, (str, bytes)):
            raise InvalidChannelLayerError(
                f"symmetric_encryption_keys is a single {type(keys).__name__}; "
                "pass a list of keys, the newest first"
            )
        self.prefix_length = prefix_length
        self.ttl = ttl
        """Seconds after which an encrypted payload is refused; None for never."""
        self._fernet = multi_fernet(keys) if keys else None

    @property
    def encrypts(self) -> bool:
        return self._fernet is not None

    def seal(self, payload: bytes) -> bytes:
        if self._fernet is not None:
            payload = self._fernet.encrypt(payload)
        return os.urandom(self.prefix_length) + payload

    def open(self, sealed: bytes) -> bytes:
        payload = sealed[self.prefix_length :]
        if self._fernet is not None:
            payload = self._fernet.decrypt(payload, self.ttl)
        return payload


def multi_fernet(keys: Sequence[str | bytes]) -> Any:
    """Return the MultiFernet of some keys. Raises MissingExtra without `cryptography`."""
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - optional
    except ImportError:
        raise MissingExtra("encryption", "encryption") from None
    digests = (hashlib.sha256(k.encode() if isinstance(k, str) else k).digest() for k in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])


class Around(NamedTuple):
    """A sealed message without the names of its receivers."""

    format: str
    """Format of the list of names to insert: "msgpack" or "json"."""
    before: bytes
    """The bytes before the list of names."""
    after: bytes
    """The bytes after the list of names."""


class BaseMessageSerializer(abc.ABC):
    """
    Turns messages into bytes and back, in an envelope of encryption and a random prefix.

    `expiry` is the age in seconds at which an encrypted message is refused.
    """

    def __init__(
        self,
        symmetric_encryption_keys: SymmetricEncryptionKeys | None = None,
        random_prefix_length: int = 0,
        expiry: int | None = None,
    ) -> None:
        # Ten seconds more, because clocks differ.
        ttl = None if expiry is None else int(expiry) + 10
        self._envelope = Envelope(symmetric_encryption_keys, random_prefix_length, ttl)

    @abc.abstractmethod
    def as_bytes(self, message: ChannelMessage) -> bytes:
        """Return a message in this format. Raises InvalidMessage for a value it cannot hold."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes) -> Any:
        """Undo `as_bytes`."""

    def address(self, payload: bytes, to: str | list[str]) -> bytes:
        """Add the names of its receivers to a result of as_bytes()."""
        return self.as_bytes({**self.from_bytes(payload), ADDRESS_KEY: to})

    def around(self, payload: bytes) -> Around | None:  # noqa: ARG002 - for subclasses
        """
        Return the bytes that address() and seal() put around a list of names.

        The server can then insert the list. Return None if this format cannot do that. A
        subclass that overrides one of the two methods also overrides this one.
        """
        return None

    def seal(self, payload: bytes) -> bytes:
        """Put the envelope around a result of as_bytes()."""
        return self._envelope.seal(payload)

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return a message in this format, in its envelope."""
        return self.seal(self.as_bytes(message))

    def deserialize(self, message: bytes) -> Any:
        """Undo `serialize`."""
        return self.from_bytes(self._envelope.open(message))


class SealedCodec:
    """Makes a serializer the codec of a layer that sends payloads as they are encoded."""

    def __init__(self, serializer: BaseMessageSerializer) -> None:
        self.encode = serializer.serialize
        self.decode = serializer.deserialize


class OpenCodec:
    """Makes a serializer the codec of a layer with a broker that adds the envelope itself."""

    def __init__(self, serializer: BaseMessageSerializer) -> None:
        self.encode = serializer.as_bytes
        self.decode = serializer.from_bytes


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack, the format "msgpack": the default, which also has bytes."""

    _codec = MsgPackCodec()
    # The key of the pair with the names of the receivers.
    _key = _codec.encode({ADDRESS_KEY: []})[1:-1]

    def as_bytes(self, message: ChannelMessage) -> bytes:
        return self._codec.encode(message)

    def from_bytes(self, message: bytes) -> Any:
        return self._codec.decode(message)

    def address(self, payload: bytes, to: str | list[str]) -> bytes:
        """
        Add the names of the receivers as the first pair, without decoding the others.

        A map begins with its length: 0x80 to 0x8f for up to 15 pairs, 0xde and two bytes, or
        0xdf and four (MessagePack specification, "map format family"). A map of one pair,
        without its first byte, is a pair.
        """
        size, start = _map_header(payload)
        pair = self._codec.encode({ADDRESS_KEY: to})[1:]
        return _packed_map_header(size + 1) + pair + payload[start:]

    def around(self, payload: bytes) -> Around | None:
        if self._envelope.encrypts:
            return None
        size, start = _map_header(payload)
        before = _packed_map_header(size + 1) + self._key
        return Around("msgpack", self.seal(before), payload[start:])


class JSONSerializer(BaseMessageSerializer):
    """JSON, the format "json". It has no bytes, and not every float."""

    _codec = JSONCodec()

    def as_bytes(self, message: ChannelMessage) -> bytes:
        return self._codec.encode(message)

    def from_bytes(self, message: bytes) -> Any:
        return self._codec.decode(message)

    def address(self, payload: bytes, to: str | list[str]) -> bytes:
        """Add the names of the receivers as the first pair, without decoding the others."""
        first = self._codec.encode({ADDRESS_KEY: to})[:-1]
        return first + _rest_of_object(payload)

    def around(self, payload: bytes) -> Around | None:
        if self._envelope.encrypts:
            return None
        before = self._codec.encode({ADDRESS_KEY: []})[: -len("[]}")]
        return Around("json", self.seal(before), _rest_of_object(payload))


def _rest_of_object(payload: bytes) -> bytes:
    """Return the text after a first pair that is put in front of the pairs of `payload`."""
    return b"}" if payload == b"{}" else b"," + payload[1:]


def _map_header(payload: bytes) -> tuple[int, int]:
    """Return how many pairs a packed map has, and the offset of the first."""
    if payload[0] == 0xDE:
        return int.from_bytes(payload[1:3], "big"), 3
    if payload[0] == 0xDF:
        return int.from_bytes(payload[1:5], "big"), 5
    return payload[0] & 0x0F, 1


def _packed_map_header(size: int) -> bytes:
    if size < 16:
        return bytes([0x80 | size])
    if size < 1 << 16:
        return b"\xde" + size.to_bytes(2, "big")
    return b"\xdf" + size.to_bytes(4, "big")


class SerializersRegistry:
    """Serializer classes by the name of their format."""

    def __init__(self) -> None:
        self._registry: dict[str, type[Any]] = {}

    def register_serializer(self, format: str, serializer_class: type[Any]) -> None:
        """Add a format: a subclass of BaseMessageSerializer, or serialize() and deserialize()."""
        if not all(hasattr(serializer_class, name) for name in ("serialize", "deserialize")):
            raise TypeError(
                f"{serializer_class!r} cannot be the serializer {format!r}: it has no serialize() "
                "and deserialize(); subclass BaseMessageSerializer"
            )
        self._registry[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> BaseMessageSerializer:
        """Return a new serializer. Raises SerializerDoesNotExist."""
        if format not in self._registry:
            raise SerializerDoesNotExist(format, list(self._registry))
        serializer = self._registry[format](*args, **kwargs)
        if isinstance(serializer, BaseMessageSerializer):
            return serializer
        return _WholeSerializer(serializer)


class _WholeSerializer(BaseMessageSerializer):
    """Adapts a serializer with its own envelope, which each address has to make again."""

    def __init__(self, serializer: Any) -> None:
        super().__init__()
        self._whole = serializer

    def as_bytes(self, message: ChannelMessage) -> bytes:
        payload: bytes = self._whole.serialize(message)
        return payload

    def from_bytes(self, message: bytes) -> Any:
        return self._whole.deserialize(message)


registry = SerializersRegistry()
"""The registry in which the layers look for a `serializer_format`."""
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)
