"""The public API of a layer: checks arguments and calls the session on the layer's loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fast_channels.exceptions import (
    InvalidMessage,
    InvalidName,
    LayerUnavailable,
    MessageTooLarge,
    MissingCapability,
)

from . import names
from .addressing import InboxAddressing
from .broker import Lease
from .codecs import MsgPackCodec
from .health import Health, combined
from .loops import Lifetime
from .mailbox import Mailbox, ThreadsafeMailbox
from .position import Position, PositionedMessage
from .session import Session
from .statistics import Counters
from .work import Work, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable

    from fast_channels.type_defs import (
        ChannelCapacityDict,
        ChannelMessage,
        CompiledChannelCapacities,
        Overflow,
    )

    from .addressing import Addressing
    from .broker import Broker
    from .codecs import Codec
    from .position import History
    from .session import Joined, ReceivedMessage
    from .statistics import Statistics
    from .work import DeadLetter

# An idempotency key is part of the name of a key in Redis.
MAX_IDEMPOTENCY_KEY_LENGTH = 200

# Dead letters that one call returns or requeues, unless it says otherwise.
DEAD_LETTERS_PER_CALL = 100


class BaseChannelLayer:
    """
    Moves messages between channels, which may be in any process.

    Open a layer with `async with layer:`, or let `channel_layers.lifespan` open all registered
    layers; otherwise a layer opens on first use. The layer lives on the event loop that opened
    it, and calls may come from any other loop.

    Messages of one sender to one group or channel arrive in the order of sending. A message is
    a mapping with strings as keys; the values are strings, numbers, booleans, None, bytes,
    lists and mappings. Messages are checked when they are sent. Each receiver gets its own
    dict, but receivers share the values inside it: treat nested values as read-only.

    `capacity` is how many messages may wait in one channel. `channel_capacity` sets it by name:
    the keys are globs or compiled patterns, and the first match counts. `overflow` is the
    policy of a consumer's full mailbox. `expiry` is how many seconds a stored message waits for
    a reader. `max_message_size` is in bytes, after encoding.

    The class of a backend passes an `addressing`, and `decode` if its broker puts payloads in an
    envelope: `decode` opens payloads from the broker, while `codec` makes and reads bare ones.
    """

    MAX_NAME_LENGTH: ClassVar[int] = names.MAX_NAME_LENGTH
    """Names must be shorter than this."""

    channel_name_regex = names.CHANNEL_NAME
    """The pattern of channel names."""

    group_name_regex = names.GROUP_NAME
    """The pattern of group names."""

    invalid_name_error = (
        "{} name must be a string of 1 to 99 ASCII letters, digits, hyphens, underscores or periods"
    )
    """A format string for "Channel" or "Group"."""

    within_process: ClassVar[bool] = False
    """True if no message leaves the process, so that several workers have separate groups."""

    def __init__(
        self,
        expiry: float = 60,
        capacity: int = 100,
        channel_capacity: ChannelCapacityDict | None = None,
        *,
        codec: Codec | None = None,
        decode: Callable[[bytes], Any] | None = None,
        addressing: Addressing | None = None,
        overflow: Overflow = "drop_oldest",
        max_message_size: int = 1024 * 1024,
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity!r}; a channel must hold at least 1 message")
        if overflow not in ("drop_oldest", "drop_newest", "close"):
            raise ValueError(f"overflow is {overflow!r}; use drop_oldest, drop_newest or close")
        self.expiry = expiry
        self.capacity = capacity
        self.channel_capacity = self.compile_capacities(channel_capacity or {})
        self.overflow: Overflow = overflow
        self.max_message_size = max_message_size
        self.process = names.unique()
        """A part of the name of every channel made here. A forked child gets its own."""
        # The id of the process that `process` names.
        self._pid = os.getpid()
        self._codec: Codec = codec or MsgPackCodec()
        self._decode = decode or self._codec.decode
        self._addressing: Addressing = addressing or InboxAddressing()
        self._counters = Counters()
        self._lifetime: Lifetime[Session] = Lifetime(self, self._opened)
        # The present session; None while the layer is closed.
        self._session: Session | None = None
        # The result of health() if the broker does not watch its servers.
        self._health = Health("closed", time.time())
        # How many `async with` blocks the layer is in, and whether open() was called: the last
        # block closes the layer unless it was.
        self._entered = 0
        self._kept_open = False

    def _make_broker(self) -> Broker:
        """Return the broker of a new session. Called each time the layer opens."""
        raise MissingCapability(
            self, "moving messages", "use a layer with a broker, such as InMemoryChannelLayer"
        )

    # -- lifetime -----------------------------------------------------------

    async def open(self) -> None:
        """Open the layer on this loop. Raises LayerUnavailable if its broker does not answer."""
        await self._lifetime.open()
        self._kept_open = True

    async def close(self) -> None:
        """
        Disconnect from the broker and close all channels. Closing twice is fine.

        The next use opens the layer again, as new.
        """
        self._kept_open = False
        await self._lifetime.close()

    async def __aenter__(self) -> Self:
        await self._lifetime.open()
        self._entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        # Within a lifespan that keeps the layer open, a block must not close it.
        self._entered -= 1
        if self._entered == 0 and not self._kept_open:
            await self.close()

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncGenerator[Session]:
        """Open a session with a new broker and no channels, and close it at the end."""
        if self._pid != os.getpid():
            self.process, self._pid = names.unique(), os.getpid()
        if self._session is not None:
            # Its loop was stopped, or it is the session of this process's parent. Readers on
            # other loops may still wait for its channels.
            self._session.hub.clear()
        session = Session(
            self._make_broker(),
            self._addressing,
            self.process,
            decode=self._decode,
            decode_local=self._codec.decode,
            capacity_of=self.get_capacity,
            delivery_batch=self._delivery_batch,
            counters=self._counters,
        )
        self._health = Health("connecting", time.time())
        try:
            await session.start()
            self._session = session
            self._health = Health("ready", time.time())
            yield session
        except LayerUnavailable as exc:
            self._health = Health("closed", time.time(), str(exc))
            raise
        finally:
            # A loop that was stopped and replaced may end long after its successor began.
            if self._session is session:
                self._session = None
                self._health = Health("closed", time.time())
            await session.stop()

    # -- sending ------------------------------------------------------------

    async def send(self, channel: str, message: ChannelMessage) -> None:
        """
        Send to one channel.

        Raises InvalidName, InvalidMessage or MessageTooLarge before anything is sent,
        ChannelFull if an unread channel is at capacity, and LayerUnavailable if the broker does
        not answer.
        """
        self._addressing.check_channel(channel)
        await self._lifetime.run(Session.send, channel, self._encode(message))

    async def send_many(self, channel: str, messages: Iterable[ChannelMessage]) -> None:
        """
        Send several messages to one channel in order, in one request if the broker can.

        All messages are checked before the first is sent. Raises the errors of `send`. After
        ChannelFull, the first `accepted` messages were sent, and no others. If the call is
        cancelled or raises LayerUnavailable, any number of the first messages may have been
        sent.
        """
        self._addressing.check_channel(channel)
        payloads = [self._encode(message) for message in messages]
        if payloads:
            await self._lifetime.run(Session.send_many, channel, payloads)

    async def group_send(
        self, group: str, message: ChannelMessage, *, idempotency_key: str | None = None
    ) -> Position | None:
        """
        Send to every channel in `group`, on every process.

        Raises the errors of `send` except ChannelFull: a channel that cannot keep up loses
        messages by its own policy, and other channels lose none.

        A layer with a history returns the position of the message. With `idempotency_key`, the
        layer sends nothing if a message with the same key was sent to the group within
        `idempotency_window`, and returns the position of that message. Therefore a call that
        raised LayerUnavailable can be repeated safely; only shared channels in the group may
        then get the message twice. Other layers return None, and raise MissingCapability for a
        key.
        """
        names.check("group", group)
        if idempotency_key is not None:
            _check_idempotency_key(idempotency_key)
        payload = self._encode(message)
        return await self._lifetime.run(Session.group_send, group, payload, idempotency_key)

    async def group_send_many(self, group: str, messages: Iterable[ChannelMessage]) -> None:
        """
        Send several messages to every channel in `group`, in order.

        All messages are checked before the first is sent. Raises the errors of `group_send`. If
        the call is cancelled or raises LayerUnavailable, any of them may have been sent.
        """
        names.check("group", group)
        payloads = [self._encode(message) for message in messages]
        if payloads:
            await self._lifetime.run(Session.group_send_many, group, payloads)

    def _encode(self, message: ChannelMessage) -> bytes:
        if not isinstance(message, Mapping):
            raise InvalidMessage("message", message, 'must be a mapping, such as {"type": "..."}')
        payload = self._codec.encode(message)
        if names.ADDRESS_KEY in message:
            remedy = f"the key {names.ADDRESS_KEY!r} is reserved for addressing; use another"
            raise InvalidMessage("message", message, remedy)
        if len(payload) > self.max_message_size:
            raise MessageTooLarge(len(payload), self.max_message_size)
        return payload

    # -- receiving ----------------------------------------------------------

    async def open_channel(
        self, prefix: str = "specific", *, overflow: Overflow | None = None
    ) -> Mailbox:
        """
        Make a channel and return its mailbox; `mailbox.name` is the channel's name.

        Close the channel with `close_channel`. On another loop than the layer's own, the
        mailbox is a little slower and otherwise the same.
        """
        if not self._lifetime.is_here():
            await self._lifetime.open()
        name = self._new_name(prefix)
        # The mailbox is made on the loop of its reader, which may not be the layer's loop.
        make = Mailbox if self._lifetime.is_here() else ThreadsafeMailbox
        mailbox = make(name, self.get_capacity(name), overflow or self.overflow)
        await self._lifetime.run(
            Session.open_channel, mailbox, undo=lambda session, _: session.forget_channel(name)
        )
        return mailbox

    def _new_name(self, prefix: str) -> str:
        """Return a new channel name; raise InvalidName for an invalid prefix."""
        name = self._addressing.new_channel(prefix, self.process)
        self._addressing.check_channel(name)
        return name

    async def close_channel(self, channel: str) -> None:
        """
        Close a channel of this process and leave its groups. Closing twice is fine.

        A call that has begun is completed. On another loop than the layer's own, a cancellation
        takes effect afterwards, within about a second.
        """
        closing = self._lifetime.run_if_open(Session.close_channel, channel)
        # On the layer's loop, the tables are clean before a cancellation can take effect.
        await (closing if self._lifetime.is_here() else _completed(closing))

    async def new_channel(self, prefix: str = "specific") -> str:
        """
        Return the name of a new channel for `receive`.

        The channel keeps its first `capacity` unread messages and refuses later ones.
        """
        if not self._lifetime.is_here():
            # A forked child gets another process name when it opens the layer.
            await self._lifetime.open()
        name = self._new_name(prefix)
        return await self._lifetime.run(
            Session.new_channel, name, receiving=True, undo=Session.forget_channel
        )

    async def receive(self, channel: str) -> ChannelMessage:
        """
        Wait for the next message of a channel.

        A message of a shared channel may come from any process and goes to one receiver.
        Cancelling loses nothing. Use `take` for messages that must be handled and not only
        received.
        """
        self._addressing.check_channel(channel)
        received = await self._lifetime.run(
            Session.receive, channel, receiving=True, undo=Session.put_back
        )
        if isinstance(received.origin, Lease):
            self._lifetime.tell(Session.conclude, received)
        return received.message

    # -- groups -------------------------------------------------------------

    async def group_add(self, group: str, channel: str) -> None:
        """
        Add `channel` to `group`.

        Returns once the broker has confirmed: every message sent to the group after that
        arrives. Adding twice is fine. If the call is cancelled or fails, the channel is in the
        group only if it was before, or if another call has added it.
        """
        names.check("group", group)
        self._addressing.check_channel(channel)
        await self._lifetime.run(
            Session.group_add,
            group,
            channel,
            undo=lambda session, new: session.undo_group_add(group, channel, new),
        )

    async def group_discard(self, group: str, channel: str) -> None:
        """
        Stop sending messages for `group` to `channel`.

        Leaving twice is fine, and so is leaving a group that was never joined. A message in
        transit may still arrive afterwards.
        """
        names.check("group", group)
        self._addressing.check_channel(channel)
        await self._lifetime.run(Session.group_discard, group, channel)

    # -- history ------------------------------------------------------------

    async def history(
        self, group: str, since: Position | str | None = None, limit: int | None = None
    ) -> History:
        """
        Return the kept messages of `group` after a position, oldest first.

        `limit` is the largest number of messages to return. After a position, the oldest ones
        are returned, so that the next call can continue from the returned position; without
        `since`, the newest ones. Messages that cannot be decoded are left out and counted.
        Raises InvalidPosition for an invalid `since`, and MissingCapability if the layer has no
        history.
        """
        names.check("group", group)
        after = _as_position(since)
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit!r}; ask for at least 1 message, or None for all")
        return await self._lifetime.run(Session.history, group, after, limit)

    async def join(self, group: str, channel: str, since: Position | str | None = None) -> History:
        """
        Add `channel` to `group`, and return the group's messages after a position.

        No message is missing between the returned messages and the ones that the channel
        receives from now on, and none is in both. The result has no messages if `since` is None
        or if it is not `recovered`; its position is the present one. Raises the errors of
        `group_add` and `history`, also LayerUnavailable during an outage; the channel is not a
        member then. `channel` must belong to this process.
        """
        names.check("group", group)
        self._addressing.check_channel(channel)
        after = _as_position(since)
        joined: Joined = await self._lifetime.run(
            Session.join,
            group,
            channel,
            after,
            undo=lambda session, joined: session.undo_group_add(group, channel, joined.new),
        )
        return joined.history

    def require_history(self, wanted: str) -> None:
        """Raise MissingCapability for the feature `wanted` if this open layer has no history."""
        if self._session is None:
            raise LayerUnavailable(self, "it is closed")
        self._session.require_log(wanted)

    def group_position(self, message: ChannelMessage) -> tuple[str, Position] | None:
        """
        Return the group and the position of a message, or None.

        A message has them if its layer has a history and its mailbox is `positioned`, such as
        the mailbox of an AsyncHttpConsumer.
        """
        if not isinstance(message, PositionedMessage):
            return None
        group = self._addressing.group_of(message.topic)
        return None if group is None else (group, message.position)

    # -- work ---------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def take(self, channel: str) -> AsyncGenerator[Work]:
        """
        Wait for a message of a shared channel: `async with layer.take("mails") as work:`.

        The message is acknowledged when the block ends. If the block raises an Exception, the
        caller gets it, and the message is redelivered after a pause; after `max_deliveries` it
        goes to the dead letters. If the block is cancelled, the message is requeued at once. A
        message is also redelivered after `visibility_timeout` seconds, even while the block
        still runs. Therefore work may be done twice, and must tolerate it.

        Cancelling the wait loses nothing. The wait continues while the broker is away. Raises
        MissingCapability if the broker does not support acknowledged work.
        """
        _check_shared(channel)
        received = await self._lifetime.run(
            Session.lease, channel, receiving=True, undo=Session.put_back
        )
        deliveries = received.origin.deliveries if isinstance(received.origin, Lease) else 1
        work = Work(channel, received.message, deliveries)
        try:
            yield work
        except Exception as exc:
            await self._conclude(received, work.rejection, reason_of(exc))
            raise
        except BaseException:
            # Without waiting for the broker: the process may be about to end.
            self._lifetime.tell(Session.give_up, received, work.rejection)
            raise
        await self._conclude(received, work.rejection, None)

    async def _conclude(
        self, received: ReceivedMessage, rejection: str | None, failure: str | None
    ) -> None:
        # A layer that is closed is not opened for this; the work is redelivered.
        await self._lifetime.run_if_open(Session.concluded, received, rejection, failure)

    async def dead_letters(
        self, channel: str, *, limit: int = DEAD_LETTERS_PER_CALL
    ) -> list[DeadLetter]:
        """
        Return messages that were rejected or failed too often, the oldest first.

        The last thousand per channel are kept.
        """
        _check_shared(channel)
        return await self._lifetime.run(Session.dead_letters, channel, limit)

    async def retry_dead_letters(self, channel: str, *, limit: int = DEAD_LETTERS_PER_CALL) -> int:
        """
        Move dead letters behind the waiting messages, the oldest first; return how many.

        The number is less than `limit` if there are no more, or if the channel is at capacity.
        The deliveries of these messages are counted from 1 again.
        """
        _check_shared(channel)
        return await self._lifetime.run(Session.requeue, channel, limit)

    async def flush(self) -> None:
        """Delete every channel, group and message of this layer, for all processes."""
        await self._lifetime.run(Session.flush)

    # -- observing ----------------------------------------------------------

    def statistics(self) -> Statistics:
        """Return the present counters of this process."""
        session = self._session
        return self._counters.frozen() if session is None else session.statistics()

    def health(self) -> Health:
        """Return the present state of the broker's connections. Any thread may call it."""
        session = self._session
        servers = None if session is None else session.servers()
        return self._health if servers is None else combined(servers)

    def count_unknown_type(self) -> None:
        """Called by a consumer that has no handler for a message."""
        self._counters.unknown_type += 1

    def count_sent_after_close(self) -> None:
        """Called by a consumer that sent a frame after its client had left."""
        self._counters.sent_after_close += 1

    def count_dropped_frame(self) -> None:
        """Called by a consumer that does not handle a frame of its client."""
        self._counters.frames_dropped += 1

    # -- names and capacities, as in Django Channels ---------------------------

    def compile_capacities(
        self, channel_capacity: ChannelCapacityDict
    ) -> CompiledChannelCapacities:
        """Return pairs of a compiled pattern and its capacity, in order."""
        return names.compile_capacities(channel_capacity)

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait in `channel`."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def match_type_and_length(self, name: object) -> bool:
        """Return whether `name` is a string of an allowed length."""
        return isinstance(name, str) and 0 < len(name) < self.MAX_NAME_LENGTH

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Return True, or raise InvalidName; to receive, `!` must end a local name."""
        names.check("channel", name)
        if receive and isinstance(name, str) and names.inbox_of(name) != name:
            raise InvalidName("channel", name, "a process receives on the part up to '!'")
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """Return True, or raise InvalidName."""
        names.check("group", name)
        return True

    def non_local_name(self, name: str) -> str:
        """Return a channel's name up to and including `!`."""
        return names.inbox_of(name)

    @property
    def _delivery_batch(self) -> int:
        """The number of payloads that a reader may deliver before consumers run."""
        return names.delivery_batch(self.capacity, self.channel_capacity)

    def __str__(self) -> str:
        return type(self).__name__


async def _completed(cleanup: Coroutine[Any, Any, None]) -> None:
    """Run a cleanup to its end; a cancellation takes effect afterwards."""
    task = asyncio.create_task(cleanup)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _as_position(since: Position | str | None) -> Position | None:
    """Return a position, which may be passed as text. Raises InvalidPosition."""
    return since if since is None or isinstance(since, Position) else Position.parse(since)


def _check_idempotency_key(key: object) -> None:
    if not isinstance(key, str) or not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise ValueError(
            f"idempotency_key is {key!r}; it is a string of 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} "
            "characters"
        )


def _check_shared(channel: object) -> None:
    names.check("channel", channel)
    if names.is_local(str(channel)):
        raise InvalidName(
            "channel", channel, "since work is shared and this belongs to one process"
        )
