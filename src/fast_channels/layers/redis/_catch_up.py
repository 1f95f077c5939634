"""
Up to where each topic was delivered in this process, and how what is missing is found.

A payload that follows the last one is delivered as it arrives. Anything else makes its
topic suspect: then the log is read, and until that is done what arrives is held.
So it is after an outage with all topics. Now and then those that are quiet are compared
with where their logs stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING

from fast_channels.exceptions import BrokerRefused, LayerClosed, LayerUnavailable
from fast_channels.layers.broker import Outage

from ._log import Notification
from ._reader import reconnect_delays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fast_channels.layers.broker import Deliver, LogEntry, LogSlice
    from fast_channels.layers.position import Position

    from ._log import StreamLog

logger = logging.getLogger("fast_channels.layers.redis")

# Topics whose logs are read at once.
BATCH = 100

# Topics that are compared with their logs in one interval; with more, it takes several.
MOST_COMPARED = 1000

# Payloads of a topic that are held; more are read from the log.
MOST_HELD = 1000


class TopicCursor:
    """One topic that is subscribed."""

    __slots__ = ("_held", "_known", "overflowed", "position", "served", "stale", "topic", "waiting")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        # Behind the last payload delivered; None until the log was looked at.
        self.position: Position | None = None
        # Up to which offset the log was read: what was read may still arrive.
        self._known = 0
        # What has arrived and may not be delivered yet; None while all is in order.
        self._held: list[Notification] | None = []
        # Whether more has arrived than was held.
        self.overflowed = False
        # Whether the log has to be read once more, should it be under way: what that finds
        # may be older than the reason to look.
        self.stale = False
        # Who waits until the log was read, and whom the present reading serves: who comes
        # later waits for the next one, and nobody for those who come later.
        self.waiting: list[asyncio.Future[None]] = []
        self.served: list[asyncio.Future[None]] = []

    @property
    def holds(self) -> bool:
        return self._held is not None

    def hold(self) -> None:
        """Deliver nothing until `release`."""
        if self._held is None:
            self._held = []

    def hold_anew(self) -> None:
        """The same, now that the log is going to be read: what has arrived is in it, or gone."""
        self._held, self.overflowed, self.stale = [], False, False
        self.served += self.waiting
        self.waiting.clear()

    def advance(self, notification: Notification) -> bool:
        """
        Take what has arrived; whether it is to be delivered now.

        If not, it is one that was delivered before, or it is held.
        """
        if self._held is None:
            here, there = self.position, notification.position
            if here is not None and there.epoch == here.epoch:
                if there.offset == here.offset + 1 and notification.before == here.tag:
                    self.position = there
                    return True
                if there.offset <= min(self._known, here.offset):
                    return False
            self._held = []
        if len(self._held) < MOST_HELD:
            self._held.append(notification)
        else:
            self.overflowed = True
        return False

    def give_up(self) -> None:
        """Let nobody wait for what will not come."""
        for waiter in (*self.served, *self.waiting):
            if not waiter.done():
                waiter.set_exception(LayerClosed(f"topic {self.topic!r}"))

    def caught_up(self) -> None:
        """All is delivered that was in the log when it was read."""
        for waiter in self.served:
            if not waiter.done():
                waiter.set_result(None)
        self.served.clear()

    def read(self, position: Position) -> None:
        """Note that the log was read, and delivered, up to a position."""
        self.position, self._known = position, position.offset

    def release(self, most: int) -> list[Notification]:
        """
        Return what was held and is to be delivered now, so many at most.

        The rest stays, and what is behind a hole. If nothing does, all is in order
        unless the log has to be read again.
        """
        held, self._held = self._held or [], None
        ready: list[Notification] = []
        for number, notification in enumerate(held):
            if len(ready) == most:
                self.hold()
            elif self.advance(notification):
                ready.append(notification)
            if self.holds:
                self._held = held[number:]
                break
        if self.overflowed or self.stale:
            self.hold()
        return ready


class CatchUp:
    """The topics of one server, and the one task that reads their logs."""

    # Set by start().
    _deliver: Deliver
    _report_outage: Callable[[Outage], None]

    def __init__(
        self,
        log: StreamLog,
        turn: int,
        check_interval: float,
    ) -> None:
        self._log = log
        # Payloads to deliver before consumers get a turn.
        self._turn = turn
        # Seconds after which topics are looked at, quiet as they are, time.monotonic() when
        # it is time again, and those whose turn has yet to come.
        self._interval = check_interval
        self._compare_at = time.monotonic() + check_interval
        self._round: list[str] = []
        # By the names of the logs, since that is what arrives.
        self._cursors: dict[str, TopicCursor] = {}
        # Names of those that have to be looked at, and what the task sleeps on.
        self._suspects: set[str] = set()
        self._wanted = asyncio.Event()
        # Outages that have ended, and were not told of: since and until when.
        self._outages: list[tuple[float, float]] = []
        # Whether there is one that has not: nothing can be said before.
        self._away = False
        # When all was in order last, and when the present round began, as Unix time.
        self._well = self._round_began = time.time()
        self._task: asyncio.Task[None] | None = None
        self._pauses = reconnect_delays()

    def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        self._deliver, self._report_outage = deliver, report_outage

    # -- what is subscribed -----------------------------------------------------

    def open(self, topic: str) -> str:
        """Hold what arrives for a topic; returns the name of its log, to be subscribed."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="fast_channels cursors")
        key = self._log.key(topic)
        self._cursors[key] = TopicCursor(topic)
        return key

    async def begin(self, key: str) -> None:
        """
        Begin where the log stands, now that it is subscribed; also if that takes an outage.

        Raises BrokerRefused.
        """
        cursor = self._cursors[key]
        for pause in reconnect_delays():
            try:
                cursor.read(await self._log.end(cursor.topic))
            except BrokerRefused:
                raise
            except LayerUnavailable:
                await asyncio.sleep(pause)
            else:
                break
        # What is more than one turn's worth is as well read from the log.
        self._hand_out(cursor.topic, cursor.release(self._turn))
        if cursor.holds:
            self._suspect(key)

    def close(self, topic: str) -> str:
        key = self._log.key(topic)
        cursor = self._cursors.pop(key, None)
        self._suspects.discard(key)
        if cursor is not None:
            cursor.give_up()
        return key

    def position(self, topic: str) -> Position:
        position = self._cursors[self._log.key(topic)].position
        assert position is not None, "asked for before it was subscribed"
        return position

    async def catch_up(self, topic: str) -> None:
        """See layers.broker.Log."""
        key = self._log.key(topic)
        caught_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cursors[key].waiting.append(caught_up)
        self._suspect_anew(key)
        await caught_up

    async def begin_anew(self) -> None:
        """Begin where the logs stand, now that they were emptied on purpose."""
        for key, cursor in list(self._cursors.items()):
            if cursor.position is not None:
                cursor.hold_anew()
                cursor.read(await self._log.end(cursor.topic))
                cursor.caught_up()
                await self._release(key, cursor)

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for cursor in self._cursors.values():
            cursor.give_up()

    # -- what arrives -----------------------------------------------------------

    def arrived(self, key: str, *data: bytes, positions: Sequence[Position] = ()) -> int:  # noqa: ARG002 - they are in it
        cursor = self._cursors.get(key)
        if cursor is None:
            # Under way when it was unsubscribed.
            return 0
        ready = [notice for notice in _notifications(data) if cursor.advance(notice)]
        if cursor.holds and cursor.position is not None:
            self._suspect(key)
        return self._hand_out(cursor.topic, ready)

    def lost(self) -> None:
        """The connection that tells of payloads is lost."""
        self._away = True

    def returned(self, since: float, until: float) -> None:
        """It is there again."""
        self._away = False
        if not self._cursors:
            return
        self._outages.append((since, until))
        for key in self._cursors:
            self._suspect_anew(key)
        self._wanted.set()

    def _hand_out(self, topic: str, ready: Sequence[Notification | LogEntry]) -> int:
        if not ready:
            return 0
        payloads = [arrived.payload for arrived in ready]
        return self._deliver(topic, *payloads, positions=[arrived.position for arrived in ready])

    def _suspect(self, key: str) -> None:
        self._cursors[key].hold()
        self._suspects.add(key)
        self._wanted.set()

    def _suspect_anew(self, key: str) -> None:
        """The same, also if its log is being read at this moment."""
        self._cursors[key].stale = True
        self._suspect(key)

    def _gone(self, key: str, cursor: TopicCursor) -> bool:
        """Whether a topic was unsubscribed; it may have another cursor by now."""
        return self._cursors.get(key) is not cursor

    # -- reading logs -----------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wanted.wait()
            self._wanted.clear()
            if self._away:
                continue
            try:
                if time.monotonic() >= self._compare_at:
                    self._compare_at = time.monotonic() + self._interval
                    await self._compare(self._next_in_turn())
                if self._suspects or self._outages:
                    await self._check(list(self._suspects))
            except Exception as exc:
                if isinstance(exc, BrokerRefused) or not isinstance(exc, LayerUnavailable):
                    logger.exception("logs cannot be read, which is tried again")
                await asyncio.sleep(next(self._pauses))
                self._wanted.set()
            else:
                self._pauses = reconnect_delays()

    def _next_in_turn(self) -> list[str]:
        if not self._round:
            # The last round has found everything in order, or made it so.
            self._well, self._round_began = self._round_began, time.time()
            self._round = list(self._cursors)
        some, self._round = self._round[:MOST_COMPARED], self._round[MOST_COMPARED:]
        return some

    async def _compare(self, keys: Sequence[str]) -> None:
        """Make those suspect that were not delivered up to where their logs stand."""
        for batch in _batches(keys):
            found = [(key, self._cursors[key]) for key in batch if key in self._cursors]
            ends = (self._log.end(cursor.topic) for _, cursor in found)
            for (key, cursor), end in zip(
                found, await asyncio.gather(*ends, return_exceptions=True), strict=True
            ):
                # What was appended may be on its way; and whoever reads the log hears an error.
                if not self._gone(key, cursor) and cursor.position not in (None, end):
                    self._suspect(key)

    async def _check(self, keys: Sequence[str]) -> None:
        """Read the logs of topics, deliver what is missing, and tell what cannot be had."""
        began, outages = time.time(), len(self._outages)
        lost: dict[str, tuple[TopicCursor, LogSlice]] = {}
        refused: dict[str, BrokerRefused] = {}
        for batch in _batches(keys):
            await self._read(batch, lost, refused)
        if refused and len(refused) == len(keys):
            # By a server that answers like this for now: nothing is known of anything.
            raise next(iter(refused.values()))
        told = self._outages[:outages]
        since = told[0][0] if told else self._well
        until = told[-1][1] if told else began
        worse = {c.topic for key, (c, _) in lost.items() if not self._gone(key, c)}
        if told:
            # All topics were looked at. Of those that are refused nothing is known.
            topics = sorted(c.topic for key, c in self._cursors.items() if key not in refused)
            recovered = [topic for topic in topics if topic not in worse]
            self._report_outage(Outage(since, until, recovered=recovered, lost=worse))
            del self._outages[:outages]
        elif worse:
            self._report_outage(Outage(since, until, lost=worse, reconnected=False))
        for key, (cursor, stretch) in lost.items():
            await self._apply(key, cursor, stretch)
        if refused:
            raise next(iter(refused.values()))

    async def _read(
        self,
        keys: Iterable[str],
        lost: dict[str, tuple[TopicCursor, LogSlice]],
        refused: dict[str, BrokerRefused],
    ) -> None:
        """Deliver what some topics miss; adds whose logs do not reach back or are refused."""
        found: list[tuple[str, Position, TopicCursor]] = []
        for key in keys:
            cursor = self._cursors.get(key)
            # One without a position is about to begin.
            if cursor is not None and cursor.position is not None:
                cursor.hold_anew()
                self._suspects.add(key)
                found.append((key, cursor.position, cursor))
        reads = (self._log.read_some(cursor.topic, after) for _, after, cursor in found)
        stretches = await asyncio.gather(*reads, return_exceptions=True)
        failed: BaseException | None = None
        for (key, _, cursor), stretch in zip(found, stretches, strict=True):
            if isinstance(stretch, BrokerRefused):
                refused[key] = stretch
            elif isinstance(stretch, BaseException):
                failed = stretch
            elif stretch.connected:
                await self._apply(key, cursor, stretch)
            else:
                lost[key] = cursor, stretch
        if failed is not None:
            raise failed

    async def _apply(self, key: str, cursor: TopicCursor, stretch: LogSlice) -> None:
        """Deliver a part of a log, then what was held if that follows."""
        for some in _portions(stretch.entries, self._turn):
            if self._gone(key, cursor):
                return
            cursor.read(some[-1].position)
            self._hand_out(cursor.topic, some)
            # As for a reader: one who keeps up must not overflow for our not waiting.
            await asyncio.sleep(0)
        if self._gone(key, cursor):
            return
        if not stretch.entries and not stretch.connected:
            cursor.read(stretch.end)
        if cursor.position is None or cursor.position.offset >= stretch.end.offset:
            cursor.caught_up()
            await self._release(key, cursor)
        else:
            self._suspect(key)

    async def _release(self, key: str, cursor: TopicCursor) -> None:
        """Deliver what was held, in turns; what is behind a hole is still suspect."""
        while not self._gone(key, cursor):
            ready = cursor.release(self._turn)
            self._hand_out(cursor.topic, ready)
            if not cursor.holds:
                self._suspects.discard(key)
                return
            if not ready:
                self._suspect(key)
                return
            await asyncio.sleep(0)

    def __len__(self) -> int:
        return len(self._cursors)


def _notifications(data: Iterable[bytes]) -> Iterator[Notification]:
    for published in data:
        try:
            yield Notification.parse(published)
        except ValueError as exc:
            # By somebody else than append.lua; what it has appended is found in any case.
            logger.warning("skipped %d bytes that tell of no payload: %s", len(published), exc)


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[start : start + BATCH] for start in range(0, len(keys), BATCH))


def _portions(entries: Sequence[LogEntry], size: int) -> Iterator[Sequence[LogEntry]]:
    return (entries[start : start + size] for start in range(0, len(entries), size))
