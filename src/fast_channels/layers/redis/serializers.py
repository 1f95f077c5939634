"""
How messages become bytes in Redis, and formats of your own.

Subclass `BaseMessageSerializer`, register it under a name, and pass that name
as `serializer_format`. Encryption and the random prefix come with the base class.
"""

from __future__ import annotations

import abc
import base64
import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_channels.exceptions import InvalidChannelLayerError, MissingExtra
from fast_channels.layers.codecs import JSONCodec, MsgPackCodec
from fast_channels.layers.hub import ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fast_channels.type_defs import ChannelMessage

    from .type_defs import SymmetricEncryptionKeys


class SerializerDoesNotExist(KeyError):
    """No serializer is registered for a format; `known` are those that are."""

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
        # Seconds after which an encrypted payload is refused; None for never.
        self.ttl = ttl
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
    """Return the MultiFernet of these keys; raises MissingExtra without `cryptography`."""
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - optional
    except ImportError:
        raise MissingExtra("encryption", "encryption") from None
    digests = (hashlib.sha256(k.encode() if isinstance(k, str) else k).digest() for k in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(digest)) for digest in digests])


class Around(NamedTuple):
    """A sealed message without the names of its receivers."""

    # How a list is written there: "msgpack" or "json".
    format: str
    before: bytes
    after: bytes


class BaseMessageSerializer(abc.ABC):
    """
    Message ⇄ bytes, in an envelope of encryption and a random prefix.

    `expiry` is in seconds: an encrypted message that is older is refused.
    """

    def __init__(
        self,
        symmetric_encryption_keys: SymmetricEncryptionKeys | None = None,
        random_prefix_length: int = 0,
        expiry: int | None = None,
    ) -> None:
        # Ten seconds more, for clocks that differ.
        ttl = None if expiry is None else int(expiry) + 10
        self._envelope = Envelope(symmetric_encryption_keys, random_prefix_length, ttl)

    @abc.abstractmethod
    def as_bytes(self, message: ChannelMessage) -> bytes:
        """Return a message in this format. Raises InvalidMessage for what cannot travel."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes) -> Any:
        """Undo `as_bytes`."""

    def address(self, payload: bytes, to: str | list[str]) -> bytes:
        """Return what as_bytes() made, with the names of its receivers in it."""
        return self.as_bytes({**self.from_bytes(payload), ADDRESS: to})

    def around(self, payload: bytes) -> Around | None:  # noqa: ARG002 - any format knows better
        """
        Return what address() and seal() put around a list of names, for a server to insert it.

        None if that cannot be done. Who overrides one of the two overrides this, too.
        """
        return None

    def seal(self, payload: bytes) -> bytes:
        """Put the envelope around what as_bytes() made."""
        return self._envelope.seal(payload)

    def serialize(self, message: ChannelMessage) -> bytes:
        """Return what travels: the message in this format, in its envelope."""
        return self.seal(self.as_bytes(message))

    def deserialize(self, message: bytes) -> Any:
        """Undo `serialize`."""
        return self.from_bytes(self._envelope.open(message))


class SealedCodec:
    """A serializer as the codec of a layer whose payloads travel as they are encoded."""

    def __init__(self, serializer: BaseMessageSerializer) -> None:
        self.encode = serializer.serialize
        self.decode = serializer.deserialize


class OpenCodec:
    """The same for a layer whose broker addresses and seals payloads itself."""

    def __init__(self, serializer: BaseMessageSerializer) -> None:
        self.encode = serializer.as_bytes
        self.decode = serializer.from_bytes


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack, the format "msgpack": the default, which also has bytes."""

    _codec = MsgPackCodec()
    # Of the pair that says for whom a message is.
    _key = _codec.encode({ADDRESS: []})[1:-1]

    def as_bytes(self, message: ChannelMessage) -> bytes:
        return self._codec.encode(message)

    def from_bytes(self, message: bytes) -> Any:
        return self._codec.decode(message)

    def address(self, payload: bytes, to: str | list[str]) -> bytes:
        """
        Add the key in front of the others, without decoding them.

        A map begins with its length: 0x80 to 0x8f for up to 15 pairs, 0xde and
        two bytes, or 0xdf and four (MessagePack specification, "map format
        family"). A map of one pair, without its first byte, is a pair.
        """
        size, start = _map_header(payload)
        pair = self._codec.encode({ADDRESS: to})[1:]
        return _packed_map_header(size + 1) + pair + payload[start:]

    def around(self, payload: bytes) -> Around | None:
        if self._envelope.encrypts:
            return None
        size, start = _map_header(payload)
        before = _packed_map_header(size + 1) + self._key
        return Around("msgpack", self.seal(before), payload[start:])


class JSONSerializer(BaseMessageSerializer):
    """JSON, the format "json". Bytes have no form in it, nor has every float."""

    _codec = JSONCodec()

    def as_bytes(self, message: ChannelMessage) -> bytes:
        return self._codec.encode(message)

    def from_bytes(self, message: bytes) -> Any:
        return self._codec.decode(message)

    def address(self, payload: bytes, to: str | list[str]) -> bytes:
        """Add the key in front of the others, without decoding them."""
        first = self._codec.encode({ADDRESS: to})[:-1]
        return first + _rest_of_object(payload)

    def around(self, payload: bytes) -> Around | None:
        if self._envelope.encrypts:
            return None
        before = self._codec.encode({ADDRESS: []})[: -len("[]}")]
        return Around("json", self.seal(before), _rest_of_object(payload))


def _rest_of_object(payload: bytes) -> bytes:
    """Return what follows the first pair of a JSON object if the others are those of `payload`."""
    return b"}" if payload == b"{}" else b"," + payload[1:]


def _map_header(payload: bytes) -> tuple[int, int]:
    """Return how many pairs a packed map has, and where they begin."""
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
        """Return a new serializer; raises SerializerDoesNotExist."""
        if format not in self._registry:
            raise SerializerDoesNotExist(format, list(self._registry))
        serializer = self._registry[format](*args, **kwargs)
        if isinstance(serializer, BaseMessageSerializer):
            return serializer
        return _WholeSerializer(serializer)


class _WholeSerializer(BaseMessageSerializer):
    """A serializer that makes its envelope itself, and so must make it anew for an address."""

    def __init__(self, serializer: Any) -> None:
        super().__init__()
        self._whole = serializer

    def as_bytes(self, message: ChannelMessage) -> bytes:
        payload: bytes = self._whole.serialize(message)
        return payload

    def from_bytes(self, message: bytes) -> Any:
        return self._whole.deserialize(message)


# Where the layers look for a `serializer_format`.
registry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)
