"""
Replays missed messages from the logs of groups, in turn with live messages.

Missed messages do not pass through the mailbox, so they cannot fill it. The loop and the
socket call `Resume` at five points: `next` and `place` decide what is handled, `wrap` and
`unwrap` put frames into envelopes, and `farewell` speaks last.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from typing import TYPE_CHECKING, Any

from fast_channels.consumer.close_codes import (
    GOING_AWAY,
    INTERNAL_ERROR,
    INVALID_DATA,
    POLICY_VIOLATION,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
    Ending,
)
from fast_channels.exceptions import LayerClosed, LayerUnavailable, StopConsumer
from fast_channels.layers.mailbox import Notice
from fast_channels.layers.position import Position

from .progress import GroupProgress, Missed, Progress
from .protocol import (
    PING,
    PONG,
    SUBPROTOCOL,
    Handling,
    Place,
    enveloped,
    frame,
    opened,
    presented,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from fast_channels.consumer.ws_state import WebsocketState
    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.type_defs import ChannelMessage

logger = logging.getLogger("fast_channels.consumer")

# Messages that are read from a log in one go by a connection that has fallen behind.
MAX_READ = 100

# Missed messages to handle before other connections get a turn. With one per turn, a sixth
# more CPU time is used if many clients resume at once, because each turn finds its data
# evicted from the processor's cache.
MISSED_PER_TURN = 16

# How long the frames before a close frame may take.
FAREWELL_TIMEOUT_SECONDS = 1.0

# Failures of handlers at one message for one client, after which the message is skipped.
# Without this limit, a client might get nothing but that message after each reconnect.
MAX_FAILURES = 3

# Close codes after which a client should reconnect, and is told when.
COME_BACK_CODES = frozenset({GOING_AWAY, INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER})

# The message that the running task handles, or the task that has begun it.
_handled: contextvars.ContextVar[Handling | None] = contextvars.ContextVar("handled", default=None)


class Resume:
    """The resume protocol for one connection with a client that offers it."""

    # Delay after a message before the client is told its new position.
    position_delay_seconds = 1.0

    def __init__(self, socket: WebsocketState) -> None:
        self._socket = socket
        self._runner = socket.runner
        self._retry_after = socket.consumer.retry_after
        # True if the consumer has chosen the protocol. It may choose another one.
        self.speaks = False
        self._valid = True
        self._progress = Progress(self._presented())
        # The message that is being handled, if it has a position.
        self._handling: Handling | None = None
        # Number of failures of handlers at that message for this client.
        self._failures = 0
        # Runs from the first message with a position that the client has not been told.
        self._position_timer: asyncio.TimerHandle | None = None
        self._position_due = False
        # The task that answers the last ping. At most one runs, for any number of pings.
        self._pong: asyncio.Task[None] | None = None

    # -- handshake ------------------------------------------------------------

    def _presented(self) -> dict[str, Place]:
        try:
            return presented(self._runner.scope.get("query_string", b""))
        except ValueError as exc:
            logger.debug("%s: invalid resume request: %s", self._runner.name, exc)
            self._valid = False
            return {}

    def invalid_request(self) -> Ending | None:
        """Return the end of a connection with an invalid handshake; None if it is valid."""
        return None if self._valid else Ending(POLICY_VIOLATION, "invalid resume", "protocol")

    def accepts(self, subprotocol: str | None) -> str:
        """Return the subprotocol to accept with: the consumer's choice, or this one."""
        if subprotocol in (None, SUBPROTOCOL):
            self.speaks = True
            self._socket.speak(PONG, self.unwrap)
            return SUBPROTOCOL
        # The connection goes on without the protocol, and loses nothing by that.
        self._progress.keep_unread()
        return str(subprotocol)

    def ping(self, text: str) -> str:
        """Return the heartbeat of this client."""
        return PING if self.speaks else text

    def stop(self) -> None:
        if self._position_timer is not None:
            self._position_timer.cancel()
        if self._pong is not None:
            self._pong.cancel()

    # -- groups ---------------------------------------------------------------

    @property
    def _layer(self) -> BaseChannelLayer:
        layer = self._runner.layer
        assert layer is not None, "checked when the group was joined"
        return layer

    def has_joined(self, group: str) -> bool:
        return self._progress.get(group) is not None

    async def join(self, group: str) -> None:
        """Join a group, at the place that the client has presented for it, if any."""
        known = self._progress
        progress = known.add(group)
        try:
            await self._join(progress, known.presented.get(group))
        except BaseException:
            if progress in known:
                known.remove(group)
            raise
        known.presented.pop(group, None)
        await self.tell_joined()

    def leave(self, group: str) -> None:
        self._progress.remove(group)
        self._progress.presented.pop(group, None)

    async def _join(self, progress: GroupProgress, place: Place | None) -> None:
        group = progress.group
        since = None if place is None else place.position
        history = await self._layer.join(group, self._runner.mailbox.name, since)
        if place is None or not history.recovered:
            progress.begin(history.position, place)
            return
        missed = [Missed(position, message, replay=True) for position, message in history.messages]
        if place.frames is not None:
            begun = await self._message_at(group, place.position)
            if begun is None:
                progress.begin(history.position, place)
                return
            again = Missed(place.position, begun, True, place.frames, place.failures)
            missed.insert(0, again)
        progress.resume(place, missed, history.position)

    async def _message_at(self, group: str, position: Position) -> ChannelMessage | None:
        # The tag of the position before is not known, and nothing depends on it.
        before = Position(position.epoch, position.offset - 1, 0)
        history = await self._layer.history(group, before, limit=1)
        for found, message in history.messages:
            if found == position:
                return message
        return None

    async def tell_joined(self) -> None:
        """Tell an accepted client of the groups that it has not been told of."""
        if self._socket.phase == "connecting":
            return
        if not self.speaks:
            self._progress.keep_unread()
        elif reports := self._progress.release():
            await self._socket.post(frame({"resume": reports}))
        # The caller may be another task than the one that handles missed messages.
        self._runner.mailbox.wake()

    # -- order of handling ----------------------------------------------------

    async def place(self, message: ChannelMessage) -> None:
        """Handle a live message, unless missed ones of its group come first."""
        at = self._layer.group_position(message)
        progress = None if at is None else self._progress.get(at[0])
        if at is None or progress is None:
            if isinstance(message, Notice):
                self._note_loss(message)
            await self._runner.handle_message(message)
        elif self._progress.expects(progress, at[1]):
            await self._handle(progress, Missed(at[1], message))

    async def next(self, *, idle: bool) -> bool:
        """
        Do one step that must come before live messages; return False if there is none.

        When the connection is `idle`, the client is told its present positions.
        """
        progress = self._progress.next() if self._socket.phase == "open" else None
        if progress is not None:
            await self._make_up(progress)
            return True
        if idle and self._position_due:
            await self._tell_positions(self._socket.post)
            return True
        return False

    def _note_loss(self, notice: Notice) -> None:
        if notice["type"] == "layer.overflow":
            # The mailbox was full; of which groups messages were dropped is not known.
            self._progress.fall_behind()
        elif notice["type"] == "layer.gap" and not notice["recovered"]:
            self._progress.fall_behind(notice["groups"])

    async def _make_up(self, progress: GroupProgress) -> None:
        if progress.lost:
            progress.lost = False
            await self._call_not_recovered(progress.group)
        elif progress.missed:
            await self._handle(progress, progress.missed.popleft())
            # A client may have missed a thousand messages, and handlers may never wait.
            if len(progress.missed) % MISSED_PER_TURN == 0:
                await asyncio.sleep(0)
        else:
            await self._read_on(progress)
        self._progress.note(progress)

    async def _handle(self, progress: GroupProgress, missed: Missed) -> None:
        position, message = missed.position, missed.message
        handling = Handling(progress.group, position, replay=missed.replay, skip=missed.skip)
        self._failures = missed.failures
        with self._being_handled(handling):
            await self._runner.handle_message(message)
        progress.done = position
        if self.speaks and self._position_timer is None:
            loop = asyncio.get_running_loop()
            delay = self.position_delay_seconds
            self._position_timer = loop.call_later(delay, self._positions_are_due)

    async def _read_on(self, progress: GroupProgress) -> None:
        """Read messages from the log that were skipped, or dropped by the mailbox."""
        since = progress.read
        try:
            history = await self._layer.history(progress.group, since, limit=MAX_READ)
            if history.recovered:
                progress.missed.extend(Missed(*kept) for kept in history.messages)
                progress.read = history.position
                # Messages that cannot be decoded are left out, so their number says nothing.
                progress.behind = history.position != since
            else:
                present = await self._layer.join(progress.group, self._runner.mailbox.name)
                progress.lose(present.position)
        except (LayerUnavailable, LayerClosed):
            # The client reconnects, and gets the missed messages then.
            ending = Ending(SERVICE_RESTART, "the history cannot be read", "layer")
            await self._socket.shut(ending)
            raise StopConsumer from None
        if progress.lost and progress in self._progress and self.speaks:
            await self._socket.post(frame({"resume": {progress.group: progress.report}}))

    async def _call_not_recovered(self, group: str) -> None:
        if self.speaks:
            event = {"type": "not.recovered", "group": group}
            await self._runner.guard(self._socket.consumer.not_recovered(group), event)

    # -- the message in progress -------------------------------------------------

    @contextlib.contextmanager
    def _being_handled(self, handling: Handling) -> Generator[None]:
        """Assign frames sent within the block to a message."""
        self._handling = handling
        token = _handled.set(handling)
        try:
            yield
        finally:
            _handled.reset(token)
            self._handling = None

    def _handled_here(self) -> Handling | None:
        """
        Return the message that is being handled, if the caller is part of that.

        A task that a handler has begun is part of it while the handler runs. A task that
        handles something else, perhaps for another connection, is not.
        """
        handling = self._handling
        return handling if handling is not None and _handled.get() is handling else None

    # -- frames -----------------------------------------------------------------

    def wrap(self, event: ChannelMessage) -> ChannelMessage | None:
        """Return the frame in its envelope; None if the client has it."""
        if not self.speaks:
            return event
        handling = self._handled_here()
        about: dict[str, Any] | None = {} if handling is None else handling.next_frame()
        return None if about is None else enveloped(event, about)

    def unwrap(self, event: ChannelMessage) -> ChannelMessage | Ending | None:
        """Return the frame in an envelope of the client; an Ending if it is not an envelope."""
        text = event.get("text")
        if text is None:
            return event
        try:
            content = opened(text)
        except ValueError as exc:
            return Ending(INVALID_DATA, f"no frame of the protocol: {exc}", "protocol")
        if isinstance(content.t, str):
            return {**event, "text": content.t}
        if isinstance(content.ping, int):
            self._answer(content.ping)
        return None

    def _answer(self, number: int) -> None:
        """Answer a ping, even while a handler is busy, but not while an answer is unread."""
        if self._pong is None or self._pong.done():
            self._pong = asyncio.create_task(self._socket.post(frame({"pong": number})))

    def _positions_are_due(self) -> None:
        # Sent by the loop once it is idle: then everything up to there has been handled.
        self._position_due = True
        self._runner.mailbox.wake()

    async def _tell_positions(self, send: Callable[[ChannelMessage], Awaitable[object]]) -> None:
        if self._position_timer is not None:
            self._position_timer.cancel()
        self._position_due, self._position_timer = False, None
        if untold := self._progress.untold():
            await send(frame({"at": untold}))

    # -- the end --------------------------------------------------------------

    async def farewell(self, ending: Ending) -> None:
        """Tell the client its positions and when to reconnect, before the close frame."""
        sender = self._runner.sender
        if not self.speaks or sender.stuck:
            return
        self._conclude(failed=ending.by == "error")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_TIMEOUT_SECONDS):
                await self._tell_positions(sender)
                if self._retry_after is not None and ending.code in COME_BACK_CODES:
                    await sender(frame({"retry": self._retry_after}))

    def _conclude(self, *, failed: bool) -> None:
        """Record the outcome of the message in progress when its handler ends the connection."""
        handling = self._handled_here()
        progress = None if handling is None else self._progress.get(handling.group)
        if handling is None or progress is None:
            return
        failures = self._failures + failed
        if failed and failures < MAX_FAILURES:
            progress.part = Place(handling.position, handling.frames, failures)
            return
        if failed:
            logger.error(
                "%s has failed %d times at the message at %s in %r for one client, which is not "
                "sent it again",
                *(self._runner.name, failures, handling.position, handling.group),
            )
        # Handled: a client that comes back must not be closed for this message again.
        progress.done = handling.position
