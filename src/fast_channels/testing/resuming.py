"""A WebSocket client for tests that keeps its positions, and resumes from them."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from fast_channels.consumer.resume.protocol import PARAMETER, SUBPROTOCOL

from .websocket import WebsocketCommunicator

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fast_channels.type_defs import ASGI3Application, ChannelHeaders


class Received(NamedTuple):
    """A frame of the application."""

    data: str | bytes
    """The text or bytes of the frame."""

    place: tuple[str, str, int] | None = None
    """
    Group and position of the message that led to the frame, and the frame's number.

    The number counts the frames of that message; None if the frame is never replayed.
    """

    replay: bool = False
    """True if the client had missed the frame and the server sent it after the reconnect."""


class ResumingCommunicator(WebsocketCommunicator):
    """
    A connection of a client that speaks the resume protocol.

    The methods send and receive frames of the application; attributes keep the other frames of
    the server. After `cut()`, or any other end, `await client.again()` returns the same client
    on a new connection, which sends its places and gets the missed frames.
    """

    def __init__(
        self,
        application: ASGI3Application,
        path: str,
        headers: ChannelHeaders | None = None,
        subprotocols: Iterable[str] = (),
        spec_version: str | None = None,
        *,
        places: Mapping[str, str] | None = None,
    ) -> None:
        subprotocols = tuple(subprotocols)
        # Used again by later connections of this client.
        self._made_with = (path, headers, subprotocols, spec_version)
        offered = (SUBPROTOCOL, *subprotocols)
        asked = f"{path}{'&' if '?' in path else '?'}{PARAMETER}={encoded_places(places)}"
        super().__init__(application, asked if places else path, headers, offered, spec_version)
        self.speaks = False
        """True if the application has chosen the protocol."""

        self.places: dict[str, str] = dict(places or {})
        """The client's position in each group."""

        self.resumed: dict[str, dict[str, Any]] = {}
        """The server's report about each group that was joined on this connection."""

        self.retry: float | None = None
        """Seconds that the server wants the client to wait before it reconnects."""

        self.pongs: list[int] = []
        """Numbers of pings that the server has answered."""

    async def connect(self, timeout: float = 1) -> tuple[bool, int | str | None]:
        accepted, subprotocol = await super().connect(timeout)
        self.speaks = accepted and subprotocol == SUBPROTOCOL
        return accepted, subprotocol

    async def again(self, application: ASGI3Application | None = None, timeout: float = 1) -> Self:
        """
        Return the same client on a new connection, which must be accepted.

        Pass another `application` to reconnect to another server.
        """
        client = type(self)(application or self.application, *self._made_with, places=self.places)
        accepted, code = await client.connect(timeout)
        if not accepted:
            raise AssertionError(f"the application rejects the client that comes back: {code!r}")
        return client

    async def cut(self, timeout: float = 1) -> None:
        """Break the connection and drop frames in transit; wait for the application to end."""
        await self.disconnect(1006, timeout)

    async def send_to(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if self.speaks and text_data is not None:
            text_data = _encode({"t": text_data})
        await super().send_to(text_data, bytes_data)

    async def ping(self, number: int) -> None:
        """Send a ping; the server's answer goes to `pongs`."""
        await super().send_to(_encode({"ping": number}))

    async def receive_from(self, timeout: float = 1) -> str | bytes:
        """Return the next frame of the application, text or bytes."""
        return (await self.receive_frame(timeout)).data

    async def receive_frame(self, timeout: float = 1) -> Received:
        """Return the next frame of the application with its place."""
        while True:
            told = await self.receive_told(timeout)
            if isinstance(told, Received):
                return told

    async def receive_told(self, timeout: float = 1) -> Received | dict[str, Any]:
        """Return the next frame, either of the application or of the protocol itself."""
        data = await super().receive_from(timeout)
        if not self.speaks:
            return Received(data)
        content: dict[str, Any] = msgspec.json.decode(data)
        if "p" in content:
            group, position, number = content["p"]
            self.places[group] = f"{position}+{number + 1}"
        if not content.keys() & {"t", "j", "b"}:
            await self._note(content)
            return content
        place = tuple(content["p"]) if "p" in content else None
        return Received(_data(content), place, content.get("replay", False))

    async def _note(self, content: Mapping[str, Any]) -> None:
        for group, report in content.get("resume", {}).items():
            self.resumed[group] = report
            self.places[group] = report["position"]
        self.places.update(content.get("at", {}))
        self.retry = content.get("retry", self.retry)
        if "pong" in content:
            self.pongs.append(content["pong"])
        if "ping" in content:
            await super().send_to(_encode({"pong": content["ping"]}))


def encoded_places(places: Mapping[str, str] | None) -> str:
    """Return places in the form for the query string of a handshake."""
    return base64.urlsafe_b64encode(msgspec.json.encode(places or {})).decode().rstrip("=")


def _data(content: Mapping[str, Any]) -> str | bytes:
    if "b" in content:
        return base64.b64decode(content["b"])
    text: str = content["t"] if "t" in content else _encode(content["j"])
    return text


def _encode(content: Any) -> str:
    return msgspec.json.encode(content).decode()
