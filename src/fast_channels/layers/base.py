"""The public object: what applications call, checked and taken to the layer's own loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from fast_channels.exceptions import InvalidMessage, MessageTooLarge

from . import names
from .broker import Supervised
from .health import Health, combined
from .history import HistoryWiring, as_position, check_key
from .hub import ADDRESS
from .loops import Lifetime
from .mailbox import Mailbox, ThreadsafeMailbox
from .working import Working

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from fast_channels.type_defs import ChannelCapacityDict, ChannelMessage, Overflow

    from .codecs import Codec
    from .history import Joined
    from .position import History, Position
    from .statistics import Statistics
    from .wiring import Received


class BaseChannelLayer(HistoryWiring, Working):
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
        super().__init__(expiry, capacity, channel_capacity, codec, overflow, max_message_size)
        self._lifetime = Lifetime(self, self._session)
        # `async with` blocks that the layer is in, and whether open() was called:
        # the last block closes the layer unless it was.
        self._entered = 0
        self._kept_open = False

    # -- lifetime -----------------------------------------------------------

    async def open(self) -> None:
        """Open the layer on this loop. Raises LayerUnavailable if its broker does not answer."""
        await self._lifetime.run(_nothing, receiving=True)
        self._kept_open = True

    async def close(self) -> None:
        """
        Let go of the broker and of all channels. Closing twice is fine.

        Using the layer again opens it again, as new.
        """
        self._kept_open = False
        await self._lifetime.close()

    async def __aenter__(self) -> Self:
        await self._lifetime.run(_nothing, receiving=True)
        self._entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        # Within a lifespan that keeps the layer open, a block must not close it.
        self._entered -= 1
        if self._entered == 0 and not self._kept_open:
            await self.close()

    # -- sending ------------------------------------------------------------

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """
        Send to one channel.

        Raises ChannelFull if nobody reads it and it is at capacity, InvalidName,
        InvalidMessage or MessageTooLarge before anything is sent, and
        LayerUnavailable if the broker does not answer.
        """
        self._check_channel(channel)
        await self._lifetime.run(self._send, channel, self._encode(message))

    async def send_many(self, channel: str, messages: Iterable[ChannelMessage]) -> None:
        """
        Send to one channel, in this order and, where the broker can, in one go.

        Every message is checked before the first is sent. Raises what `send`
        does; ChannelFull.accepted is how many were sent, the first ones, and
        none after them was. If this is cancelled or raises LayerUnavailable,
        any number of the first ones may have been sent.
        """
        self._check_channel(channel)
        payloads = [self._encode(message) for message in messages]
        if payloads:
            await self._lifetime.run(self._send_many, channel, payloads)

    async def group_send(
        self, group: str, message: ChannelMessage, *, idempotency_key: str | None = None
    ) -> Position | None:
        """
        Send to every channel in `group`, on every process.

        Never raises ChannelFull: a channel that cannot keep up loses messages
        by its own policy, and others lose none. Otherwise raises what `send` does.

        A layer that keeps history returns the position of the message. With
        `idempotency_key` it sends nothing if a message with the same key was sent to the
        group in the last minutes (the layer's `idempotency_window`), and returns the
        position of that: so a call that raised LayerUnavailable can be repeated safely. Only
        shared channels in the group, which are for work, may then get it twice.
        Other layers return None, and raise MissingCapability for a key.
        """
        names.check("group", group)
        if idempotency_key is not None:
            check_key(idempotency_key)
        payload = self._encode(message)
        return await self._lifetime.run(self._group_send, group, payload, idempotency_key)

    async def group_send_many(self, group: str, messages: Iterable[ChannelMessage]) -> None:
        """
        Send to every channel in `group`, likewise.

        If this is cancelled or raises LayerUnavailable, any of them may have been sent.
        """
        names.check("group", group)
        payloads = [self._encode(message) for message in messages]
        if payloads:
            await self._lifetime.run(self._group_send_many, group, payloads)

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
            await self._lifetime.run(_nothing, receiving=True)
        name = self._checked_new_name(prefix)
        # Made on the loop of its reader, which need not be the layer's.
        make = Mailbox if self._lifetime.is_here() else ThreadsafeMailbox
        mailbox = make(name, self.get_capacity(name), overflow or self.overflow)
        forget = functools.partial(self._forget, name)
        await self._lifetime.run(self._open, mailbox, undo=forget)
        return mailbox

    async def close_channel(self, channel: str) -> None:
        """
        Forget a channel of this process and leave its groups. Closing twice is fine.

        Once begun it is done. On another loop than the layer's own, a
        cancellation takes effect after that, which is within about a second.
        """
        closing = self._lifetime.run_if_open(self._close, channel)
        # At home the tables are clean before anything can be cancelled.
        await (closing if self._lifetime.is_here() else _completed(closing))

    async def new_channel(self, prefix: str = "specific") -> str:
        """
        Return the name of a new channel, to be read with `receive`.

        It keeps its first `capacity` unread messages and refuses later ones.
        """
        undo = self._forget
        return await self._lifetime.run(self._new_channel, prefix, receiving=True, undo=undo)

    async def receive(self, channel: str) -> ChannelMessage:
        """
        Wait for the next message of a channel.

        For a shared channel it is taken from whatever process sent it, each by
        one receiver. Cancelling loses nothing. What has to be done, and not only
        received, is better had with `take`.
        """
        self._check_channel(channel)
        received = await self._lifetime.run(self._receive, channel, receiving=True, undo=_put_back)
        if received.taken is not None:
            self._lifetime.tell(received.taken)
        return received.message

    # -- groups -------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """
        Let `channel` receive what is sent to `group`.

        Returns once the broker has confirmed: every message sent to the group
        after that arrives. Adding twice is fine. If this is cancelled or fails,
        the channel is in the group only if it was before, or if another call
        has put it there.
        """
        names.check("group", group)
        self._check_channel(channel)
        undo = functools.partial(self._undo_join, self._group_topic(group), channel)
        await self._lifetime.run(self._group_add, group, channel, undo=undo)

    async def group_discard(self, group: str, channel: str) -> None:
        """
        Stop sending messages for `group` to `channel`.

        Leaving a group twice, or one never joined, is fine. A message that was
        already under way may still arrive afterwards.
        """
        names.check("group", group)
        self._check_channel(channel)
        await self._lifetime.run(self._group_discard, group, channel)

    # -- history ------------------------------------------------------------

    async def history(
        self, group: str, since: Position | str | None = None, limit: int | None = None
    ) -> History:
        """
        Return what `group` was sent after a position, oldest first, as far as it is kept.

        `limit` is how many messages to return at most: the oldest, so that the position
        returned is where to go on; without `since` the newest. What cannot be
        decoded is left out, and counted. Raises InvalidPosition for what is no position,
        and MissingCapability if the layer keeps no history.
        """
        names.check("group", group)
        after = as_position(since)
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit!r}; ask for at least 1 message, or None for all")
        return await self._lifetime.run(self._history, group, after, limit)

    async def join(self, group: str, channel: str, since: Position | str | None = None) -> History:
        """
        Do what `group_add` does, and return what the group was sent after a position.

        Nothing is missing between those messages and the ones that the channel receives from
        now on, and nothing is in both. With `since` None the group's past is not
        asked for: the result tells the present position, and has no messages. Nor has it
        if it is not `recovered`.
        Raises what `group_add` and `history` do, and then the channel is no member; on an
        outage, LayerUnavailable. `channel` must be one of this process.
        """
        names.check("group", group)
        self._check_channel(channel)
        undo = functools.partial(self._undo_join_since, self._group_topic(group), channel)
        after = as_position(since)
        joined: Joined = await self._lifetime.run(
            self._join_since, group, channel, after, undo=undo
        )
        return joined.history

    async def flush(self) -> None:
        """Delete every channel, group and message of this layer, for all processes."""
        await self._lifetime.run(self._flush)

    # -- observing ----------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return the counters of this process, as of now."""
        subscriptions = len(self._subscriptions) if self._subscriptions is not None else 0
        return self._hub.statistics(self._group_name, subscriptions)

    def health(self) -> Health:
        """Return how the broker's connections are doing, as of now. From any thread."""
        broker = self._broker
        return combined(broker.health()) if isinstance(broker, Supervised) else self._health

    def count_unknown_type(self) -> None:
        """Called by a consumer that has no handler for a message."""
        self._hub.counters.unknown_type += 1

    def count_sent_after_close(self) -> None:
        """Called by a consumer whose client had left when it sent a frame."""
        self._hub.counters.sent_after_close += 1

    def count_dropped_frame(self) -> None:
        """Called by a consumer that does not handle a frame of its client."""
        self._hub.counters.frames_dropped += 1

    def __str__(self) -> str:
        return type(self).__name__


async def _completed(cleanup: Coroutine[Any, Any, None]) -> None:
    """Do it to its end; being cancelled comes second."""
    doing = asyncio.create_task(cleanup)
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.wait([doing])
        raise


def _put_back(received: Received) -> None:
    received.put_back()


async def _nothing() -> None:
    """Opening is all that was wanted."""
