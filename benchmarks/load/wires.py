"""What goes over a WebSocket besides the text: nothing, or the frames of Socket.IO."""

from __future__ import annotations

import json
from typing import Protocol


class Wire(Protocol):
    """How one kind of server is spoken to. Knows frames, and no connection."""

    # Whether a connection is of use as soon as the server has accepted it.
    ready_at_once: bool

    def path(self, purpose: str) -> str:
        """Where to connect to for "room", "echo" or "publish"."""

    def answer(self, frame: str, purpose: str) -> str | None:
        """What the client has to reply to a frame that carries no text of ours."""

    def is_ready(self, frame: str) -> bool:
        """Whether with this frame the connection has become of use."""

    def wrap(self, text: str, purpose: str) -> str:
        """Make the frame that sends a text."""

    def start_of_text(self) -> int:
        """How many characters of a received frame come before the text."""


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
    """Engine.IO 4 on a WebSocket from the first moment, no polling."""

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
