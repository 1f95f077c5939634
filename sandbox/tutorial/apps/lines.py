"""Rules that all text consumers of the showcase share: valid lines, and their authors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import ChannelLayerError

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

MAX_LINE_LENGTH = 2_000

# Close code for a frame of the wrong kind.
UNSUPPORTED_DATA = 1003

# Names without spaces and colons, so that "name: text" can be taken apart again.
AUTHOR_NAME = re.compile(r"[\w-]{1,24}")


class NotSent(Exception):
    """Raise this in `receive_line`, with the sentence that the client receives."""


class LineConsumer(AsyncWebsocketConsumer):
    """
    A connection that takes lines of text.

    Implement `receive_line`. If a line is refused, or the broker cannot take it now, the
    client receives "not sent: ..." and the connection stays open.
    """

    # Far more than a line needs. A larger frame closes the connection with 1009.
    max_frame_size = 64 * 1024

    async def receive_line(self, line: str) -> None:
        raise NotImplementedError

    # TODO 2.3: refuse binary frames, check the line, and pass it to receive_line

    # TODO 3.9: tell the client that the broker was away


def checked(text: str) -> str:
    """Return `text` without surrounding spaces. Raise NotSent if it is empty or too long."""
    line = text.strip()
    if not line:
        raise NotSent("the message is empty")
    if len(line) > MAX_LINE_LENGTH:
        raise NotSent(f"the message has {len(line)} characters, at most {MAX_LINE_LENGTH} fit")
    return line


def author_name(consumer: AsyncWebsocketConsumer) -> str:
    """
    Return the name that others see beside this client's lines.

    The client chooses it with `?name=...` in the address; without a usable one it is a guest.
    A name proves nothing: an application with users takes it from their session instead.
    """
    name = query(consumer).get("name", [""])[0]
    return name if AUTHOR_NAME.fullmatch(name) else f"guest-{consumer.channel_name[-4:].lower()}"


def query(consumer: AsyncWebsocketConsumer) -> dict[str, list[str]]:
    """Return the parameters behind the `?` of the address."""
    return parse_qs(consumer.scope["query_string"].decode("latin-1"))
