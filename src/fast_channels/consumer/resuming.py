"""
Connections that are resumed: what a client has missed is made up for.

It comes from the logs of the groups and not from the mailbox, so that it fills
none, and in turn with what is live. For a client that does not speak the resume
protocol nothing of this happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, ClassVar

from fast_channels.exceptions import (
    ConsumerStateError,
    LayerClosed,
    LayerUnavailable,
    StopConsumer,
)
from fast_channels.layers.mailbox import Notice
from fast_channels.layers.position import Position

from .close_codes import (
    GOING_AWAY,
    INTERNAL_ERROR,
    POLICY_VIOLATION,
    SERVICE_RESTART,
    TRY_AGAIN_LATER,
    Ending,
)
from .limits import check_option
from .resume.progress import Missed, Standing, Standings
from .resume.protocol import (
    SUBPROTOCOL,
    Handling,
    Place,
    frame,
    presented,
)
from .speaking import SpeakingConnection

if TYPE_CHECKING:
    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelHeaders, ChannelMessage

logger = logging.getLogger("fast_channels.consumer")

# Messages that are read from a log in one go by a connection that has fallen behind.
BATCH = 100

# Missed messages to handle before other connections get a turn. With one, each turn
# finds what it works on gone from the processor's cache; a sixth more CPU if many come at once.
TURN = 16

# Seconds that telling a client may take, before it is told that the connection ends.
LEAVE_TIMEOUT = 1.0

# Handlers that fail at a message for one client before it is passed over: a connection
# that is closed for it whenever it comes back would get nothing else any more.
MOST_FAILURES = 3

# Close codes after which a client is expected to come back, and told when.
COME_BACK = frozenset({GOING_AWAY, INTERNAL_ERROR, SERVICE_RESTART, TRY_AGAIN_LATER})


class ResumableConnection(SpeakingConnection):
    """Between SpeakingConnection, which knows of no history, and websocket.py."""

    # Whether a client that speaks the protocol `fast-channels.resume.v1` is sent what it
    # has missed while it was away, of the groups that are joined by way of `groups` and
    # `join_group`. The handlers run for that as for anything live. Needs a layer with history.
    resumable: ClassVar[bool] = False
    # Seconds that such a client is to wait, at least, before it comes back after a
    # close with 1001, 1011, 1012 or 1013. None leaves that to the client.
    retry_after: ClassVar[float | None] = None

    # Seconds until a client that reads on is told up to where it has everything.
    _at_delay: ClassVar[float] = 1.0

    # The groups, if the client offers the protocol; it may still come to nothing.
    _standings: Standings | None = None
    # Whether what it presented is in order.
    _presents_rubbish: bool = False
    # How often handlers have failed at what is being handled, for this client.
    _failures: int = 0
    # Runs from the first message that the client has not been told to have in full.
    _at_timer: asyncio.TimerHandle | None = None
    # Whether it has run off.
    _at_due: bool = False
    # -- to call and to override ----------------------------------------------

    async def join_group(self, group: str) -> None:
        """
        Join a group, and make up for what the client has missed in it.

        What it missed is handled as soon as the connection is accepted and no
        handler runs, before anything newer of the group. Every message sent after this
        has returned is handled, as after `group_add`, which this is for a client
        that does not speak the protocol. Joining twice is fine. Leave with `leave_group`.

        Raises what the layer's `join` raises; the group is not joined then.
        """
        standings = self._standings
        if self.channel_layer_alias is None:
            raise ConsumerStateError(
                f"{type(self).__name__} joins {group!r} but has no channel layer; "
                "set channel_layer_alias"
            )
        if standings is None or standings.get(group) is not None:
            await self.channel_layer.group_add(group, self.channel_name)
            return
        standing = standings.add(group)
        try:
            await self._join_standing(standing, standings.presented.get(group))
        except BaseException:
            if standing in standings:
                standings.remove(group)
            raise
        standings.presented.pop(group, None)
        await self._tell_joined()

    async def leave_group(self, group: str) -> None:
        """
        Leave a group. What was missed and is not handled yet, or not asked for, is forgotten.

        Leaving one that was never joined is fine. A message that was already under way
        may still be handled; its frames have no place.
        """
        if self._standings is not None:
            self._standings.remove(group)
            self._standings.presented.pop(group, None)
        if self.channel_layer_alias is not None:
            await self.channel_layer.group_discard(group, self.channel_name)

    async def not_recovered(self, group: str) -> None:
        """
        Called when messages of a group are lost to this client: here is the place for a snapshot.

        They are no longer in the history, or it is not known which they are. Called once
        the connection is accepted and the client told, before anything newer of the group
        is handled. Nothing is made up for then. An error closes with 1011.
        """

    # -- beginning and end ----------------------------------------------------

    @classmethod
    def _check(cls) -> None:
        super()._check()
        check_option(cls, "retry_after", "seconds")
        if cls.resumable and cls.channel_layer_alias is None:
            raise ConsumerStateError(
                f"{cls.__name__} is resumable but has no channel layer; set channel_layer_alias"
            )

    async def _open(self) -> tuple[BaseChannelLayer | None, Mailbox]:
        layer, mailbox = await super()._open()
        if self.resumable:
            if layer is not None:
                await self._check_layer(layer, mailbox)
            if SUBPROTOCOL in (self.scope.get("subprotocols") or ()):
                mailbox.positioned = True
                # A lane would go past what has to be handled first.
                self._wants_lane = False
                self._standings = Standings(self._presented())
        return layer, mailbox

    async def _check_layer(self, layer: BaseChannelLayer, mailbox: Mailbox) -> None:
        try:
            layer.require_history(f"{type(self).__name__}.resumable")
        except BaseException:
            await layer.close_channel(mailbox.name)
            raise

    def _presented(self) -> dict[str, Place]:
        try:
            return presented(self.scope.get("query_string", b""))
        except ValueError as exc:
            logger.debug("%s was presented no places: %s", type(self).__name__, exc)
            self._presents_rubbish = True
            return {}

    async def _has_come_in_order(self) -> bool:
        """Whether the handshake is in order; if not, the client is turned away."""
        if self._presents_rubbish:
            await self._turn_away(Ending(POLICY_VIOLATION, "invalid resume", "protocol"))
        return not self._presents_rubbish

    async def accept(
        self, subprotocol: str | None = None, headers: ChannelHeaders | None = None
    ) -> None:
        """
        Complete the handshake. Raises ConsumerStateError the second time.

        A `subprotocol` of your own is chosen instead of the resume protocol.
        """
        if self._standings is not None and self._state == "connecting":
            if subprotocol in (None, SUBPROTOCOL):
                subprotocol = SUBPROTOCOL
                self._speak()
            else:
                self._fall_silent()
        await super().accept(subprotocol, headers)
        await self._tell_joined()

    def _fall_silent(self) -> None:
        """The connection goes on without the protocol, and loses nothing by that."""
        if self._standings is not None:
            self._standings.keep_unread()

    async def _turn_away(self, ending: Ending) -> None:
        if self._standings is None:
            await super()._turn_away(ending)
        else:
            # In the protocol, so that the client can be told when to come back.
            await self.accept()
            await self._shut(ending)

    async def _take_leave(self, ending: Ending) -> None:
        if not self._speaks or self._sender.stuck:
            return
        self._conclude()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                await self._tell_at(self._sender)
                if self.retry_after is not None and ending.code in COME_BACK:
                    await self._sender(frame({"retry": self.retry_after}))

    def _conclude(self) -> None:
        """Note what becomes of the message whose handler has ended the connection, if one has."""
        handling, standings = self._handled_here(), self._standings
        if handling is None or standings is None:
            return
        standing = standings.get(handling.group)
        if standing is None:
            return
        failures = self._failures + handling.failed
        if handling.failed and failures < MOST_FAILURES:
            standing.part = Place(handling.position, handling.frames, failures)
            return
        if handling.failed:
            logger.error(
                "%s has failed %d times at the message at %s in %r for one client, who is not "
                "sent it again",
                *(type(self).__name__, failures, handling.position, handling.group),
            )
        # It has been handled; a client that comes back must not be closed for it again.
        standing.done = handling.position

    async def _ended(self, failure: BaseException | None) -> None:
        try:
            await super()._ended(failure)
        finally:
            if self._at_timer is not None:
                self._at_timer.cancel()

    # -- joining --------------------------------------------------------------

    async def _join_standing(self, standing: Standing, place: Place | None) -> None:
        group = standing.group
        since = None if place is None else place.position
        history = await self.channel_layer.join(group, self.channel_name, since)
        if place is None or not history.recovered:
            standing.begin(history.position, place)
            return
        missed = [Missed(position, message, replay=True) for position, message in history.messages]
        if place.frames is not None:
            begun = await self._message_at(group, place.position)
            if begun is None:
                standing.begin(history.position, place)
                return
            again = Missed(place.position, begun, True, place.frames, place.failures)
            missed.insert(0, again)
        standing.resume(place, missed, history.position)

    async def _message_at(self, group: str, position: Position) -> ChannelMessage | None:
        # The tag of the one before is not known, and nothing depends on it.
        before = Position(position.epoch, position.offset - 1, 0)
        history = await self.channel_layer.history(group, before, limit=1)
        for found, message in history.messages:
            if found == position:
                return message
        return None

    async def _tell_joined(self) -> None:
        """Tell the client, if it can be told, of the groups that it does not know of."""
        if self._standings is None or self._state == "connecting":
            return
        if not self._speaks:
            self._fall_silent()
        elif reports := self._standings.release():
            await self._base_send(frame({"resume": reports}))
        # Whoever joins may be another task than the one that handles what was missed.
        self._mailbox.wake()

    # -- what is handled, in which order --------------------------------------

    async def _run(self, mailbox: Mailbox) -> None:
        standings = self._standings
        if standings is None:
            await super()._run(mailbox)
            return
        while True:
            if mailbox.closed or mailbox.overflowed or self._restarting:
                await self._end_early(mailbox)
            # One of each in turn, so that none can starve the others.
            event = mailbox.take_frame()
            if event is not None:
                await self._handle_event(event)
            message = mailbox.take()
            if message is not None:
                await self._take_live(standings, message)
            standing = standings.next() if self._state == "open" else None
            if standing is not None:
                await self._make_up(standings, standing)
            elif event is None and message is None:
                if self._at_due:
                    await self._tell_at(self._base_send)
                else:
                    await mailbox.change()

    async def _take_live(self, standings: Standings, message: ChannelMessage) -> None:
        at = self.channel_layer.group_position(message)
        standing = None if at is None else standings.get(at[0])
        if at is None or standing is None:
            if isinstance(message, Notice):
                _note_loss(standings, message)
            await self._dispatch_message(message)
        elif standings.expects(standing, at[1]):
            await self._handle(standing, Missed(at[1], message))

    async def _make_up(self, standings: Standings, standing: Standing) -> None:
        """Take one step of what comes before anything live of a group."""
        if standing.lost:
            standing.lost = False
            await self._call_not_recovered(standing.group)
        elif standing.missed:
            await self._handle(standing, standing.missed.popleft())
            # There may be a thousand, and handlers that never wait.
            if len(standing.missed) % TURN == 0:
                await asyncio.sleep(0)
        else:
            await self._read_on(standings, standing)
        standings.note(standing)

    async def _handle(self, standing: Standing, missed: Missed) -> None:
        position, message = missed.position, missed.message
        handling = Handling(standing.group, position, replay=missed.replay, skip=missed.skip)
        self._failures = missed.failures
        with self._being_handled(handling):
            await self._dispatch_positioned(message)
        standing.done = position
        if self._speaks and self._at_timer is None:
            loop = asyncio.get_running_loop()
            self._at_timer = loop.call_later(self._at_delay, self._remind_of_at)

    async def _dispatch_positioned(self, message: ChannelMessage) -> None:
        type_ = message.get("type")
        if not isinstance(type_, str) or type_ not in self.forwards:
            await self._dispatch_message(message)
        elif (event := self._prepared(message)) is not None:
            await self._dispatch_message(event)

    async def _read_on(self, standings: Standings, standing: Standing) -> None:
        """Read what was passed over, or dropped by the mailbox, from the log of a group."""
        since = standing.read
        try:
            history = await self.channel_layer.history(standing.group, since, limit=BATCH)
            if history.recovered:
                standing.missed.extend(Missed(*kept) for kept in history.messages)
                standing.read = history.position
                # What cannot be decoded is left out, so the number of messages says nothing.
                standing.behind = history.position != since
            else:
                present = await self.channel_layer.join(standing.group, self.channel_name)
                standing.lose(present.position)
        except (LayerUnavailable, LayerClosed):
            # The client comes back, and what it has missed is read then.
            await self._shut(Ending(SERVICE_RESTART, "the history cannot be read", "layer"))
            raise StopConsumer from None
        if standing.lost and standing in standings and self._speaks:
            await self._base_send(frame({"resume": {standing.group: standing.report}}))

    async def _call_not_recovered(self, group: str) -> None:
        if not self._speaks:
            return
        try:
            await self.not_recovered(group)
        except StopConsumer:
            raise
        except (asyncio.CancelledError, Exception) as exc:  # noqa: BLE001 - judged there
            await self._raised(exc, {"type": "not.recovered", "group": group}, from_layer=False)

    # -- what goes out --------------------------------------------------------

    def _remind_of_at(self) -> None:
        # Sent by who handles messages, once there are none: that is up to where all is done.
        self._at_due = True
        self._mailbox.wake()

    async def _tell_at(self, send: Any) -> None:
        if self._at_timer is not None:
            self._at_timer.cancel()
        self._at_due, self._at_timer = False, None
        if self._standings is not None and (untold := self._standings.untold()):
            await send(frame({"at": untold}))


def _note_loss(standings: Standings, notice: Notice) -> None:
    if notice["type"] == "layer.overflow":
        # The mailbox was full; whose messages were dropped is not known.
        standings.fall_behind()
    elif notice["type"] == "layer.gap" and not notice["recovered"]:
        standings.fall_behind(notice["groups"])
