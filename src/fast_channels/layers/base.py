"""
The public object: names + codec + hub + broker, and the lifetime of all four.

A backend is a `Broker`; its layer class says how channels and groups map to
the broker's topics, and that is all it says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from fast_channels.exceptions import (
    ChannelFull,
    ForeignChannel,
    InvalidMessage,
    LayerUnavailable,
    MessageTooLarge,
    MissingCapability,
)

from . import names
from .broker import Broker, Flushable, Queue, require_queue
from .codecs import Codec, MsgPackCodec
from .home import Lifetime
from .hub import ADDRESS, Hub
from .mailbox import Mailbox, Notice, ThreadsafeMailbox
from .rules import NameRules
from .subscriptions import Subscriptions

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from fast_channels.type_defs import (
        ChannelCapacityDict,
        ChannelMessage,
        Overflow,
    )

    from .hub import Statistics


class BaseChannelLayer(NameRules):
    """
    Moves messages between channels, which may be in any process.

    Open it with `async with layer:`, or let `channel_layers.lifespan` open all
    registered ones; a layer that nobody opened opens on first use. It lives on
    the event loop that opened it and may be called from any other.

    What one sender sends to one group or channel arrives in that order. A
    message is a mapping with strings as keys; strings, numbers, booleans,
    None, bytes, lists and mappings can be in it. It is checked here, where it
    is sent. Receivers get a dict of their own, but share the values inside it:
    treat those as read-only.

    `capacity` is how many messages may wait in one channel; `channel_capacity`
    sets it by name, for globs or compiled patterns, of which the first match
    counts. `overflow` is what a consumer's full mailbox does with one more.
    `expiry` is how many seconds a message waits for a reader where it is kept.
    `max_message_size` is in bytes, after encoding.
    """

    def __init__(
        self,
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        *,
        codec: Codec | None = None,
        overflow: Overflow = "drop_oldest",
        max_message_size: int = 1024 * 1024,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity!r}; a channel must hold at least 1 message")
        if overflow not in ("drop_oldest", "drop_newest", "close"):
            raise ValueError(f"overflow is {overflow!r}; use drop_oldest, drop_newest or close")
        self.expiry = expiry
        super().__init__(capacity, channel_capacity)
        self.overflow: Overflow = overflow
        self.max_message_size = max_message_size
        # Stands in the name of every channel made here, and whose name it is: a
        # child of fork is a process of its own.
        self.process = names.unique()
        self._pid = os.getpid()
        self._codec: Codec = codec or MsgPackCodec()
        self._hub = Hub(self._decode)
        self._lifetime = Lifetime(self, self._session)
        # Messages on their way back to a shared channel.
        self._returning: set[asyncio.Task[bool]] = set()
        # Of the present session; None while the layer is closed.
        self._broker: Broker | None = None
        self._subscriptions: Subscriptions | None = None

    # -- what a backend's layer class fills in ------------------------------

    def _make_broker(self) -> Broker:
        """Return the broker of a new session. Called each time the layer opens."""
        raise MissingCapability(
            self, "moving messages", "use a layer with a broker, such as InMemoryChannelLayer"
        )

    def _group_topic(self, group: str) -> str:
        return group

    def _group_name(self, topic: str) -> str | None:
        """Undo _group_topic; None for a topic that is a channel's own."""
        return None if topic in self._hub.mailboxes else topic

    def _new_name(self, prefix: str) -> str:
        return names.process_inbox(prefix, self.process) + names.unique()

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

    # -- lifetime -----------------------------------------------------------

    async def open(self) -> None:
        """Open the layer on this loop. Raises LayerUnavailable if its broker does not answer."""
        await self._lifetime.run(_nothing, receiving=True)

    async def close(self) -> None:
        """
        Let go of the broker and of all channels. Closing twice is fine.

        Using the layer again opens it again, as new.
        """
        await self._lifetime.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncGenerator[None]:
        """One opening of the layer: a fresh broker and no channels."""
        if self._pid != os.getpid():
            self.process, self._pid = names.unique(), os.getpid()
        self._hub.clear()
        broker = self._make_broker()
        subscriptions = Subscriptions(self._hub.members, broker)
        try:
            await broker.start(self._deliver, self._interrupted)
            self._broker, self._subscriptions = broker, subscriptions
            yield
        finally:
            # A loop that was stopped and replaced may end long after its
            # successor began; what is there by then is not ours to clear.
            if self._broker is broker:
                self._broker = self._subscriptions = None
                self._hub.clear()
            await subscriptions.stop()
            await broker.stop()

    def _deliver(self, topic: str, payload: bytes) -> int:
        return self._hub.deliver(topic, payload)

    def _interrupted(
        self, topics: Iterable[str], since: float, until: float, recovered: bool
    ) -> None:
        """Tell every channel that was subscribed to one of `topics`, once."""
        self._hub.counters.reconnects += 1
        self._hub.counters.gaps += 1
        for channel, affected in self._affected(topics).items():
            groups = sorted(g for g in map(self._group_name, affected) if g is not None)
            gap = {"groups": groups, "since": since, "until": until, "recovered": recovered}
            self._hub.mailboxes[channel].put_notice(Notice(type="layer.gap", **gap))

    def _affected(self, topics: Iterable[str]) -> dict[str, list[str]]:
        """Return the channels to be told when `topics` were interrupted, with which of them."""
        return self._hub.channels_in(topics)

    # -- sending ------------------------------------------------------------

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """
        Send to one channel.

        Raises ChannelFull if nobody reads it and it is at capacity, InvalidName,
        InvalidMessage or MessageTooLarge before anything is sent, and
        LayerUnavailable if the broker does not answer.
        """
        names.check("channel", channel)
        await self._lifetime.run(self._send, channel, self._encode(message))

    async def group_send(self, group: str, message: ChannelMessage) -> None:
        """
        Send to every channel in `group`, on every process.

        Never raises ChannelFull: a channel that cannot keep up loses messages
        by its own policy, and others lose none. Otherwise raises what `send` does.
        """
        names.check("group", group)
        await self._lifetime.run(self._group_send, group, self._encode(message))

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

    async def _group_send(self, group: str, payload: bytes) -> None:
        refused = await self._live_broker.publish(self._group_topic(group), payload)
        self._hub.counters.refused += refused
        self._hub.counters.published += 1

    async def _push(self, channel: str, payload: bytes) -> None:
        queue = require_queue(self._live_broker, "keeping messages for a shared channel")
        if not await queue.push(channel, payload, self.get_capacity(channel)):
            self._hub.counters.refused += 1
            raise ChannelFull(channel)

    def _refuse_if_full(self, mailbox: Mailbox) -> None:
        # A consumer's mailbox has a policy for this; a channel that is read
        # with receive() keeps the first messages, and its senders hear of it.
        if mailbox.full and mailbox.overflow == "drop_newest":
            self._hub.counters.refused += 1
            raise ChannelFull(mailbox.name)

    def _encode(self, message: ChannelMessage) -> bytes:
        if not isinstance(message, Mapping):
            raise InvalidMessage("message", message, 'must be a mapping, such as {"type": "..."}')
        payload = self._codec.encode(message)
        if ADDRESS in message:
            remedy = f"the key {ADDRESS!r} is reserved for addressing; use another"
            raise InvalidMessage("message", message, remedy)
        if len(payload) > self.max_message_size:
            raise MessageTooLarge(len(payload), self.max_message_size)
        return payload

    # -- receiving ----------------------------------------------------------

    async def open_channel(
        self, prefix: str = "specific", *, overflow: Overflow | None = None
    ) -> Mailbox:
        """
        Make a channel and return its mailbox; `mailbox.name` is its name.

        Close it with `close_channel`. On another loop than the layer's own the
        mailbox is a little slower, and otherwise the same.
        """
        if not self._lifetime.is_here():
            await self.open()
        name = self._new_name(prefix)
        names.check("channel", name)
        # Made on the loop of its reader, which need not be the layer's.
        make = Mailbox if self._lifetime.is_here() else ThreadsafeMailbox
        mailbox = make(name, self.get_capacity(name), overflow or self.overflow)
        await self._lifetime.run(self._open, mailbox)
        return mailbox

    async def close_channel(self, channel: str) -> None:
        """Forget a channel of this process and leave its groups. Closing twice is fine."""
        await self._lifetime.run_if_open(self._close, channel)

    async def new_channel(self, prefix: str = "specific") -> str:
        """
        Return the name of a new channel, to be read with `receive`.

        It keeps its first `capacity` unread messages and refuses later ones.
        """
        mailbox = await self.open_channel(prefix, overflow="drop_newest")
        return mailbox.name

    async def receive(self, channel: str) -> ChannelMessage:
        """
        Wait for the next message of a channel.

        For a shared channel it is taken from whatever process sent it, each by
        one receiver. Cancelling loses nothing.
        """
        names.check("channel", channel)
        undo = functools.partial(self._unreceive, channel)
        return await self._lifetime.run(self._receive, channel, receiving=True, undo=undo)

    async def _open(self, mailbox: Mailbox) -> None:
        self._hub.open(mailbox)
        try:
            await self._channel_opened(mailbox.name)
        except BaseException:
            self._hub.close(mailbox.name)
            raise

    async def _close(self, channel: str) -> None:
        emptied = self._hub.close(channel)
        # The broker is gone: so are its subscriptions.
        with contextlib.suppress(LayerUnavailable):
            await self._settle(emptied)

    async def _receive(self, channel: str) -> ChannelMessage:
        mailbox = self._hub.mailboxes.get(channel)
        if mailbox is None and self._may_open(channel):
            mailbox = Mailbox(channel, self.get_capacity(channel), "drop_newest")
            await self._open(mailbox)
        if mailbox is None:
            return await self._pop(channel)
        # Losses are told to consumers; here they are seen in statistics().
        while isinstance(message := await mailbox.get(), Notice):
            pass
        return message

    def _unreceive(self, channel: str, message: ChannelMessage) -> None:
        """Put back what a receiver on another loop did not take any more."""
        mailbox = self._hub.mailboxes.get(channel)
        if mailbox is not None:
            mailbox.put_back(message)
        elif isinstance(self._broker, Queue):
            # Behind the others, since only a broker's own pop keeps the place.
            push = self._broker.push(channel, self._codec.encode(message), sys.maxsize)
            self._returning.add(task := asyncio.create_task(push))
            task.add_done_callback(self._returning.discard)

    async def _pop(self, channel: str) -> ChannelMessage:
        if not self._is_kept(channel):
            raise ForeignChannel(channel, "receive from")
        queue = require_queue(self._live_broker, "receiving from a shared channel")
        while True:
            message = self._hub.decoded(await queue.pop(channel))
            if message is not None:
                message.pop(ADDRESS, None)
                return message

    # -- groups -------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """
        Let `channel` receive what is sent to `group`.

        Returns once the broker has confirmed: every message sent to the group
        after that arrives. Adding twice is fine. If this is cancelled or fails,
        the channel is not in the group.
        """
        names.check("group", group)
        names.check("channel", channel)
        await self._lifetime.run(self._group_add, group, channel)

    async def group_discard(self, group: str, channel: str) -> None:
        """
        Stop sending messages for `group` to `channel`.

        Leaving a group twice, or one never joined, is fine. A message that was
        already under way may still arrive afterwards.
        """
        names.check("group", group)
        names.check("channel", channel)
        await self._lifetime.run(self._group_discard, group, channel)

    async def _group_add(self, group: str, channel: str) -> None:
        topic = self._group_topic(group)
        if channel in self._hub.mailboxes:
            await self._join(topic, channel)
        elif names.belongs_to(channel, self.process) or not isinstance(self._live_broker, Queue):
            raise ForeignChannel(channel, "add to a group")
        else:
            await self._live_broker.add_member(topic, channel)

    async def _join(self, topic: str, channel: str) -> None:
        # Join first: a message that arrives between the broker's answer and our
        # own bookkeeping would otherwise find nobody.
        joined = self._hub.join(topic, channel)
        try:
            await self._settle([topic])
        except BaseException:
            if joined and self._hub.leave(topic, channel) and self._subscriptions is not None:
                self._subscriptions.settle_later(topic)
            raise

    async def _group_discard(self, group: str, channel: str) -> None:
        topic = self._group_topic(group)
        if self._hub.leave(topic, channel):
            await self._settle([topic])
        if isinstance(self._live_broker, Queue):
            # Another process may have added the channel by its own name. While
            # the broker is away it stays, and is forgotten with the group.
            with contextlib.suppress(LayerUnavailable):
                await self._live_broker.remove_member(topic, channel)

    async def _settle(self, topics: Iterable[str]) -> None:
        if self._subscriptions is not None:
            await self._subscriptions.settle(topics)

    @property
    def _live_broker(self) -> Broker:
        if self._broker is None:
            raise LayerUnavailable(self, "it is being closed")
        return self._broker

    async def flush(self) -> None:
        """Delete every channel, group and message of this layer, for all processes."""
        await self._lifetime.run(self._flush)

    async def _flush(self) -> None:
        emptied = list(self._hub.members)
        self._hub.clear()
        await self._settle(emptied)
        if isinstance(self._live_broker, Flushable):
            await self._live_broker.flush()

    # -- observing ----------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return the counters of this process, as of now."""
        subscriptions = len(self._subscriptions) if self._subscriptions is not None else 0
        return self._hub.statistics(self._group_name, subscriptions)

    def count_unknown_type(self) -> None:
        """Called by a consumer that has no handler for a message."""
        self._hub.counters.unknown_type += 1

    def count_sent_after_close(self) -> None:
        """Called by a consumer whose client had left when it sent a frame."""
        self._hub.counters.sent_after_close += 1

    def __str__(self) -> str:
        return type(self).__name__


async def _nothing() -> None:
    """Opening is all that was wanted."""
