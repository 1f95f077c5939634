"""The state of a WebSocket: accepted or not, open or closed, and with which code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Literal

from fast_channels.exceptions import (
    AcceptConnection,
    ConsumerStateError,
    DenyConnection,
    MessageTooLarge,
    StopConsumer,
)

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
from .handlers import check_forwards
from .heartbeat import Heartbeat
from .limits import Gate, Refused, check_option
from .resume.protocol import SUBPROTOCOL
from .resume.resume import Resume
from .runner import ConnectionState
from .sender import yield_turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.type_defs import ChannelHeaders, ChannelMessage

    from .handlers import ConsumerKind

logger = logging.getLogger("fast_channels.consumer")

# How long the server may take to send a close frame.
CLOSE_FRAME_TIMEOUT_SECONDS = 5.0

# connecting: before accept. open: frames may be sent. closed: by us, by the client or by an
# error; nothing is sent any more.
Phase = Literal["connecting", "open", "closed"]


class WebsocketState(ConnectionState[Any]):
    """
    Accepts, sends and closes for one WebSocket.

    At most one close frame is sent, and `disconnect` runs once, for any cause of the end and
    any number of tasks that end the connection at the same time.
    """

    scope_type = "websocket"
    log_level = logging.INFO

    phase: Phase = "connecting"
    # The resume protocol, if the client offers it; see resume/resume.py.
    resume: Resume | None = None
    # True from when connect() begins, unless the connection is rejected.
    _owes_disconnect: bool = False
    # True if websocket_disconnect of the user's own has yet to be called.
    _owes_event: bool = False
    # True if websocket_connect is the user's own, which need not call connect().
    _own_connect: bool = False
    # Done when the close frame is sent, or has proved impossible to send.
    _closing: asyncio.Future[None] | None = None
    _heartbeat: Heartbeat | None = None
    # Checks frames before they are kept.
    _gate: Gate
    # True once the log has a line about dropped frames.
    _logged_drop: bool = False

    # -- events from the server -----------------------------------------------

    def opened(self) -> None:
        consumer, runner = self.consumer, self.runner
        with contextlib.suppress(AttributeError):
            # Each connection has its own list, which handlers may change. A class may have a
            # property instead.
            consumer.groups = list(consumer.groups or ())
        self._gate = Gate(
            consumer.max_frame_size,
            consumer.rate_limit,
            consumer.heartbeat_pong,
            self._frame_dropped,
            self._admit_other,
        )
        # The pump gives events to the gate without the way through this object.
        self.admit = self._gate.admit  # type: ignore[method-assign]
        if consumer.resumable and runner.layer is not None:
            runner.layer.require_history(f"{runner.name}.resumable")
        if consumer.resumable and SUBPROTOCOL in (runner.scope.get("subprotocols") or ()):
            self.resume = runner.recovery = Resume(self)
            runner.mailbox.positioned = True

    def _admit_other(self, event: ChannelMessage) -> ChannelMessage:
        if event["type"] == "websocket.connect":
            kind = self.runner.kind
            self._own_connect = kind.has_own("websocket_connect")
            self._owes_event = kind.has_own("websocket_disconnect")
            ending = self._turned_away()
            return event if ending is None else Refused(ending)
        return event

    def speak(
        self, pong: str, unwrap: Callable[[ChannelMessage], ChannelMessage | Ending | None]
    ) -> None:
        """Let frames of the client be envelopes of a protocol."""
        self._gate.expect_pong(pong)
        self._gate.unwrap = unwrap

    def _turned_away(self) -> Ending | None:
        """Return the end of a connection that must be refused; None if it may continue."""
        limit, connections = self.consumer.max_connections, self.runner.kind.connections
        if limit is not None:
            if len(connections) >= limit:
                return Ending(TRY_AGAIN_LATER, "too many connections", "max_connections")
            connections.add(id(self))
        return None if self.resume is None else self.resume.invalid_request()

    async def refuse(self, ending: Ending) -> None:
        if self.phase == "connecting":
            await self._turn_away()
        await self.shut(ending)

    async def _turn_away(self) -> None:
        """
        Accept and close at once, with a code that the client can see.

        Rejecting the handshake would be cheaper, but browsers show every rejection as 1006:
        no client could tell a full server from one that is down. Browsers also fail if the
        server chooses none of their subprotocols.
        """
        offered = self.runner.scope.get("subprotocols") or ()
        await self._accept(next(iter(offered), None) if self.resume is None else None, None)

    def left(self, event: ChannelMessage) -> None:
        self._owes_event = False
        if self.phase == "connecting" and self._own_connect:
            self._owes_disconnect = True
        if self.phase != "closed":
            self._close_phase()
            code = event.get("code") or NO_CODE
            # Servers report 1012 when they shut down themselves.
            by: EndedBy = "server" if code == SERVICE_RESTART else "client"
            self.runner.ending = Ending(code, event.get("reason") or "", by)

    def _frame_dropped(self) -> None:
        runner = self.runner
        if runner.layer is not None:
            runner.layer.count_dropped_frame()
        # Frames after one that closes the connection are expected.
        if not self._gate.refused and not self._logged_drop:
            self._logged_drop = True
            logger.warning(
                "%s drops frames beyond its %r: client=%r path=%r",
                *(runner.name, self.consumer.rate_limit),
                *(runner.scope.get("client"), runner.scope.get("path")),
            )

    # -- beginning ------------------------------------------------------------

    @classmethod
    def check(cls, consumer_class: Any, kind: ConsumerKind) -> None:
        check_forwards(consumer_class, kind)
        if (
            consumer_class.forwards
            and kind.has_own("encode_json")
            and not kind.has_own("forwarded_frame")
        ):
            raise ConsumerStateError(
                f"{consumer_class.__name__} has an encode_json() of its own, which cannot be "
                "awaited for messages in forwards; define forwarded_frame(message) as well"
            )
        for option in ("groups", "resumable"):
            value: Any = getattr(consumer_class, option)
            # The user's __init__ may set the alias.
            alone = consumer_class.channel_layer_alias is None and not kind.has_own("__init__")
            if value and alone and not isinstance(value, property):
                what = f"has groups {list(value)!r}" if option == "groups" else "is resumable"
                but = "no channel layer" if option == "groups" else "has no channel layer"
                raise ConsumerStateError(
                    f"{consumer_class.__name__} {what} but {but}; set channel_layer_alias"
                )

    async def connect(self) -> None:
        """Join the groups of the class, then let the user's `connect` decide."""
        consumer = self.consumer
        for group in list(consumer.groups or ()):
            await self.join(group)
        self._owes_disconnect = True
        try:
            await consumer.connect()
        except AcceptConnection:
            if self.phase == "connecting":
                await consumer.accept()
        except DenyConnection:
            await consumer.close()

    async def accept(self, subprotocol: str | None, headers: ChannelHeaders | None) -> None:
        if self._own_connect:
            self._owes_disconnect = True
        await self._accept(subprotocol, headers)

    async def _accept(self, subprotocol: str | None, headers: ChannelHeaders | None) -> None:
        if self.phase == "closed":
            return
        runner, resume = self.runner, self.resume
        if self.phase == "open":
            raise ConsumerStateError(
                f"{runner.name} accepts a connection that is accepted already; "
                "call accept() once, in connect()"
            )
        if resume is not None:
            subprotocol = resume.accepts(subprotocol)
        self.phase = "open"
        event = {"type": "websocket.accept", "subprotocol": subprotocol}
        await self.post({**event, "headers": list(headers or [])})
        self._start_heartbeat()
        if resume is not None:
            await resume.tell_joined()

    def _start_heartbeat(self) -> None:
        consumer, runner = self.consumer, self.runner
        if not runner.started or self.phase != "open" or consumer.heartbeat_interval is None:
            return
        for option in ("heartbeat_interval", "heartbeat_timeout", "heartbeat_ping"):
            check_option(consumer, option)
        ping = consumer.heartbeat_ping
        self._heartbeat = self._gate.heartbeat = Heartbeat(
            consumer.heartbeat_interval,
            consumer.heartbeat_timeout,
            ping=lambda: self._ping(ping),
            expired=self._expired,
            unread=lambda: runner.mailbox.holds_frame_back,
        )

    async def _ping(self, text: str) -> None:
        # Called in a task beside the handler, which may be busy.
        if self.phase == "open" and not self.runner.gone:
            text = text if self.resume is None else self.resume.ping(text)
            await self.post({"type": "websocket.send", "text": text})

    async def _expired(self) -> None:
        if not self.runner.gone:
            await self.shut(Ending(INTERNAL_ERROR, "heartbeat timeout", "heartbeat_timeout"))

    # -- groups ---------------------------------------------------------------

    async def join(self, group: str) -> None:
        layer, name = self._channel(f"joins {group!r}")
        if self.resume is None or self.resume.has_joined(group):
            await layer.group_add(group, name)
        else:
            await self.resume.join(group)

    async def leave(self, group: str) -> None:
        if self.resume is not None:
            self.resume.leave(group)
        if self.runner.layer is not None or self.consumer.channel_layer is not None:
            layer, name = self._channel(f"leaves {group!r}")
            await layer.group_discard(group, name)

    def _channel(self, what: str) -> tuple[BaseChannelLayer, str]:
        """Return the layer and the channel of the connection, or the ones that the user has set."""
        runner = self.runner
        if runner.layer is not None:
            return runner.layer, runner.mailbox.name
        layer: BaseChannelLayer | None = self.consumer.channel_layer
        if layer is None:
            raise ConsumerStateError(
                f"{runner.name} {what} but has no channel layer; set channel_layer_alias"
            )
        return layer, self.consumer.channel_name

    # -- frames to the client -------------------------------------------------

    def begin(self, event: ChannelMessage) -> Awaitable[Any] | None:
        """Send a frame as far as possible without waiting; None if nothing is left to do."""
        runner = self.runner
        if self.phase == "open" and not runner.gone:
            frame = event if self.resume is None else self.resume.wrap(event)
            if frame is None:
                # The client has it already.
                return None
            try:
                pending = runner.sender.begin(frame)
            except (OSError, RuntimeError) as exc:
                self._not_sent(frame, exc)
                return None
            return None if pending is None else self._finish(pending, frame)
        if self.phase == "connecting":
            if runner.started:
                raise ConsumerStateError(
                    f"{runner.name} sends before the connection is accepted; "
                    "call accept() in connect() first"
                )
            return runner.sender(event)
        self._count_sent_after_close()
        return yield_turn()

    async def post(self, event: ChannelMessage) -> None:
        """Send an event of the library itself."""
        try:
            pending = self.runner.sender.begin(event)
        except (OSError, RuntimeError) as exc:
            self._not_sent(event, exc)
        else:
            if pending is not None:
                await self._finish(pending, event)

    async def _finish(self, pending: Awaitable[bool], event: ChannelMessage) -> None:
        try:
            taken = await pending
        except (OSError, RuntimeError) as exc:
            self._not_sent(event, exc)
        else:
            if not taken:
                await self.not_taken()

    def _not_sent(self, event: ChannelMessage, exc: OSError | RuntimeError) -> None:
        if isinstance(exc, OSError):
            # By the ASGI specification, servers raise this once the client is gone. The
            # event that says so, and with which code, is under way.
            self.runner.gone = True
            self._count_sent_after_close()
        elif event["type"] == "websocket.send":
            self._closed_by_server(exc)
        else:
            raise exc

    async def not_taken(self) -> None:
        self._count_sent_after_close()
        if self.runner.sender.stuck:
            await self.shut(Ending(TRY_AGAIN_LATER, "slow", "send_timeout"))

    def _closed_by_server(self, exc: RuntimeError) -> None:
        """
        Note that the server has closed the connection, and reports it only by this error.

        uvicorn does so after its keepalive has timed out. The disconnect event may take long
        to arrive, because the client does not read.
        """
        self._close_phase()
        self.runner.gone = True
        self.runner.ending = Ending(ABNORMAL, str(exc), "server")
        self.runner.mailbox.close()
        self._count_sent_after_close()

    def _count_sent_after_close(self) -> None:
        # A client that came during a drain has no channel.
        if self.runner.layer is not None:
            self.runner.layer.count_sent_after_close()

    # -- endings --------------------------------------------------------------

    async def close(self, code: int | None, reason: str | None) -> None:
        by: EndedBy = "consumer"
        if self.phase == "connecting" and self.runner.started:
            # A rejected connection has no disconnect().
            self._owes_disconnect = False
            by = "rejection"
        await self.shut(Ending(NORMAL if code is None else code, reason or "", by))

    async def failed(self, exc: Exception, message: ChannelMessage) -> None:
        code = INTERNAL_ERROR
        if is_clients_mistake(exc, message):
            code = MESSAGE_TOO_BIG if isinstance(exc, MessageTooLarge) else INVALID_DATA
            # Without a traceback: a client must not be able to fill the log.
            logger.warning("%s was sent what cannot be sent on: %s", self.runner.name, exc)
        else:
            self.runner.log_failure(exc, message)
        await self.shut(Ending(code, "", "error"))

    async def overflowed(self) -> None:
        await self.shut(Ending(TRY_AGAIN_LATER, "slow", "overflow"))

    async def interrupted(self) -> None:
        runner = self.runner
        ending = runner.interruption(SERVICE_RESTART)
        if runner.restarting and self.phase == "connecting" and not self._owes_disconnect:
            await self._turn_away()
        await self.shut(ending)

    async def ended(self, failure: BaseException | None) -> None:
        try:
            if failure is None:
                await self.shut(Ending(NORMAL, "", "consumer"))
            else:
                code = SERVICE_RESTART if self.runner.restarting else GOING_AWAY
                await self.shut(Ending(code, "", "server"))
            await self._stop_heartbeat()
        except Exception as exc:  # noqa: BLE001 - servers raise different errors at the end
            logger.debug("%s: the close frame was not taken: %r", self.runner.name, exc)
        finally:
            # Even if the frame could not be sent because the client does not read.
            self.runner.kind.connections.discard(id(self))
            if self.resume is not None:
                self.resume.stop()
            await self._disconnect_finally()

    async def _disconnect_finally(self) -> None:
        ending = self.runner.ending
        code = GOING_AWAY if ending is None else ending.code or NO_CODE
        if self._owes_disconnect and self._owes_event:
            reason = "" if ending is None else ending.reason
            event = {"type": "websocket.disconnect", "code": code, "reason": reason}
            await self._last_call("websocket_disconnect", event)
        await self.disconnect(code)

    async def disconnect(self, code: int) -> None:
        """Let the user's `disconnect` run, unless it has run or no connection began."""
        if self._owes_disconnect or not self.runner.started:
            self._owes_disconnect = False
            await self._last_call("disconnect", code)

    async def _last_call(self, hook: str, argument: Any) -> None:
        try:
            await getattr(self.consumer, hook)(argument)
        except StopConsumer:
            pass
        except Exception:
            logger.exception("%s.%s failed", self.runner.name, hook)

    async def shut(self, ending: Ending) -> None:
        """Send the one close frame; return when it is sent, by this call or another."""
        if self.phase == "closed":
            if self._closing is not None and not self._closing.done():
                await asyncio.wait([self._closing])
            return
        runner = self.runner
        self._close_phase()
        runner.ending = ending
        # The caller may be another task than the one that waits for the mailbox.
        runner.mailbox.close()
        closing = self._closing = asyncio.get_running_loop().create_future()
        try:
            await self._stop_heartbeat()
            if not runner.gone:
                await self._send_close(ending)
        finally:
            runner.gone = True
            closing.set_result(None)

    async def _send_close(self, ending: Ending) -> None:
        runner = self.runner
        # Granian sends no close frame while a task receives.
        await runner.stop_receiving()
        reason = shortened(ending.reason)
        event = {"type": "websocket.close", "code": ending.code, "reason": reason}
        try:
            if self.resume is not None:
                await self.resume.farewell(ending)
            # A client that does not read must not keep us here.
            if not await runner.sender.last(event, CLOSE_FRAME_TIMEOUT_SECONDS):
                await runner.abort()
        except asyncio.CancelledError:
            # Nor may a server that stops, and would wait for the client to read.
            await runner.abort()
            raise
        except (OSError, RuntimeError):
            # The client is gone, or the server has closed: see _closed_by_server.
            self._count_sent_after_close()

    def _close_phase(self) -> None:
        self.phase, self.over = "closed", True

    async def _stop_heartbeat(self) -> None:
        if self._heartbeat is not None:
            await self._heartbeat.stop()
