"""
One opening of a layer: its broker, the channels of this process, and their memberships.

A session begins when the layer opens and ends when it closes, and runs on the layer's own event
loop. `base.BaseChannelLayer` checks its arguments and calls the session there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_channels.exceptions import (
    ChannelFull,
    ForeignChannel,
    LayerClosed,
    LayerUnavailable,
)

from . import names
from .broker import (
    BatchPublisher,
    Flushable,
    Lease,
    Log,
    Popped,
    PopQueue,
    Queue,
    Supervised,
    WorkQueue,
    missing_log,
    missing_queue,
    missing_work_queue,
)
from .hub import Hub
from .mailbox import Mailbox, Notice
from .membership import Membership
from .position import History, StoredMessage
from .work import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fast_channels.type_defs import ChannelMessage

    from .addressing import Addressing
    from .broker import Broker, LogEntry, Outage
    from .health import Health
    from .position import Position
    from .statistics import Counters, Statistics

# How long closing a channel waits for the broker to confirm. The channel is closed in any case;
# waiting means that no message that is under way arrives afterwards.
UNSUBSCRIBE_TIMEOUT_SECONDS = 1.0


class ReceivedMessage(NamedTuple):
    """A message taken from a channel, and its origin, in case it has to be put back."""

    channel: str
    message: ChannelMessage
    origin: Mailbox | Popped | Lease


class Joined(NamedTuple):
    """The result of joining a group with its history."""

    history: History
    new: bool
    """True if the channel was not a member before."""


class Session:
    """
    The state of an open layer, and all that a layer does while it is open.

    Methods run on the layer's loop. Names and messages were checked before; payloads are
    encoded messages.
    """

    def __init__(
        self,
        broker: Broker,
        addressing: Addressing,
        process: str,
        *,
        decode: Callable[[bytes], Any],
        decode_local: Callable[[bytes], Any],
        capacity_of: Callable[[str], int],
        delivery_batch: int,
        counters: Counters,
    ) -> None:
        self.hub = Hub(decode, addressing, counters)
        self.broker = broker
        self.membership = Membership(self.hub, broker)
        self._addressing = addressing
        self._process = process
        # For payloads that have not been at the broker, which may put them in an envelope.
        self._decode_local = decode_local
        self._capacity_of = capacity_of
        self._delivery_batch = delivery_batch
        self._counters = counters
        # Asked once: isinstance() on a protocol costs more than sending a message.
        self._queue = broker if isinstance(broker, Queue) else None
        self._pop_queue = broker if isinstance(broker, PopQueue) else None
        self._work_queue = broker if isinstance(broker, WorkQueue) else None
        self._log = broker if isinstance(broker, Log) else None
        self._batch_publisher = broker if isinstance(broker, BatchPublisher) else None
        self._supervised = broker if isinstance(broker, Supervised) else None
        # Channels that receive() is opening.
        self._opening: dict[str, asyncio.Task[Mailbox]] = {}

    async def start(self) -> None:
        """Connect. Raises LayerUnavailable if the broker does not answer."""
        await self.broker.start(self.hub.deliver, self.report_outage)

    async def stop(self) -> None:
        """Close all channels, then the broker."""
        self.hub.clear()
        for opening in self._opening.values():
            opening.cancel()
        await self.membership.stop()
        await self.broker.stop()

    def report_outage(self, outage: Outage) -> None:
        """Tell every channel that is a member of one of the topics, once."""
        self._counters.reconnects += outage.reconnected
        self._counters.gaps += 1
        lost = self.hub.channels_in(outage.lost)
        # A channel that has lost something is told of that alone.
        for channel, topics in {**self.hub.channels_in(outage.recovered), **lost}.items():
            groups = sorted(g for g in map(self._addressing.group_of, topics) if g is not None)
            gap = {"groups": groups, "since": outage.since, "until": outage.until}
            notice = Notice(type="layer.gap", **gap, recovered=channel not in lost)
            self.hub.mailboxes[channel].put_notice(notice)

    def statistics(self) -> Statistics:
        return self.hub.statistics(subscriptions=len(self.membership))

    def servers(self) -> Mapping[str, Health] | None:
        """Return the health of each server, or None if the broker does not watch them."""
        return None if self._supervised is None else self._supervised.health()

    # -- sending ------------------------------------------------------------

    async def send(self, channel: str, payload: bytes) -> None:
        mailbox = self.hub.mailboxes.get(channel)
        if mailbox is not None:
            # The mailbox of a consumer has an overflow policy; one that is read with receive()
            # keeps the first messages and refuses others.
            if mailbox.full and mailbox.refuses:
                self._refuse(channel)
            self.hub.deliver_to(channel, self._decode_local(payload))
            # The broker was not asked, so nothing else gives the reader a turn.
            await asyncio.sleep(0)
        elif names.belongs_to(channel, self._process):
            # The channel was closed; a sender may still have its name.
            self._counters.unclaimed += 1
        elif self._addressing.is_kept(channel):
            queue = self._require_queue("keeping messages for a shared channel")
            if not await queue.push(channel, payload, self._capacity_of(channel)):
                self._refuse(channel)
        elif await self.broker.publish(channel, payload):
            self._refuse(channel)
        self._counters.published += 1

    async def send_many(self, channel: str, payloads: Sequence[bytes]) -> None:
        accepted = await self._accepted(channel, payloads)
        self._counters.published += accepted
        if accepted < len(payloads):
            self._counters.refused += len(payloads) - accepted
            raise ChannelFull(channel, accepted)

    async def _accepted(self, channel: str, payloads: Sequence[bytes]) -> int:
        """Send payloads until one is refused; return how many were accepted."""
        mailbox = self.hub.mailboxes.get(channel)
        if mailbox is not None:
            return await self._put_many(mailbox, payloads)
        if names.belongs_to(channel, self._process):
            self._counters.unclaimed += len(payloads)
        elif self._addressing.is_kept(channel) or self._queue is not None:
            queue = self._require_queue("keeping messages for a shared channel")
            return await queue.push_many(channel, payloads, self._capacity_of(channel))
        else:
            await self._publish_many(channel, payloads)
        return len(payloads)

    async def _put_many(self, mailbox: Mailbox, payloads: Sequence[bytes]) -> int:
        for number, payload in enumerate(payloads):
            if number % self._delivery_batch == 0:
                # Without this, a reader that keeps up would overflow.
                await asyncio.sleep(0)
            if mailbox.full and mailbox.refuses:
                return number
            self.hub.deliver_to(mailbox.name, self._decode_local(payload))
        return len(payloads)

    async def group_send(self, group: str, payload: bytes, once: str | None) -> Position | None:
        topic, position = self._addressing.group_topic(group), None
        if self._log is not None:
            position, refused = await self._log.append(topic, payload, once=once)
        elif once is not None:
            raise missing_log(self.broker, "idempotent sending")
        else:
            refused = await self.broker.publish(topic, payload)
        self._counters.refused += refused
        self._counters.published += 1
        return position

    async def group_send_many(self, group: str, payloads: Sequence[bytes]) -> None:
        topic = self._addressing.group_topic(group)
        # Not `+= await`, which would lose what is counted during the wait.
        refused = await self._publish_many(topic, payloads)
        self._counters.refused += refused
        self._counters.published += len(payloads)

    async def _publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        """Publish payloads; return how many full receivers have refused."""
        if self._batch_publisher is not None:
            return await self._batch_publisher.publish_many(topic, payloads)
        return sum([await self.broker.publish(topic, payload) for payload in payloads])

    def _refuse(self, channel: str) -> None:
        self._counters.refused += 1
        raise ChannelFull(channel)

    # -- channels -----------------------------------------------------------

    async def open_channel(self, mailbox: Mailbox) -> None:
        """Return once everything that is sent to the channel arrives in its mailbox."""
        channel = mailbox.name
        self.hub.open(mailbox)
        try:
            topic = self._addressing.channel_topic(channel)
            if topic is not None and topic == channel:
                await self.membership.join(topic, channel)
            elif topic is not None:
                # Wanted for as long as the layer is open: other channels have the same inbox.
                if topic not in self.hub:
                    self.hub.want(topic)
                await self.membership.settle([topic])
        except BaseException:
            self.hub.close(channel)
            raise

    async def close_channel(self, channel: str) -> None:
        emptied = self.hub.close(channel)
        # The cleanup of a connection never waits long for a broker that hangs, and one that is
        # gone has no subscriptions any more.
        with contextlib.suppress(LayerUnavailable, TimeoutError):
            async with asyncio.timeout(UNSUBSCRIBE_TIMEOUT_SECONDS):
                await self.membership.settle(emptied)

    def forget_channel(self, channel: str) -> None:
        """Undo `open_channel` for a caller that was cancelled."""
        for topic in self.hub.close(channel):
            self.membership.settle_later(topic)

    async def new_channel(self, channel: str) -> str:
        """Open a channel that `receive` reads; return its name."""
        return (await self._open_unread(channel)).name

    async def _open_unread(self, channel: str) -> Mailbox:
        """Open a channel that keeps its first messages and refuses later ones."""
        mailbox = Mailbox(channel, self._capacity_of(channel), "drop_newest", refuses=True)
        await self.open_channel(mailbox)
        return mailbox

    # -- receiving ----------------------------------------------------------

    async def receive(self, channel: str) -> ReceivedMessage:
        """Wait for a message and take it. Cancelling loses nothing."""
        mailbox = self.hub.mailboxes.get(channel)
        may_open = mailbox is None and self._addressing.may_open(channel, self._process)
        if may_open or channel in self._opening:
            mailbox = await self._opened_for_all(channel)
        if mailbox is not None:
            # Consumers are told of losses; a caller of receive() sees them in statistics().
            while isinstance(message := await mailbox.get(), Notice):
                pass
            return ReceivedMessage(channel, message, mailbox)
        if self._pop_queue is not None:
            return await self._pop(self._pop_queue, channel)
        if self._work_queue is not None:
            return await self.lease(channel)
        self._require_kept(channel)
        raise missing_queue(self.broker, "receiving from a shared channel")

    async def _pop(self, queue: PopQueue, channel: str) -> ReceivedMessage:
        self._require_kept(channel)
        while True:
            popped = await queue.pop(channel)
            message = self.hub.decoded(popped.payload)
            if message is not None:
                message.pop(names.ADDRESS_KEY, None)
                return ReceivedMessage(channel, message, popped)

    def put_back(self, received: ReceivedMessage) -> None:
        """Undo `receive` or `lease`, for a caller that was cancelled."""
        origin = received.origin
        if isinstance(origin, Mailbox):
            origin.put_back(received.message)
        elif isinstance(origin, Lease):
            if self._work_queue is not None:
                self._work_queue.release(received.channel, origin)
        elif self._pop_queue is not None:
            self._pop_queue.put_back(received.channel, origin)

    async def _opened_for_all(self, channel: str) -> Mailbox:
        """Open a channel to receive from; it stays open if the caller gives up."""
        opening = self._opening.get(channel)
        if opening is None:
            opening = asyncio.create_task(
                self._open_unread(channel), name=f"fast_channels opening {channel}"
            )
            self._opening[channel] = opening
            opening.add_done_callback(functools.partial(self._was_opened, channel))
        # Cancelling asyncio.wait leaves the task alone.
        await asyncio.wait([opening])
        if opening.cancelled():
            raise LayerClosed(f"channel {channel!r}")
        return opening.result()

    def _was_opened(self, channel: str, opening: asyncio.Task[Mailbox]) -> None:
        if self._opening.get(channel) is opening:
            del self._opening[channel]
        if not opening.cancelled():
            # Mark the exception as seen; the calls that waited have got it.
            opening.exception()

    # -- work ---------------------------------------------------------------

    async def lease(self, channel: str) -> ReceivedMessage:
        """Wait for a message of a shared channel and lease it. Cancelling loses nothing."""
        queue = self._require_work_queue()
        self._require_kept(channel)
        while True:
            lease = await queue.lease(channel)
            message = self.hub.decoded(lease.payload)
            if message is not None:
                message.pop(names.ADDRESS_KEY, None)
                return ReceivedMessage(channel, message, lease)
            # No worker can ever read it; the next one may be in order.
            queue.reject(channel, lease, "undecodable: see the log of the layer")

    def conclude(
        self, received: ReceivedMessage, rejection: str | None = None, failure: str | None = None
    ) -> asyncio.Future[bool] | None:
        """Begin to tell the broker how work ended: rejected, failed, or done."""
        queue, channel, lease = self._work_queue, received.channel, received.origin
        if queue is None or not isinstance(lease, Lease):
            return None
        if rejection is not None:
            return queue.reject(channel, lease, rejection)
        if failure is not None:
            return queue.fail(channel, lease, failure)
        return queue.acknowledge(channel, lease)

    async def concluded(
        self, received: ReceivedMessage, rejection: str | None, failure: str | None
    ) -> None:
        """Return once the broker knows how work ended. Cancelling stops the waiting only."""
        telling = self.conclude(received, rejection, failure)
        if telling is not None:
            await asyncio.wait([telling])

    def give_up(self, received: ReceivedMessage, rejection: str | None) -> None:
        """Let another process have the work at once, unless it was rejected."""
        if rejection is None:
            self.put_back(received)
        else:
            self.conclude(received, rejection)

    async def dead_letters(self, channel: str, limit: int) -> list[DeadLetter]:
        return [
            DeadLetter(self.hub.decoded(payload), reason, deliveries)
            for payload, reason, deliveries in await self._require_work_queue().dead_letters(
                channel, limit
            )
        ]

    async def requeue(self, channel: str, limit: int) -> int:
        """Move dead letters behind the waiting messages; return how many."""
        queue = self._require_work_queue()
        return await queue.requeue(channel, limit, self._capacity_of(channel))

    # -- groups -------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> bool:
        """Return whether the channel was not a member before."""
        topic = self._addressing.group_topic(group)
        if channel in self.hub.mailboxes:
            return await self.membership.join(topic, channel)
        if names.belongs_to(channel, self._process) or self._queue is None:
            raise ForeignChannel(channel, "add to a group")
        await self._queue.add_member(topic, channel)
        return False

    def undo_group_add(self, group: str, channel: str, new: bool) -> None:
        """End a membership that was new, for a caller that was cancelled."""
        if new:
            self.membership.leave(self._addressing.group_topic(group), channel)

    async def group_discard(self, group: str, channel: str) -> None:
        topic = self._addressing.group_topic(group)
        if self.membership.leave(topic, channel):
            await self.membership.settle([topic])
        if self._queue is not None:
            # Another process may have added the channel by its own name. If the broker is away,
            # the membership stays until the group is forgotten.
            with contextlib.suppress(LayerUnavailable):
                await self._queue.remove_member(topic, channel)

    # -- history ------------------------------------------------------------

    async def history(self, group: str, after: Position | None, limit: int | None) -> History:
        log = self.require_log("history")
        topic = self._addressing.group_topic(group)
        entries, end, contiguous = await log.read(topic, after, limit)
        # After a part, a reader goes on behind that part; after all of it, behind the end.
        whole = limit is None or len(entries) < limit or after is None
        position = end if whole else entries[-1].position
        return History(self._stored(entries), contiguous, position)

    async def join(self, group: str, channel: str, since: Position | None) -> Joined:
        """Add a channel to a group, and return its messages since a position."""
        log = self.require_log("joining with history")
        if channel not in self.hub.mailboxes:
            raise ForeignChannel(channel, "join to a group with its history")
        topic = self._addressing.group_topic(group)
        try:
            with self.hub.hold(topic):
                await self.membership.settle([topic])
                await self._catch_up(log, topic, since)
                if channel not in self.hub.mailboxes:
                    raise LayerClosed(f"channel {channel!r}")
                # Nothing waits between these lines: messages delivered from now on are live.
                new = self.hub.join(topic, channel)
                start = log.delivered(topic)
        finally:
            self.membership.settle_later(topic)
        # The broker has confirmed, so this holds even if other calls for it fail.
        self.membership.confirm(topic, channel)
        if since is None:
            return Joined(History([], recovered=True, position=start), new)
        try:
            return Joined(await self._missed(log, topic, since, start), new)
        except BaseException:
            self.undo_group_add(group, channel, new)
            raise

    async def _catch_up(self, log: Log, topic: str, since: Position | None) -> None:
        """Let everything be delivered that is older than a position from another process."""
        if since is None:
            return
        here = log.delivered(topic)
        if since.epoch != here.epoch or since.offset > here.offset:
            await log.catch_up(topic)

    async def _missed(self, log: Log, topic: str, since: Position, start: Position) -> History:
        """Return the messages between two positions; live messages begin behind the second one."""
        entries, end, contiguous = await log.read(topic, since, None)
        if not contiguous or end.epoch != start.epoch or since.offset > start.offset:
            # The position was made up, or entries were lost, perhaps during the read. A reader
            # that has to begin anew cannot use a part.
            return History([], recovered=False, position=start)
        missed = [entry for entry in entries if entry.position.offset <= start.offset]
        return History(self._stored(missed), recovered=True, position=start)

    def _stored(self, entries: Iterable[LogEntry]) -> list[StoredMessage]:
        decoded = ((entry.position, self.hub.decoded(entry.payload)) for entry in entries)
        return [StoredMessage(position, m) for position, m in decoded if m is not None]

    async def flush(self) -> None:
        """Delete every channel, group and message, for all processes."""
        emptied = list(self.hub.members)
        self.hub.clear()
        await self.membership.settle(emptied)
        if isinstance(self.broker, Flushable):
            await self.broker.flush()

    # -- capabilities -------------------------------------------------------

    def require_log(self, wanted: str) -> Log:
        if self._log is None:
            raise missing_log(self.broker, wanted)
        return self._log

    def _require_queue(self, wanted: str) -> Queue:
        if self._queue is None:
            raise missing_queue(self.broker, wanted)
        return self._queue

    def _require_work_queue(self) -> WorkQueue:
        if self._work_queue is None:
            raise missing_work_queue(self.broker)
        return self._work_queue

    def _require_kept(self, channel: str) -> None:
        if not self._addressing.is_kept(channel):
            raise ForeignChannel(channel, "receive from")
