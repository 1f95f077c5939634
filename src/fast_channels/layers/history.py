"""
What a layer does with groups that are remembered, on its own loop.

Sending to a group is here, too, for on a layer that keeps a log that means to append.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fast_channels.exceptions import ForeignChannel, LayerClosed

from .broker import require_log
from .position import History, Position, PositionedMessage, StoredMessage
from .wiring import Wiring

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fast_channels.type_defs import ChannelMessage

    from .broker import Log, LogEntry

# Characters of an idempotency key; it is part of the name of a key in Redis.
MAX_KEY_LENGTH = 200


class Joined(NamedTuple):
    """What came of joining a group, and whether the channel was no member before."""

    history: History
    new: bool


class HistoryWiring(Wiring):
    """Between Wiring, which knows of no history, and base.BaseChannelLayer."""

    # -- sending ------------------------------------------------------------

    async def _group_send(self, group: str, payload: bytes, once: str | None) -> Position | None:
        topic, position = self._group_topic(group), None
        if self._log is not None:
            position, refused = await self._log.append(topic, payload, once=once)
            self._hub.counters.refused += refused
        elif once is not None:
            self._live_log("idempotent sending")
        else:
            self._hub.counters.refused += await self._live_broker.publish(topic, payload)
        self._hub.counters.published += 1
        return position

    # -- history ------------------------------------------------------------

    async def _history(self, group: str, after: Position | None, limit: int | None) -> History:
        log = self._live_log("history")
        entries, end, connected = await log.read(self._group_topic(group), after, limit)
        # Who asks for a part goes on behind it, who has got all of it behind that.
        whole = limit is None or len(entries) < limit or after is None
        return History(self._kept(entries), connected, end if whole else entries[-1].position)

    async def _join_since(self, group: str, channel: str, since: Position | None) -> Joined:
        log = self._live_log("joining with history")
        if channel not in self._hub.mailboxes:
            raise ForeignChannel(channel, "join to a group with its history")
        topic = self._group_topic(group)
        try:
            with self._hub.hold(topic):
                await self._settle([topic])
                await self._let_pass(log, topic, since)
                if channel not in self._hub.mailboxes:
                    raise LayerClosed(f"channel {channel!r}")
                # No waiting between these lines: what is delivered from now on is live.
                new = self._hub.join(topic, channel)
                start = log.delivered(topic)
        finally:
            if self._subscriptions is not None:
                self._subscriptions.settle_later(topic)
        # Whoever else waits for this membership may fail: it is confirmed.
        self._joining.pop((topic, channel), None)
        if since is None:
            return Joined(History([], recovered=True, position=start), new)
        try:
            return Joined(await self._missed(log, topic, since, start), new)
        except BaseException:
            self._undo_join(topic, channel, new)
            raise

    async def _let_pass(self, log: Log, topic: str, since: Position | None) -> None:
        """Let nothing be delivered any more that is older than a position from elsewhere."""
        if since is None:
            return
        here = log.delivered(topic)
        if since.epoch != here.epoch or since.offset > here.offset:
            await log.catch_up(topic)

    async def _missed(self, log: Log, topic: str, since: Position, start: Position) -> History:
        """Return what is between two positions, the second being where live begins."""
        entries, end, connected = await log.read(topic, since, None)
        if not connected or end.epoch != start.epoch or since.offset > start.offset:
            # Made up, or lost, perhaps while we looked. A part of what was missed is of
            # no use to who has to begin anew.
            return History([], recovered=False, position=start)
        missed = [entry for entry in entries if entry.position.offset <= start.offset]
        return History(self._kept(missed), recovered=True, position=start)

    def _kept(self, entries: Iterable[LogEntry]) -> list[StoredMessage]:
        decoded = ((entry.position, self._hub.decoded(entry.payload)) for entry in entries)
        return [
            StoredMessage(position, message) for position, message in decoded if message is not None
        ]

    def _undo_join_since(self, topic: str, channel: str, joined: Joined) -> None:
        """Take back what _join_since did, for a caller on another loop who was cancelled."""
        self._undo_join(topic, channel, joined.new)

    def require_history(self, wanted: str) -> None:
        """Raise MissingCapability, in the name of `wanted`, if this layer, being open, has none."""
        self._live_log(wanted)

    def group_position(self, message: ChannelMessage) -> tuple[str, Position] | None:
        """
        Return the group and the position of a message, if it has them.

        That takes a layer that keeps a log, and a mailbox that is `positioned`, as that of
        an AsyncHttpConsumer is.
        """
        if not isinstance(message, PositionedMessage):
            return None
        group = self._group_name(message.topic)
        return None if group is None else (group, message.position)

    def _live_log(self, wanted: str) -> Log:
        return require_log(self._live_broker, wanted) if self._log is None else self._log


def as_position(since: Position | str | None) -> Position | None:
    """Return a position that may be given as its text. Raises InvalidPosition."""
    return since if since is None or isinstance(since, Position) else Position.parse(since)


def check_key(key: object) -> None:
    """Raise ValueError unless it may be an idempotency key."""
    if not isinstance(key, str) or not 0 < len(key) <= MAX_KEY_LENGTH:
        raise ValueError(
            f"idempotency_key is {key!r}; it is a string of 1 to {MAX_KEY_LENGTH} characters"
        )
