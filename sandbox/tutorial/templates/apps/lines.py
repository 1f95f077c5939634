"""What the text consumers of the showcase share: the check of what a client typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_channels.consumer import AsyncWebsocketConsumer
from fast_channels.exceptions import ChannelLayerError

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage

MAX_LINE_LENGTH = 2_000

UNSUPPORTED_DATA = 1003


class NotSent(Exception):
    """Raise in `receive_line` with the sentence that the client is to read."""


class LineConsumer(AsyncWebsocketConsumer):
    """
    A connection that takes lines of text.

    Implement `receive_line`. A line that is refused, or that the broker cannot
    take now, is answered with "not sent: ..." and the connection stays open.
    """

    # Far more than a line. What is larger closes the connection with 1009.
    max_frame_size = 64 * 1024

    async def receive_line(self, line: str) -> None:
        raise NotImplementedError

    # TODO 2.4: refuse binary frames, check the line, and pass it to receive_line

    # TODO 3.10: tell the client when the broker was away


def checked(text: str) -> str:
    """Return `text` without the spaces around it; raises NotSent unless it is a line to pass on."""
    line = text.strip()
    if not line:
        raise NotSent("the message is empty")
    if len(line) > MAX_LINE_LENGTH:
        raise NotSent(f"the message has {len(line)} characters, at most {MAX_LINE_LENGTH} fit")
    return line
