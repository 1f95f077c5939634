"""
Keeps every subscribed topic in step with its log.

A payload that directly follows the last one is delivered as it arrives. Otherwise some may be
missing: then the log is read, and later arrivals are held meanwhile. After an outage the logs
of all topics are read. From time to time quiet topics are compared with their logs, because
no later payload shows that the last one is missing.

A `LogSource` reads the logs, and notifications arrive as bytes: nothing else here depends on
the engine that keeps the logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from fast_channels.exceptions import BrokerRefused, LayerClosed, LayerUnavailable
from fast_channels.layers.broker import Outage
from fast_channels.layers.position import Position

from ._client import batched
from ._reader import reconnect_delays

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fast_channels.layers.broker import Deliver, LogEntry, LogSlice

logger = logging.getLogger("fast_channels.layers.redis")

# Logs that are read at the same time.
MAX_READ_AT_ONCE = 100

# Topics that are compared with their logs in one interval. More take several intervals.
MAX_COMPARED = 1000

# Payloads that are held for one topic. More are read from the log again.
MAX_HELD = 1000


class LogSource(Protocol):
    """An engine that keeps logs. All methods except `key` raise LayerUnavailable."""

    def key(self, topic: str) -> str:
        """Return the name of a topic's log, under which its notifications arrive."""
        ...

    async def end(self, topic: str) -> Position:
        """Return the position behind the last payload in a log."""
        ...

    async def read_some(self, topic: str, after: Position) -> LogSlice:
        """Return the payloads after a position, or the first part of them."""
        ...


