"""
A connection whose client speaks the resume protocol: its envelopes, in both directions.

What it says of places is resuming.py's business; what it looks like, protocol.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from typing import TYPE_CHECKING, Any

from .close_codes import INVALID_DATA, Ending
from .connection import WebsocketConnection
from .resume.protocol import PING, PONG, Handling, enveloped, frame, opened

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from fast_channels.type_defs import ChannelMessage

# What the present task, or the one that has begun it, handles.
_handled: contextvars.ContextVar[Handling | None] = contextvars.ContextVar("handled", default=None)


class SpeakingConnection(WebsocketConnection):
    """Between WebsocketConnection, which knows of no protocol, and resuming.py."""

    # What is being handled, if it is a message with a position.
    _handling: Handling | None = None
    # The answer to the last ping. There is one at most, however often a client asks.
    _pong: asyncio.Task[None] | None = None

    def _speak(self) -> None:
        self._speaks = True
        self._gate.expect_pong(PONG)
        self._gate.unwrap = self._unwrapped

    async def _ended(self, failure: BaseException | None) -> None:
        try:
            await super()._ended(failure)
        finally:
            if self._pong is not None:
                self._pong.cancel()

    # -- what is handled ------------------------------------------------------

    @contextlib.contextmanager
    def _being_handled(self, handling: Handling) -> Generator[None]:
        """Let frames that are sent within the block be of a message."""
        self._handling = handling
        token = _handled.set(handling)
        try:
            yield
        finally:
            _handled.reset(token)
            self._handling = None

    def _handled_here(self) -> Handling | None:
        """
        Return what is being handled, if the caller is part of that.

        A task that a handler has begun is while the handler runs, and nobody is who handles
        something else, perhaps for another connection.
        """
        handling = self._handling
        return handling if handling is not None and _handled.get() is handling else None

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        if (handling := self._handled_here()) is not None:
            handling.failed = True
        await super()._failed(exc, message)

    # -- what goes out --------------------------------------------------------

    def _begin_enveloped(self, event: ChannelMessage) -> Awaitable[bool] | None:
        handling = self._handled_here()
        about: dict[str, Any] | None = {} if handling is None else handling.next_frame()
        return None if about is None else self._begin(enveloped(event, about))

    async def _ping(self) -> None:
        if not self._speaks:
            await super()._ping()
        elif self._state == "open" and not self.disconnected:
            await self._base_send({"type": "websocket.send", "text": PING})

    # -- what comes in --------------------------------------------------------

    def _unwrapped(self, event: ChannelMessage) -> ChannelMessage | None:
        text = event.get("text")
        if text is None:
            return event
        try:
            content = opened(text)
        except ValueError as exc:
            return self._gate.refuse(
                Ending(INVALID_DATA, f"no frame of the protocol: {exc}", "protocol")
            )
        if isinstance(content.t, str):
            return {**event, "text": content.t}
        if isinstance(content.ping, int):
            self._answer(content.ping)
        return None

    def _answer(self, number: int) -> None:
        """Answer a ping, also while a handler is busy; not while the last answer is unread."""
        if self._pong is None or self._pong.done():
            self._pong = asyncio.create_task(self._base_send(frame({"pong": number})))
