"""
What a layer does on its own loop: names, codec, hub and broker, wired together.

A backend is a `Broker`; its layer class says how channels and groups map to
the broker's topics, by filling in the first methods here, and that is all it
says. The public half of a layer is base.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fast_channels.exceptions import (
    ChannelFull,
    ForeignChannel,
    LayerClosed,
    LayerUnavailable,
    MissingCapability,
)

from . import names
from .broker import BatchPublisher, Broker, Flushable, Log, Queue, missing_queue, pops
from .codecs import Codec, MsgPackCodec
from .health import Health
from .hub import ADDRESS, Hub
from .mailbox import Mailbox, Notice
from .membership import Subscriptions
from .names import NameRules

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence

    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .broker import Outage
    from .position import Position

# Seconds that closing a channel waits for the broker to confirm. It is done in
# any case; waiting means that nothing under way arrives afterwards.
CLEANUP_TIMEOUT = 1.0


class Received(NamedTuple):
    """A message, and how it is put back for a receiver who has given up meanwhile."""

    message: ChannelMessage
    put_back: Callable[[], None]
    # Called once the receiver has it; None if nobody wants to know.
    taken: Callable[[], object] | None = None


class Joining:
    """A membership that the broker has not confirmed."""

    def __init__(self) -> None:
        # Calls of group_add that wait for it. One that is cancelled must not
        # take it away from another.
        self.calls = 0


class Wiring(NameRules):
    """The half of a layer that runs at home; base.BaseChannelLayer is the other one."""

    # True if nothing leaves the process, so that several workers are several worlds.
    within_process: ClassVar[bool] = False

    def __init__(
        self,
        expiry: float,
        capacity: int,
        channel_capacity: ChannelCapacityDict | None,
        codec: Codec | None,
        overflow: Overflow,
        max_message_size: int,
    ) -> None:
        super().__init__(capacity, channel_capacity)
        self.expiry = expiry
        self.overflow: Overflow = overflow
        self.max_message_size = max_message_size
        # Stands in the name of every channel made here, and whose name it is: a
        # child of fork is a process of its own.
        self.process = names.unique()
        self._pid = os.getpid()
        self._codec: Codec = codec or MsgPackCodec()
        self._hub = Hub(self._decode)
        # Channels that receive() is about to open.
        self._opening: dict[str, asyncio.Task[Mailbox]] = {}
        # Memberships that are not confirmed yet, by topic and channel.
        self._joining: dict[tuple[str, str], Joining] = {}
        # Of the present session; None while the layer is closed.
        self._broker: Broker | None = None
        # The same, if it is one. Asked once: that costs more than sending does.
        self._queue: Queue | None = None
        self._log: Log | None = None
        # What health() says beside what a supervised broker knows better.
        self._health = Health("closed", time.time())
        self._subscriptions: Subscriptions | None = None

    # -- what a backend's layer class fills in ------------------------------

    def _make_broker(self) -> Broker:
        """Return the broker of a new session. Called each time the layer opens."""
        raise MissingCapability(
            self, "moving messages", "use a layer with a broker, such as InMemoryChannelLayer"
        )

    def _group_topic(self, group: str) -> str:
        """Return the topic that messages for a group are published to; by default its name."""
        return group

    def _group_name(self, topic: str) -> str | None:
        """Undo _group_topic; None for a topic that is a channel's own."""
        return None if topic in self._hub.mailboxes else topic

    def _new_name(self, prefix: str) -> str:
        """Return a name for a new channel, which nobody else ever has."""
        return names.process_inbox(prefix, self.process) + names.unique()

    def _check_channel(self, channel: object) -> None:
        """Raise InvalidName unless it may be a channel's name."""
        names.check("channel", channel)

    def _is_kept(self, channel: str) -> bool:
        """Whether messages for a channel that is not open here wait at the broker."""
        return not names.is_local(channel)

    def _may_open(self, channel: str) -> bool:
        """Whether this process may receive for a channel that is not open yet."""
        return names.belongs_to(channel, self.process)

    async def _channel_opened(self, channel: str) -> None:
        """Return once what is sent to the channel will arrive in this process."""

    def _decode(self, payload: bytes) -> Any:
        return self._codec.decode(payload)

    # -- one opening of the layer ----------------------------------------------

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncGenerator[None]:
        """One opening of the layer: a fresh broker and no channels."""
        if self._pid != os.getpid():
            self.process, self._pid = names.unique(), os.getpid()
        self._hub.clear()
        self._opening.clear()
        self._joining.clear()
        broker = self._make_broker()
        subscriptions = Subscriptions(self._hub, broker)
        self._health = Health("connecting", time.time())
        try:
            await broker.start(self._deliver, self._report_outage)
            self._broker, self._subscriptions = broker, subscriptions
            self._queue = broker if isinstance(broker, Queue) else None
            self._log = broker if isinstance(broker, Log) else None
            self._health = Health("ready", time.time())
            yield
        except LayerUnavailable as exc:
            self._health = Health("closed", time.time(), str(exc))
            raise
        finally:
            # A loop that was stopped and replaced may end long after its
            # successor began; what is there by then is not ours to clear.
            if self._broker is broker:
                self._broker = self._queue = self._log = self._subscriptions = None
                self._health = Health("closed", time.time())
                self._hub.clear()
                for opening in self._opening.values():
                    opening.cancel()
            await subscriptions.stop()
            await broker.stop()

    def _deliver(self, topic: str, *payloads: bytes, positions: Sequence[Position] = ()) -> int:
        return self._hub.deliver(topic, *payloads, positions=positions)

    def _report_outage(self, outage: Outage) -> None:
        """Tell every channel that was subscribed to one of the topics, once."""
        self._hub.counters.reconnects += outage.reconnected
        self._hub.counters.gaps += 1
        lost = self._affected(outage.lost)
        # A channel that has lost something is told of that alone.
        for channel, topics in {**self._affected(outage.recovered), **lost}.items():
            groups = sorted(g for g in map(self._group_name, topics) if g is not None)
            gap = {"groups": groups, "since": outage.since, "until": outage.until}
            recovered = channel not in lost
            notice = Notice(type="layer.gap", **gap, recovered=recovered)
            self._hub.mailboxes[channel].put_notice(notice)

    def _affected(self, topics: Iterable[str]) -> dict[str, list[str]]:
        """Return the channels to be told after an outage of `topics`, with which of them."""
        return self._hub.channels_in(topics)

    # -- sending ------------------------------------------------------------

    async def _send(self, channel: str, payload: bytes) -> None:
        mailbox = self._hub.mailboxes.get(channel)
        if mailbox is not None:
            self._refuse_if_full(mailbox)
            self._hub.deliver_to(channel, self._codec.decode(payload))
            # The broker was not asked, so nothing else gives the reader a turn.
            await asyncio.sleep(0)
        elif names.belongs_to(channel, self.process):
            # It was closed; its name may still be around.
            self._hub.counters.unclaimed += 1
        elif self._is_kept(channel):
            await self._push(channel, payload)
        elif await self._live_broker.publish(channel, payload):
            self._hub.counters.refused += 1
            raise ChannelFull(channel)
        self._hub.counters.published += 1

    async def _send_many(self, channel: str, payloads: Sequence[bytes]) -> None:
        accepted = await self._accepted(channel, payloads)
        self._hub.counters.published += accepted
        if accepted < len(payloads):
            self._hub.counters.refused += len(payloads) - accepted
            raise ChannelFull(channel, accepted)

    async def _accepted(self, channel: str, payloads: Sequence[bytes]) -> int:
        """Send payloads until one is refused; return how many were not."""
        mailbox = self._hub.mailboxes.get(channel)
        if mailbox is not None:
            return await self._put_many(mailbox, payloads)
        if names.belongs_to(channel, self.process):
            self._hub.counters.unclaimed += len(payloads)
        elif self._is_kept(channel) or self._queue is not None:
            queue = self._live_queue("keeping messages for a shared channel")
            return await queue.push_many(channel, payloads, self.get_capacity(channel))
        else:
            await self._publish_many(channel, payloads)
        return len(payloads)

    async def _put_many(self, mailbox: Mailbox, payloads: Sequence[bytes]) -> int:
        turn = self._turn()
        for number, payload in enumerate(payloads):
            if number % turn == 0:
                # One who keeps up must not overflow for our not waiting.
                await asyncio.sleep(0)
            if mailbox.full and mailbox.refuses:
                return number
            self._hub.deliver_to(mailbox.name, self._codec.decode(payload))
        return len(payloads)

    async def _group_send_many(self, group: str, payloads: Sequence[bytes]) -> None:
        self._hub.counters.refused += await self._publish_many(self._group_topic(group), payloads)
        self._hub.counters.published += len(payloads)

    async def _publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        """Return how often receivers refused, being full."""
        broker = self._live_broker
        if isinstance(broker, BatchPublisher):
            return await broker.publish_many(topic, payloads)
        return sum([await broker.publish(topic, payload) for payload in payloads])

    async def _push(self, channel: str, payload: bytes) -> None:
        queue = self._live_queue("keeping messages for a shared channel")
        if not await queue.push(channel, payload, self.get_capacity(channel)):
            self._hub.counters.refused += 1
            raise ChannelFull(channel)

    def _refuse_if_full(self, mailbox: Mailbox) -> None:
        # A consumer's mailbox has a policy for this; a channel that is read
        # with receive() keeps the first messages, and its senders hear of it.
        if mailbox.full and mailbox.refuses:
            self._hub.counters.refused += 1
            raise ChannelFull(mailbox.name)

    # -- receiving ----------------------------------------------------------

    async def _new_channel(self, prefix: str) -> str:
        # At home, where receive() reads it.
        return (await self._open_unread(self._checked_new_name(prefix))).name

    async def _open_unread(self, channel: str) -> Mailbox:
        """Open a channel that is read with receive(): it keeps the first messages."""
        mailbox = Mailbox(channel, self.get_capacity(channel), "drop_newest", refuses=True)
        await self._open(mailbox)
        return mailbox

    def _checked_new_name(self, prefix: str) -> str:
        name = self._new_name(prefix)
        self._check_channel(name)
        return name

    async def _open(self, mailbox: Mailbox) -> None:
        self._hub.open(mailbox)
        try:
            await self._channel_opened(mailbox.name)
        except BaseException:
            self._hub.close(mailbox.name)
            raise

    async def _close(self, channel: str) -> None:
        emptied = self._hub.close(channel)
        # Nobody's cleanup waits for a broker that hangs, and one that is gone
        # has no subscriptions any more.
        with contextlib.suppress(LayerUnavailable, TimeoutError):
            async with asyncio.timeout(CLEANUP_TIMEOUT):
                await self._settle(emptied)

    async def _receive(self, channel: str) -> Received:
        mailbox = self._hub.mailboxes.get(channel)
        if channel in self._opening or (mailbox is None and self._may_open(channel)):
            mailbox = await self._opened_for_all(channel)
        if mailbox is None:
            return await self._pop(channel)
        # Losses are told to consumers; here they are seen in statistics().
        while isinstance(message := await mailbox.get(), Notice):
            pass
        return Received(message, functools.partial(mailbox.put_back, message))

    async def _opened_for_all(self, channel: str) -> Mailbox:
        """Open a channel to receive from; it stays open if one who waits for that gives up."""
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
            raise LayerClosed(self)
        return opening.result()

    def _was_opened(self, channel: str, opening: asyncio.Task[Mailbox]) -> None:
        if self._opening.get(channel) is opening:
            del self._opening[channel]
        if not opening.cancelled():
            # Marks the exception as seen; whoever waited has got it.
            opening.exception()

    async def _pop(self, channel: str) -> Received:
        if not self._is_kept(channel):
            raise ForeignChannel(channel, "receive from")
        queue = self._live_broker
        if not pops(queue):
            raise missing_queue(queue, "receiving from a shared channel")
        while True:
            popped = await queue.pop(channel)
            message = self._hub.decoded(popped.payload)
            if message is not None:
                message.pop(ADDRESS, None)
                return Received(message, functools.partial(queue.put_back, channel, popped))

    # -- groups -------------------------------------------------------------

    async def _group_add(self, group: str, channel: str) -> bool:
        """Return whether it was no member before."""
        topic = self._group_topic(group)
        if channel in self._hub.mailboxes:
            return await self._join(topic, channel)
        if names.belongs_to(channel, self.process) or self._queue is None:
            raise ForeignChannel(channel, "add to a group")
        await self._queue.add_member(topic, channel)
        return False

    async def _join(self, topic: str, channel: str) -> bool:
        """Let a channel receive a topic, once the broker confirms; whether it is new there."""
        # Join first: a message that arrives between the broker's answer and our
        # own bookkeeping would otherwise find nobody.
        new = self._hub.join(topic, channel)
        if new:
            self._joining[topic, channel] = Joining()
        joining = self._joining.get((topic, channel))
        if joining is None:
            # Confirmed long ago: whatever becomes of this call, it stays.
            await self._settle([topic])
        else:
            await self._confirmed(joining, topic, channel)
        return new

    async def _confirmed(self, joining: Joining, topic: str, channel: str) -> None:
        """Wait for the broker to confirm a membership; if no call gets that far, it ends."""
        joining.calls += 1
        try:
            await self._settle([topic])
        except BaseException:
            joining.calls -= 1
            if not joining.calls and self._joining.get((topic, channel)) is joining:
                self._leave(topic, channel)
            raise
        if self._joining.get((topic, channel)) is joining:
            del self._joining[topic, channel]

    def _undo_join(self, topic: str, channel: str, new: bool) -> None:
        """Take back what _join did, for a caller on another loop who was cancelled."""
        if new:
            self._leave(topic, channel)

    def _leave(self, topic: str, channel: str) -> bool:
        """End a membership, also an unconfirmed one, without waiting for the broker."""
        self._joining.pop((topic, channel), None)
        emptied = self._hub.leave(topic, channel)
        if emptied and self._subscriptions is not None:
            self._subscriptions.settle_later(topic)
        return emptied

    def _forget(self, channel: str, _: None = None) -> None:
        """Take back an opening, likewise."""
        for topic in self._hub.close(channel):
            if self._subscriptions is not None:
                self._subscriptions.settle_later(topic)

    async def _group_discard(self, group: str, channel: str) -> None:
        topic = self._group_topic(group)
        if self._leave(topic, channel):
            await self._settle([topic])
        if self._queue is not None:
            # Another process may have added the channel by its own name. While
            # the broker is away it stays, and is forgotten with the group.
            with contextlib.suppress(LayerUnavailable):
                await self._queue.remove_member(topic, channel)

    async def _settle(self, topics: Iterable[str]) -> None:
        if self._subscriptions is not None:
            await self._subscriptions.settle(topics)

    @property
    def _live_broker(self) -> Broker:
        if self._broker is None:
            raise LayerUnavailable(self, "it is being closed")
        return self._broker

    def _live_queue(self, wanted: str) -> Queue:
        if self._queue is None:
            raise missing_queue(self._live_broker, wanted)
        return self._queue

    async def _flush(self) -> None:
        emptied = list(self._hub.members)
        self._hub.clear()
        await self._settle(emptied)
        if isinstance(self._live_broker, Flushable):
            await self._live_broker.flush()
