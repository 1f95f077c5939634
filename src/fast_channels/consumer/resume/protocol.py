"""
The resume protocol without any connection: places, envelopes, and frames of clients.

docs/protocol.md describes it for authors of clients.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs

import msgspec

from fast_channels.exceptions import InvalidPosition
from fast_channels.layers.position import Position

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fast_channels.type_defs import ChannelMessage

SUBPROTOCOL = "fast-channels.resume.v1"

# The parameter of the query string with a client's places, and its largest number of
# characters: servers accept little more in a request line.
PARAMETER = "resume"
MAX_PRESENTED_CHARACTERS = 8192

# The ping to a silent client, and its answer. The number is always 1, because the server sends
# one ping at a time.
PING = '{"ping":1}'
PONG = '{"pong":1}'

_PLACE = re.compile(r"(.+?)(?:\+([0-9]{1,9})(?:\*([0-9]))?)?", re.DOTALL)


class Place(NamedTuple):
    """The progress of a client in a group."""

    position: Position
    # Number of frames of the message there that the client has; None if it has all of them.
    frames: int | None = None
    # Number of times that handlers have failed at that message for this client.
    failures: int = 0

    def __str__(self) -> str:
        if self.frames is None:
            return str(self.position)
        failed = f"*{self.failures}" if self.failures else ""
        return f"{self.position}+{self.frames}{failed}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Undo str(). Raises InvalidPosition for a text that str() cannot have returned."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise InvalidPosition(text)
        position = Position.parse(found[1])
        if found[2] is None:
            return cls(position)
        if not position.offset:
            # The position before the first message has no message with frames.
            raise InvalidPosition(text)
        return cls(position, int(found[2]), int(found[3] or 0))


def presented(query_string: bytes) -> dict[str, Place]:
    """Return the places in the query string of a handshake. Raises ValueError if invalid."""
    values = parse_qs(query_string.decode("latin-1"), keep_blank_values=True).get(PARAMETER, [])
    if not values:
        return {}
    (text,) = values
    if len(text) > MAX_PRESENTED_CHARACTERS:
        raise ValueError(
            f"the places have {len(text)} characters; {MAX_PRESENTED_CHARACTERS} are allowed"
        )
    if "=" in text:
        raise ValueError("places are encoded without padding")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        places = msgspec.json.decode(data, type=dict[str, str])
    except (binascii.Error, msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"the places are invalid: {exc}") from exc
    return {group: Place.parse(place) for group, place in places.items()}


class FromClient(msgspec.Struct, forbid_unknown_fields=True):
    """A text frame of a client, with exactly one of these keys."""

    t: str | msgspec.UnsetType = msgspec.UNSET
    ping: int | msgspec.UnsetType = msgspec.UNSET
    pong: int | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(FromClient)
_encoder = msgspec.json.Encoder()


def opened(text: str) -> FromClient:
    """Return the content of a text frame of a client. Raises ValueError if it is invalid."""
    try:
        frame = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    if [frame.t, frame.ping, frame.pong].count(msgspec.UNSET) != 2:
        raise ValueError("a frame has one of the keys t, ping and pong")
    return frame


class Handling:
    """A message of a group while it is handled, with the number of its frames so far."""

    __slots__ = ("_frames", "_position", "_replay", "_skip", "group", "position")

    def __init__(self, group: str, position: Position, *, replay: bool, skip: int) -> None:
        self.group = group
        self.position = position
        self._position = str(position)
        # True if the client had missed the message.
        self._replay = replay
        # Number of frames that the client had before.
        self._skip = skip
        self._frames = 0

    @property
    def frames(self) -> int:
        """The number of frames of the message that the client has."""
        return max(self._frames, self._skip)

    def next_frame(self) -> dict[str, Any] | None:
        """Return the envelope's keys for the next frame; None if the client has the frame."""
        number = self._frames
        self._frames += 1
        if number < self._skip:
            return None
        about: dict[str, Any] = {"p": (self.group, self._position, number)}
        return {**about, "replay": True} if self._replay else about


def enveloped(event: ChannelMessage, about: Mapping[str, Any]) -> ChannelMessage:
    """Return a frame of the application in its envelope, as an event for the server."""
    text = event.get("text")
    if text is not None:
        return frame({**about, "t": text})
    return frame({**about, "b": base64.b64encode(event["bytes"]).decode()})


def frame(content: Mapping[str, Any]) -> ChannelMessage:
    """Return a frame of the protocol as an event for the server."""
    return {"type": "websocket.send", "text": _encoder.encode(content).decode()}
