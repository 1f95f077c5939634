"""
The resume protocol without any connection: places, envelopes, what a client may say.

docs/protocol.md describes it for those who write a client.
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

# The parameter of the query string that places are presented in, and the
# characters that its value may have: servers take little more in a request line.
PARAMETER = "resume"
MAX_PRESENTED = 8192

# What the server asks a silent client, and the answer to that. The number tells
# answers apart, and the server asks one question at a time.
PING = '{"ping":1}'
PONG = '{"pong":1}'

_PLACE = re.compile(r"(.+?)(?:\+([0-9]{1,9})(?:\*([0-9]))?)?", re.DOTALL)


class Place(NamedTuple):
    """How far a client has come in a group."""

    position: Position
    # Of the message there the client has this many frames; None if it has all it led to.
    frames: int | None = None
    # How often handlers have failed at that message for this client.
    failures: int = 0

    def __str__(self) -> str:
        if self.frames is None:
            return str(self.position)
        failed = f"*{self.failures}" if self.failures else ""
        return f"{self.position}+{self.frames}{failed}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Undo str(). Raises InvalidPosition for what it cannot have returned."""
        found = _PLACE.fullmatch(text)
        if found is None:
            raise InvalidPosition(text)
        position = Position.parse(found[1])
        if found[2] is None:
            return cls(position)
        if not position.offset:
            # Before the first message of all there is none to have frames of.
            raise InvalidPosition(text)
        return cls(position, int(found[2]), int(found[3] or 0))


def presented(query_string: bytes) -> dict[str, Place]:
    """Return the places in the query string of a handshake. Raises ValueError if they are none."""
    values = parse_qs(query_string.decode("latin-1"), keep_blank_values=True).get(PARAMETER, [])
    if not values:
        return {}
    (text,) = values
    if len(text) > MAX_PRESENTED:
        raise ValueError(f"{len(text)} characters are presented; {MAX_PRESENTED} are allowed")
    if "=" in text:
        raise ValueError("places are presented without padding")
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
        places = msgspec.json.decode(data, type=dict[str, str])
    except (binascii.Error, msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(f"no places: {exc}") from exc
    return {group: Place.parse(place) for group, place in places.items()}


class FromClient(msgspec.Struct, forbid_unknown_fields=True):
    """A text frame of a client: one of these."""

    t: str | msgspec.UnsetType = msgspec.UNSET
    ping: int | msgspec.UnsetType = msgspec.UNSET
    pong: int | msgspec.UnsetType = msgspec.UNSET


_decoder = msgspec.json.Decoder(FromClient)
_encoder = msgspec.json.Encoder()


def opened(text: str) -> FromClient:
    """Return what is in a text frame of a client. Raises ValueError for anything else."""
    try:
        frame = _decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ValueError(str(exc)) from exc
    if [frame.t, frame.ping, frame.pong].count(msgspec.UNSET) != 2:
        raise ValueError("a frame has one of the keys t, ping and pong")
    return frame


class Handling:
    """A message of a group while it is being handled, and the frames that it has led to."""

    __slots__ = ("_frames", "_position", "_replay", "_skip", "group", "position")

    def __init__(self, group: str, position: Position, *, replay: bool, skip: int) -> None:
        self.group = group
        self.position = position
        self._position = str(position)
        # Whether it was missed, and is made up for.
        self._replay = replay
        # How many of its frames the client had before.
        self._skip = skip
        self._frames = 0

    @property
    def frames(self) -> int:
        """How many of its frames the client has."""
        return max(self._frames, self._skip)

    def next_frame(self) -> dict[str, Any] | None:
        """Return what is told of the next frame; None if the client has it."""
        number = self._frames
        self._frames += 1
        if number < self._skip:
            return None
        about: dict[str, Any] = {"p": (self.group, self._position, number)}
        return {**about, "replay": True} if self._replay else about


def enveloped(event: ChannelMessage, about: Mapping[str, Any]) -> ChannelMessage:
    """Return the event that a frame of the application is sent as."""
    text = event.get("text")
    if text is not None:
        return frame({**about, "t": text})
    return frame({**about, "b": base64.b64encode(event["bytes"]).decode()})


def frame(content: Mapping[str, Any]) -> ChannelMessage:
    return {"type": "websocket.send", "text": _encoder.encode(content).decode()}
