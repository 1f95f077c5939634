"""The life of a WebSocket: who may come, what may come in, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from fast_channels.exceptions import (
    ConsumerStateError,
    MessageTooLarge,
    StopConsumer,
)

from .base import AsyncConsumer
from .close_codes import (
    ABNORMAL,
    GOING_AWAY,
    INTERNAL_ERROR,
    INVALID_DATA,
    MESSAGE_TOO_BIG,
    NO_CODE,
    NORMAL,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
    EndedBy,
    Ending,
    is_clients_mistake,
    shortened,
)
from .dispatch import NOTICES
from .forwarding import ConsumerKind, FastLane, Unfinished, check_forwards, prepared
from .heartbeat import Heartbeat
from .limits import Gate, RateLimit, Refused, check_websocket_options
from .sender import a_turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Collection

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.lanes import Prepared
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelHeaders, ChannelMessage

logger = logging.getLogger("fast_channels.consumer")

# Seconds that the server may take to send a close frame.
CLOSE_TIMEOUT = 5.0

# connecting: before accept. open: frames may be sent. closed: by us, by the
# client or by an error; nothing is sent any more.
State = Literal["connecting", "open", "closed"]


class WebsocketConnection(AsyncConsumer):
    """
    What AsyncWebsocketConsumer is built on: its limits, accept() and close().

    One close frame at most is sent, and `disconnect` runs once, whatever ends
    the connection and however many want to end it at the same time.
    """

    # Bytes a frame may have; a larger one closes with 1009. None for no limit.
    # A text of this size still fits into one message of a layer's default size.
    max_frame_size: int | None = 1_000_000
    # Frames a client may send, such as RateLimit(per_second=10, burst=50). None
    # for as many as are handled.
    rate_limit: RateLimit | None = None
    # Connections of this class that a process serves at once, subclasses not
    # counted. One more is closed with 1013 before connect(). None for no limit.
    max_connections: ClassVar[int | None] = None
    # Types of messages that go to the client as they are: as the frame that
    # `forwarded_frame` makes of them, once for all connections of a class. No
    # handler and no send() of yours is called; else they are like other messages.
    forwards: ClassVar[Collection[str]] = ()
    # Seconds of silence after which the client is asked whether it is there: `heartbeat_ping` is
    # sent, a frame like any other, so that it passes every server and proxy. None for no heartbeat.
    heartbeat_interval: float | None = None
    # Seconds of silence after that, until the connection is closed with 1011.
    heartbeat_timeout: float = 10.0
    # The question.
    heartbeat_ping: str = '{"type":"ping"}'
    # Any frame is an answer. This one is for clients that have nothing to say:
    # receive() does not see it. White space in it is nobody's concern.
    heartbeat_pong: str = '{"type":"pong"}'

    _scope_type = "websocket"
    _log_level = logging.INFO
    _state: State = "connecting"
    # True from when connect() begins, unless the connection is rejected.
    _owes_disconnect: bool = False
    # Resolved when the close frame is sent, or has proved impossible to send.
    _shutting: asyncio.Future[None] | None = None
    # What frames must pass before they are kept; made with the connection.
    _gate: Gate
    _heartbeat: Heartbeat | None = None
    # Whether the client speaks the resume protocol, and whether deliveries may go past
    # the mailbox; see resuming.py.
    _speaks: bool = False
    _wants_lane: bool = True
    # Whether it has been logged that frames are dropped.
    _dropping: bool = False
    # The connections that count for max_connections, by id().
    _connections: ClassVar[set[int]] = set()
    # Of the lanes.
    _kind: ClassVar[ConsumerKind]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._connections = set()
        cls._kind = ConsumerKind(cls, cls._routes, cls._finish_sending)

    # -- beginning and end --------------------------------------------------

    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        """Complete the handshake. Raises ConsumerStateError the second time."""
        if self._state == "closed":
            return
        if self._state == "open":
            raise ConsumerStateError(
                f"{type(self).__name__} accepts a connection that is accepted already; "
                "call accept() once, in connect()"
            )
        self._state = "open"
        event = {"type": "websocket.accept", "subprotocol": subprotocol}
        await self._base_send({**event, "headers": list(headers or [])})
        self._start_heartbeat()
        if self._wants_lane and self.channel_layer_alias is not None and self._state == "open":
            FastLane(self._kind, self, self._task, self._context, self._mailbox, self._sender)

    async def close(self, code: int | None = None, reason: str | None = None) -> None:
        """
        Close the connection, before `accept` reject it. Closing twice is fine:
        the client sees one close frame, with the first code.

        The consumer ends when the handler that called this returns.
        """
        by: EndedBy = "consumer"
        if self._state == "connecting":
            # Rejected: it never was a connection, so nothing is disconnected.
            self._owes_disconnect = False
            by = "rejection"
        await self._shut(Ending(NORMAL if code is None else code, reason or "", by))

    async def disconnect(self, code: int) -> None:
        """Handle the end of the connection. Nothing can be sent any more."""

    # -- what comes in ------------------------------------------------------

    @classmethod
    def _check(cls) -> None:
        super()._check()
        check_websocket_options(cls)
        check_forwards(cls, cls._reserved | NOTICES)

    @classmethod
    def forwarded_frame(cls, message: ChannelMessage) -> str | bytes:
        """
        Return the frame that a message in `forwards` becomes.

        It may be shared by many connections, so it depends on the message alone.
        """
        raise NotImplementedError

    async def _open(self) -> tuple[BaseChannelLayer | None, Mailbox]:
        self._gate = Gate(
            self.max_frame_size, self.rate_limit, self.heartbeat_pong, self._frame_dropped
        )
        return await super()._open()

    def _admitted(self, event: ChannelMessage) -> ChannelMessage | None:
        return self._gate.admit(event) if event["type"] == "websocket.receive" else event

    async def _handle_event(self, event: ChannelMessage) -> None:
        if isinstance(event, Refused):
            await self._shut(event.ending)
            raise StopConsumer
        await super()._handle_event(event)

    def _frame_dropped(self) -> None:
        if hasattr(self, "channel_name"):
            self.channel_layer.count_dropped_frame()
        # Behind a frame that closes, nothing is lost that anybody waits for.
        if not self._gate.refused and not self._dropping:
            self._dropping = True
            logger.warning(
                "%s drops frames beyond its %r: client=%r path=%r",
                type(self).__name__,
                self.rate_limit,
                self.scope.get("client"),
                self.scope.get("path"),
            )

    # -- who may come -------------------------------------------------------

    def _has_place(self) -> bool:
        connections, limit = self._connections, self.max_connections
        if limit is not None:
            if len(connections) >= limit:
                return False
            connections.add(id(self))
        return True

    async def _turn_away(self, ending: Ending) -> None:
        """
        Close at once, with a code that the client can see.

        Rejecting the handshake would be cheaper, but a browser shows every
        rejection as 1006, so that no client could tell a full server from one
        that is down. It also fails if none of its subprotocols is chosen.
        """
        await self.accept(next(iter(self.scope.get("subprotocols") or ()), None))
        await self._shut(ending)

    # -- heartbeat ----------------------------------------------------------

    def _start_heartbeat(self) -> None:
        if self.heartbeat_interval is not None and self._state == "open":
            self._heartbeat = self._gate.heartbeat = Heartbeat(
                self.heartbeat_interval,
                self.heartbeat_timeout,
                ping=self._ping,
                expired=self._expired,
                unread=lambda: self._mailbox.holds_frame_back,
            )

    async def _ping(self) -> None:
        # From a task beside the handler, which may be busy; the sender sees to
        # it that the two do not meet in the server.
        if self._state == "open" and not self.disconnected:
            await self._base_send({"type": "websocket.send", "text": self.heartbeat_ping})

    async def _expired(self) -> None:
        if not self.disconnected:
            await self._shut(Ending(INTERNAL_ERROR, "heartbeat timeout", "heartbeat_timeout"))

    # -- endings ------------------------------------------------------------

    async def _guarded(self, message: ChannelMessage, *, from_layer: bool = False) -> None:
        if message["type"] == "websocket.disconnect" and self._state != "closed":
            self._state = "closed"
            code = message.get("code") or NO_CODE
            # 1012 is what servers say for themselves when they shut down.
            by: EndedBy = "server" if code == SERVICE_RESTART else "client"
            self._ending = Ending(code, message.get("reason") or "", by)
        await super()._guarded(message, from_layer=from_layer)
        if self._state == "closed":
            raise StopConsumer

    async def _failed(self, exc: Exception, message: ChannelMessage) -> None:
        await super()._failed(exc, message)
        code = INTERNAL_ERROR
        if is_clients_mistake(exc, message):
            code = MESSAGE_TOO_BIG if isinstance(exc, MessageTooLarge) else INVALID_DATA
        await self._shut(Ending(code, "", "error"))

    def _log_failure(self, exc: Exception, message: ChannelMessage) -> None:
        if is_clients_mistake(exc, message):
            # Without a traceback: a client must not be able to fill the log.
            logger.warning("%s was sent what cannot be sent on: %s", type(self).__name__, exc)
        else:
            super()._log_failure(exc, message)

    async def _overflowed(self, mailbox: Mailbox) -> None:
        await self._shut(Ending(TRY_AGAIN_LATER, "slow", "overflow"))
        await super()._overflowed(mailbox)

    async def _interrupted(self) -> None:
        ending = self._interruption(SERVICE_RESTART)
        if self._restarting and self._state == "connecting" and not self._owes_disconnect:
            await self._turn_away(ending)
        await self._shut(ending)
        await super()._interrupted()

    async def _ended(self, failure: BaseException | None) -> None:
        try:
            if failure is None:
                await self._shut(Ending(NORMAL, "", "consumer"))
            else:
                code = SERVICE_RESTART if self._restarting else GOING_AWAY
                await self._shut(Ending(code, "", "server"))
            await self._stop_heartbeat()
        except Exception as exc:  # noqa: BLE001 - servers differ in what they raise at the end
            logger.debug("%s: the close frame was not taken: %r", type(self).__name__, exc)
        finally:
            # Also if the frame could not be sent because nobody reads.
            self._connections.discard(id(self))
            await self._disconnect_once()

    async def _disconnect_once(self) -> None:
        if not self._owes_disconnect:
            return
        self._owes_disconnect = False
        ending = self._ending
        try:
            await self.disconnect(GOING_AWAY if ending is None else ending.code or NO_CODE)
        except StopConsumer:
            pass
        except Exception:
            logger.exception("%s.disconnect failed", type(self).__name__)

    async def _shut(self, ending: Ending) -> None:
        """Send the one close frame; returns when that is done, whoever does it."""
        if self._state == "closed":
            if self._shutting is not None and not self._shutting.done():
                await asyncio.wait([self._shutting])
            return
        self._state = "closed"
        self._mailbox.close_lane()
        self._ending = ending
        # The caller may be another task than the one that waits there.
        self._mailbox.close()
        shutting = self._shutting = asyncio.get_running_loop().create_future()
        try:
            await self._stop_heartbeat()
            if not self.disconnected:
                await self._send_close(ending)
        finally:
            self.disconnected = True
            shutting.set_result(None)

    async def _send_close(self, ending: Ending) -> None:
        # Granian sends no close frame while somebody receives.
        await self._stop_receiving()
        reason = shortened(ending.reason)
        event = {"type": "websocket.close", "code": ending.code, "reason": reason}
        try:
            # A client that does not read must not keep us here.
            await self._take_leave(ending)
            if not await self._sender.last(event, CLOSE_TIMEOUT):
                await self._abort()
        except asyncio.CancelledError:
            # Nor a server that is to stop, which would wait for it to read.
            await self._abort()
            raise
        except (OSError, RuntimeError):
            # The client is gone, or the server has closed: see _refused_by_server.
            self._count_sent_after_close()

    async def _take_leave(self, ending: Ending) -> None:
        """Send what is to be sent before the close frame."""

    async def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            await self._heartbeat.stop()

    def _begin_frame(self, event: ChannelMessage) -> Awaitable[bool] | None:
        """Send a frame as far as that goes without waiting; see _begin."""
        if self._state == "open" and not self.disconnected:
            if self._speaks:
                return self._begin_enveloped(event)
            # As _begin does, without the way there.
            try:
                return self._sender.begin(event)
            except (OSError, RuntimeError) as exc:
                self._not_sent(event, exc)
                return None
        if self._state == "connecting":
            raise ConsumerStateError(
                f"{type(self).__name__} sends before the connection is accepted; "
                "call accept() in connect() first"
            )
        self._count_sent_after_close()
        return a_turn()

    def _begin_enveloped(self, event: ChannelMessage) -> Awaitable[bool] | None:
        """The same to a client that speaks the resume protocol."""
        raise NotImplementedError

    async def _forward(self, event: Prepared) -> None:
        if isinstance(event, Unfinished):
            await event.rest()
        elif (pending := self._begin_frame(event)) is not None:
            await self._finish_sending(pending, event)

    def _may_handle(self, message: ChannelMessage) -> bool:
        type_ = message.get("type")
        if not isinstance(type_, str) or type_ not in self.forwards:
            return super()._may_handle(message)
        # It came when there was no lane, or it cannot be forwarded.
        event = self._prepared(message)
        if event is not None:
            self._mailbox.put_back(event)
        return False

    def _prepared(self, message: ChannelMessage) -> Prepared | None:
        try:
            return prepared(type(self), message)
        except Exception as exc:  # noqa: BLE001 - a message can close nobody
            self._skip(message["type"], f"cannot forward, for {exc!r}, the")
            return None

    async def _base_send(self, event: ChannelMessage) -> None:
        pending = self._begin(event)
        if pending is not None:
            await self._finish_sending(pending, event)

    def _begin(self, event: ChannelMessage) -> Awaitable[bool] | None:
        """Send an event; None if that is done, otherwise what is left of it."""
        try:
            return self._sender.begin(event)
        except (OSError, RuntimeError) as exc:
            self._not_sent(event, exc)
            return None

    async def _finish_sending(self, pending: Awaitable[bool], event: ChannelMessage) -> None:
        try:
            taken = await pending
        except (OSError, RuntimeError) as exc:
            self._not_sent(event, exc)
        else:
            if not taken:
                await self._given_up()

    def _not_sent(self, event: ChannelMessage, exc: OSError | RuntimeError) -> None:
        if isinstance(exc, OSError):
            # What servers raise, by the ASGI specification, once the client is
            # gone. The event that says so, and with which code, is under way.
            self.disconnected = True
            self._count_sent_after_close()
        elif event["type"] == "websocket.send":
            self._refused_by_server(exc)
        else:
            raise exc

    async def _given_up(self) -> None:
        self._count_sent_after_close()
        if self._sender.stuck:
            await self._shut(Ending(TRY_AGAIN_LATER, "slow", "send_timeout"))

    def _refused_by_server(self, exc: RuntimeError) -> None:
        """
        The server has closed on its own, and says so in this way only.

        uvicorn does after its keepalive has timed out. The event that tells of
        the end may be long in coming, for the client does not read.
        """
        self._state = "closed"
        self._mailbox.close_lane()
        self.disconnected = True
        self._ending = Ending(ABNORMAL, str(exc), "server")
        self._mailbox.close()
        self._count_sent_after_close()

    def _count_sent_after_close(self) -> None:
        # None was opened for a client that came during a drain.
        if hasattr(self, "channel_name"):
            self.channel_layer.count_sent_after_close()