class Notification(NamedTuple):
    """A payload as it is published when it is appended to a log."""

    position: Position
    previous: Position
    """The position of the payload before this one."""
    payload: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse a publication of append.lua. Raises ValueError for other data."""
        head, _, payload = data.partition(b"\n")
        epoch, offset, tag, previous_tag = head.decode().split("-")
        position = Position(epoch, int(offset), int(tag))
        return cls(position, Position(epoch, position.offset - 1, int(previous_tag)), payload)


class CursorState(enum.Enum):
    """How a topic stands to its log, which decides about its notifications."""

    STARTING = enum.auto()
    """Notifications are held until the end of the log is known, where delivery starts."""
    LIVE = enum.auto()
    """A notification is delivered if it directly follows the last one."""
    BEHIND = enum.auto()
    """Payloads may be missing, and the log will be read. Notifications are held."""
    READING = enum.auto()
    """The log is being read, or its payloads are being delivered. Notifications are held."""


class TopicCursor:
    """How far a subscribed topic was delivered in this process."""

    __slots__ = (
        "_next_waiters",
        "_overflowed",
        "_read_again",
        "_read_to",
        "_waiters",
        "held",
        "position",
        "state",
        "topic",
    )

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.state = CursorState.STARTING
        self.position: Position | None = None
        """The position of the last delivered payload. None while STARTING."""
        # The offset to which the log was read: notifications up to it may still arrive.
        self._read_to = 0
        self.held: list[Notification] = []
        """Notifications that arrived while they could not be delivered, up to MAX_HELD."""
        self._overflowed = False
        # True if the log has to be read once more after the present reading: its result may
        # be older than the reason to read.
        self._read_again = False
        # Calls that wait for the present reading, and calls that came too late for it.
        self._waiters: list[asyncio.Future[None]] = []
        self._next_waiters: list[asyncio.Future[None]] = []

    @property
    def is_behind(self) -> bool:
        return self.state is CursorState.BEHIND

    def receive(self, notification: Notification) -> bool:
        """Return True if a notification is to be delivered now. If not, it is held or known."""
        if self.state is CursorState.LIVE:
            if notification.previous == self.position:
                self.position = notification.position
                return True
            if self._was_read(notification.position):
                return False
            self.state = CursorState.BEHIND
        if len(self.held) < MAX_HELD:
            self.held.append(notification)
        else:
            self._overflowed = True
        return False

    def suspect(self) -> None:
        """Note that payloads may be missing."""
        if self.state is CursorState.LIVE:
            self.state = CursorState.BEHIND

    def suspect_again(self) -> None:
        """Note the same, even if the log is being read at this moment."""
        self._read_again = True
        self.suspect()

    def start_reading(self) -> None:
        """Drop held notifications: their payloads are in the log by now, or lost."""
        self.state = CursorState.READING
        self.held, self._overflowed, self._read_again = [], False, False
        self._waiters += self._next_waiters
        self._next_waiters.clear()

    def reading_failed(self) -> None:
        self.state = CursorState.BEHIND

    def move(self, position: Position) -> None:
        """Note that the log was read, and delivered, up to a position."""
        self.position, self._read_to = position, position.offset

    def release(self, limit: int) -> list[Notification]:
        """
        Return held notifications that are to be delivered now, at most `limit`.

        The state is LIVE afterwards, READING if more can be released, or BEHIND if the log
        has to be read again.
        """
        held, self.held = self.held, []
        self.state = CursorState.LIVE
        ready: list[Notification] = []
        for number, notification in enumerate(held):
            if len(ready) == limit:
                self.state, self.held = CursorState.READING, held[number:]
                return ready
            if self.receive(notification):
                ready.append(notification)
            elif self.is_behind:
                self.held = held[number:]
                return ready
        if self._overflowed or self._read_again:
            self.state = CursorState.BEHIND
        return ready

    def wait(self) -> asyncio.Future[None]:
        """Return a future that is done after the next reading that begins from now on."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._next_waiters.append(waiter)
        return waiter

    def caught_up(self) -> None:
        """Note that everything the reading was to find is delivered."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def close(self) -> None:
        """Fail all calls that wait: the topic is no longer subscribed."""
        for waiter in (*self._waiters, *self._next_waiters):
            if not waiter.done():
                waiter.set_exception(LayerClosed(f"topic {self.topic!r}"))

    def _was_read(self, position: Position) -> bool:
        here = self.position
        if here is None or position.epoch != here.epoch:
            return False
        return position.offset <= min(self._read_to, here.offset)


class CatchUp:
    """The subscribed topics of one server, and the single task that reads their logs."""

    # Set by start().
    _deliver: Deliver
    _report_outage: Callable[[Outage], None]

    def __init__(self, source: LogSource, batch: int, check_interval: float) -> None:
        self._source = source
        # Payloads to deliver before consumers get a turn.
        self._batch = batch
        # Seconds after which quiet topics are compared with their logs, the time of
        # time.monotonic() to do that next, and topics of this round that are left.
        self._interval = check_interval
        self._compare_at = time.monotonic() + check_interval
        self._uncompared: list[str] = []
        self.cursors: dict[str, TopicCursor] = {}
        """The subscribed topics by the names of their logs, under which notifications arrive."""
        # Names of the logs that have to be read.
        self._behind: set[str] = set()
        # Set when there is something to do for the task.
        self._wanted = asyncio.Event()
        # Outages that have ended and were not reported: since and until when.
        self._outages: list[tuple[float, float]] = []
        # True while an outage lasts. Until then logs are not read.
        self._interrupted = False
        # Unix time at which certainly nothing was missing, and that of the present round.
        self._intact_at = self._round_began = time.time()
        self._task: asyncio.Task[None] | None = None
        self._delays = reconnect_delays()

    def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        self._deliver, self._report_outage = deliver, report_outage

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for cursor in self.cursors.values():
            cursor.close()

    # -- subscriptions --------------------------------------------------------------

    def open(self, topic: str) -> str:
        """Hold notifications of a topic; return the name of its log, to be subscribed."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="fast_channels catch up")
        key = self._source.key(topic)
        self.cursors[key] = TopicCursor(topic)
        return key

    async def begin(self, key: str) -> None:
        """
        Begin to deliver at the end of a log that is subscribed now, even if that takes an outage.

        Raises BrokerRefused.
        """
        cursor = self.cursors[key]
        for delay in reconnect_delays():
            try:
                cursor.move(await self._source.end(cursor.topic))
            except BrokerRefused:
                raise
            except LayerUnavailable:
                await asyncio.sleep(delay)
            else:
                break
        self._hand_out(cursor.topic, cursor.release(self._batch))
        if cursor.state is not CursorState.LIVE:
            # The log also has the payloads that do not fit into one batch.
            self.read_soon(key)

    def close(self, topic: str) -> str:
        """Forget a topic; return the name of its log, to be unsubscribed."""
        key = self._source.key(topic)
        cursor = self.cursors.pop(key, None)
        self._behind.discard(key)
        if cursor is not None:
            cursor.close()
        return key

    def position(self, topic: str) -> Position:
        """Return the position of the last delivered payload of a subscribed topic."""
        position = self.cursors[self._source.key(topic)].position
        assert position is not None, "asked for before it was subscribed"
        return position

    async def catch_up(self, topic: str) -> None:
        """Return once everything is delivered that was appended before the call."""
        key = self._source.key(topic)
        cursor = self.cursors[key]
        caught_up = cursor.wait()
        cursor.suspect_again()
        self.read_soon(key)
        await caught_up

    async def begin_anew(self) -> None:
        """Begin again at the ends of all logs, which a flush has emptied."""
        for key, cursor in list(self.cursors.items()):
            if cursor.position is not None:
                cursor.start_reading()
                cursor.move(await self._source.end(cursor.topic))
                cursor.caught_up()
                await self._release(key, cursor)

    # -- called by the subscriber -----------------------------------------------------

    def arrived(self, key: str, *data: bytes) -> None:
        """Deliver notifications, or hold them."""
        cursor = self.cursors.get(key)
        if cursor is None:
            # They were under way when the topic was unsubscribed.
            return
        ready = [one for one in _notifications(data) if cursor.receive(one)]
        if cursor.is_behind:
            self.read_soon(key)
        self._hand_out(cursor.topic, ready)

    def lost(self) -> None:
        """Note that notifications may get lost from now on."""
        self._interrupted = True

    def returned(self, since: float, until: float) -> None:
        """Note that notifications arrive again, and since when they did not."""
        self._interrupted = False
        if self.cursors:
            self._outages.append((since, until))
            for key, cursor in self.cursors.items():
                cursor.suspect_again()
                self.read_soon(key)

    def _hand_out(self, topic: str, ready: Sequence[Notification | LogEntry]) -> None:
        if ready:
            payloads = [one.payload for one in ready]
            self._deliver(topic, *payloads, positions=[one.position for one in ready])

    def read_soon(self, key: str) -> None:
        """Let the task read a log."""
        self._behind.add(key)
        self._wanted.set()

    def _is_closed(self, key: str, cursor: TopicCursor) -> bool:
        """Return whether a topic was unsubscribed. By now it may have another cursor."""
        return self.cursors.get(key) is not cursor

    # -- the task that reads logs ----------------------------------------------------

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._wanted.wait()
            self._wanted.clear()
            if self._interrupted:
                continue
            try:
                if time.monotonic() >= self._compare_at:
                    self._compare_at = time.monotonic() + self._interval
                    await self._compare(self._next_to_compare())
                if self._behind or self._outages:
                    await self._read_logs(list(self._behind))
            except Exception as exc:
                if isinstance(exc, BrokerRefused) or not isinstance(exc, LayerUnavailable):
                    logger.exception("logs cannot be read, trying again")
                await asyncio.sleep(next(self._delays))
                self._wanted.set()
            else:
                self._delays = reconnect_delays()

    def _next_to_compare(self) -> list[str]:
        if not self._uncompared:
            # The last round has found everything in order, or has repaired it.
            self._intact_at, self._round_began = self._round_began, time.time()
            self._uncompared = list(self.cursors)
        some = self._uncompared[:MAX_COMPARED]
        del self._uncompared[:MAX_COMPARED]
        return some

    async def _compare(self, keys: Sequence[str]) -> None:
        """Find topics that were not delivered up to the end of their logs."""
        for batch in batched(keys, MAX_READ_AT_ONCE):
            found = [(key, self.cursors[key]) for key in batch if key in self.cursors]
            ends = await asyncio.gather(
                *(self._source.end(cursor.topic) for _, cursor in found), return_exceptions=True
            )
            for (key, cursor), end in zip(found, ends, strict=True):
                # The last payload may be under way, and an error occurs again: reading the
                # log finds out.
                if not self._is_closed(key, cursor) and cursor.position not in (None, end):
                    cursor.suspect()
                    self.read_soon(key)

    async def _read_logs(self, keys: Sequence[str]) -> None:
        """Read logs, deliver missing payloads, and report outages and lost payloads."""
        began, outages = time.time(), len(self._outages)
        # Topics with a log that does not reach back to the last delivered payload, and
        # topics with a log that the server refuses to read.
        lost: dict[str, tuple[TopicCursor, LogSlice]] = {}
        refused: dict[str, BrokerRefused] = {}
        for batch in batched(keys, MAX_READ_AT_ONCE):
            await self._read_batch(batch, lost, refused)
        if refused and len(refused) == len(keys):
            # The server refuses everything for now, so nothing is known of any topic.
            raise next(iter(refused.values()))
        lost_topics = {c.topic for key, (c, _) in lost.items() if not self._is_closed(key, c)}
        if ended := self._outages[:outages]:
            # The logs of all other topics were read.
            topics = sorted(c.topic for key, c in self.cursors.items() if key not in refused)
            recovered = [topic for topic in topics if topic not in lost_topics]
            since, until = ended[0][0], ended[-1][1]
            self._report_outage(Outage(since, until, recovered=recovered, lost=lost_topics))
            del self._outages[:outages]
        elif lost_topics:
            self._report_outage(Outage(self._intact_at, began, lost=lost_topics, reconnected=False))
        for key, (cursor, part) in lost.items():
            await self._apply(key, cursor, part)
        if refused:
            raise next(iter(refused.values()))

    async def _read_batch(
        self,
        keys: Iterable[str],
        lost: dict[str, tuple[TopicCursor, LogSlice]],
        refused: dict[str, BrokerRefused],
    ) -> None:
        """Deliver missing payloads of some topics, and add the others to `lost` and `refused`."""
        found: list[tuple[str, Position, TopicCursor]] = []
        for key in keys:
            cursor = self.cursors.get(key)
            # A cursor without a position is STARTING.
            if cursor is not None and cursor.position is not None:
                cursor.start_reading()
                self._behind.add(key)
                found.append((key, cursor.position, cursor))
        parts = await asyncio.gather(
            *(self._source.read_some(cursor.topic, after) for _, after, cursor in found),
            return_exceptions=True,
        )
        failed: BaseException | None = None
        for (key, _, cursor), part in zip(found, parts, strict=True):
            if isinstance(part, BaseException):
                cursor.reading_failed()
                if isinstance(part, BrokerRefused):
                    refused[key] = part
                else:
                    failed = part
            elif part.connected:
                await self._apply(key, cursor, part)
            else:
                lost[key] = cursor, part
        if failed is not None:
            raise failed

    async def _apply(self, key: str, cursor: TopicCursor, part: LogSlice) -> None:
        """Deliver a part of a log, then held notifications if they follow."""
        for start in range(0, len(part.entries), self._batch):
            if self._is_closed(key, cursor):
                return
            some = part.entries[start : start + self._batch]
            cursor.move(some[-1].position)
            self._hand_out(cursor.topic, some)
            # A turn for consumers: the mailbox of one that keeps up must not overflow.
            await asyncio.sleep(0)
        if self._is_closed(key, cursor):
            return
        if not part.entries and not part.connected:
            cursor.move(part.end)
        if cursor.position is None or cursor.position.offset >= part.end.offset:
            cursor.caught_up()
            await self._release(key, cursor)
        else:
            self.read_soon(key)

    async def _release(self, key: str, cursor: TopicCursor) -> None:
        """Deliver held notifications in batches, until one does not follow."""
        while not self._is_closed(key, cursor):
            self._hand_out(cursor.topic, cursor.release(self._batch))
            if cursor.state is CursorState.LIVE:
                self._behind.discard(key)
                return
            if cursor.is_behind:
                self.read_soon(key)
                return
            await asyncio.sleep(0)


def _notifications(data: Iterable[bytes]) -> Iterator[Notification]:
    for published in data:
        try:
            yield Notification.parse(published)
        except ValueError as exc:
            # Another program has published this. Payloads in the log are found in any case.
            logger.warning("skipped %d bytes that tell of no payload: %s", len(published), exc)
