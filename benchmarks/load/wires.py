"""Formats of frames: plain text, or the frames of Socket.IO."""

from __future__ import annotations

import json
from typing import Protocol


class Wire(Protocol):
    """The format of frames of one kind of server. Knows nothing about connections."""

    # True if a connection is ready when the server has accepted it.
    ready_at_once: bool

    def path(self, purpose: str) -> str:
        """Return the path for "room", "echo" or "publish"."""

    def answer(self, frame: str, purpose: str) -> str | None:
        """Return the client's reply to a frame without a text of the suite, or None."""

    def is_ready(self, frame: str) -> bool:
        """Return True if the connection is ready after this frame."""

    def wrap(self, text: str, purpose: str) -> str:
        """Return the frame that sends a text."""

    def start_of_text(self) -> int:
        """Return how many characters of a received frame come before the text."""


class Plain:
    """A frame is a text."""

    ready_at_once = True

    def path(self, purpose: str) -> str:
        return f"/{purpose}"

    def answer(self, frame: str, purpose: str) -> str | None:  # noqa: ARG002
        return None

    def is_ready(self, frame: str) -> bool:  # noqa: ARG002
        return True

    def wrap(self, text: str, purpose: str) -> str:  # noqa: ARG002
        return text

    def start_of_text(self) -> int:
        return 0


class SocketIO:
    """Engine.IO 4 on a WebSocket from the beginning, without polling."""

    ready_at_once = False
    prefix = '42["message","'

    def path(self, purpose: str) -> str:
        return f"/socket.io/?EIO=4&transport=websocket&purpose={purpose}"

    def answer(self, frame: str, purpose: str) -> str | None:  # noqa: ARG002
        if frame.startswith("0"):
            return "40"
        return "3" if frame == "2" else None

    def is_ready(self, frame: str) -> bool:
        return frame.startswith("40")

    def wrap(self, text: str, purpose: str) -> str:
        return "42" + json.dumps([purpose, text], separators=(",", ":"))

    def start_of_text(self) -> int:
        return len(self.prefix)


WIRES: dict[str, Wire] = {"plain": Plain(), "socketio": SocketIO()}
