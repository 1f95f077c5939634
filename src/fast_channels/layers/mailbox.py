"""
The inbox of one channel.

Two lanes meet here. *Frames* come from the client and are never dropped: the
writer waits while the lane is full. *Messages* come from a layer, whose writer
cannot wait: beyond `capacity` a named policy decides what is lost, and the
reader is told where in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import LayerClosed

if TYPE_CHECKING:
    from collections.abc import Callable

    from fast_channels.type_defs import ChannelMessage, Overflow

    from .lanes import Lane

# Frames that may wait before the client's socket is no longer read. TCP then
# slows the sender down.
FRAME_LIMIT = 64

# Memory in bytes that they may take together; a single one may take more.
FRAME_BYTES = 1_048_576


# A lane with this many waiting is a deque, from whose front it is quicker to take;
# before, it is a list, since most connections have little or nothing in it and a
# deque takes 760 bytes. What both can do is all that is asked of them.
MANY = 500


class Notice(dict[str, Any]):
    """A message written by the layer itself. Its type cannot be forged by a sender."""


class Mailbox:
    """
    Any number of writers, none of which waits; one reader.

    A full mailbox follows `overflow`. `drop_oldest` forgets the message that
    waited longest; `drop_newest` refuses the one that arrives; `close` refuses
    it too and asks the reader to end the connection. What was lost is counted
    in `dropped` and reported once, in its place among the messages, as
    `{"type": "layer.overflow", "dropped": n}`.
    """

    __slots__ = (
        "_frame_bytes",
        "_frame_room",
        "_frames",
        "_lost",
        "_messages",
        "_waiters",
        "capacity",
        "closed",
        "dropped",
        "lane",
        "name",
        "overflow",
        "overflowed",
        "positioned",
        "ready",
        "refuses",
    )

    def __init__(
        self,
        name: str,
        capacity: int,
        overflow: Overflow = "drop_oldest",
        *,
        refuses: bool = False,
    ) -> None:
        # The channel that this is the inbox of.
        self.name = name
        # Messages that may wait unread.
        self.capacity = capacity
        # What it does with one message more.
        self.overflow = overflow
        # Whether senders in this process are to hear of a full mailbox.
        self.refuses = refuses
        # A short cut for messages, if the reader wants one, and the same while it
        # may be used: while the reader waits, and nothing for it.
        self.lane: Lane | None = None
        self.ready: Lane | None = None
        # Whether the reader wants to know the positions of messages, see layers/position.py.
        self.positioned = False
        # Messages lost here since the mailbox was made.
        self.dropped = 0
        # True once the channel has been closed.
        self.closed = False
        # True once the policy is "close" and a message was refused.
        self.overflowed = False
        self._messages: list[ChannelMessage] | deque[ChannelMessage] = []
        # Each with the memory that it takes, and that of all of them.
        self._frames: list[tuple[ChannelMessage, int]] = []
        self._frame_bytes = 0
        # Lost since the last report. With drop_oldest they stood before the
        # first waiting message, otherwise behind the last one.
        self._lost = 0
        # What readers wait on while there is nothing to take. One reader is the
        # rule; receive() of one channel may be called by several.
        self._waiters: list[asyncio.Future[None]] = []
        # What the frame writer waits on while its lane is full.
        self._frame_room: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Messages that wait, frames not counted."""
        return len(self._messages)

    def __bool__(self) -> bool:
        """An empty mailbox is one all the same."""
        return True

    @property
    def full(self) -> bool:
        return len(self._messages) >= self.capacity

    def put(self, message: ChannelMessage) -> bool:
        """Add a message. False if it was refused; an older one may be lost for it."""
        if len(self._messages) >= self.capacity:
            if not self._overflow():
                return False
        elif self._lost and self.overflow != "drop_oldest":
            # Room again: the report goes where the hole is, before what follows.
            self._add(self._report())
        self._add(message)
        return True

    def open_lane(self, lane: Lane) -> None:
        """Use a short cut from the next time that the reader waits; it is woken for that."""
        self.lane = lane
        self._wake()

    def close_lane(self) -> None:
        self.lane = self.ready = None

    def wake(self) -> None:
        """Let a reader that is idle see what there is to do besides messages."""
        self._wake()

    def put_notice(self, notice: Notice) -> None:
        """Add a message from the layer itself; it is never dropped."""
        self._add(notice)

    @property
    def holds_frame_back(self) -> bool:
        """Whether the client has sent more than there is room for."""
        return self._frame_room is not None

    async def put_frame(self, event: ChannelMessage) -> None:
        """Add an event from the client; waits while FRAME_LIMIT or FRAME_BYTES are unread."""
        size = _size(event)
        while self._frames and not self._has_room(size):
            self._frame_room = asyncio.get_running_loop().create_future()
            try:
                await self._frame_room
            finally:
                self._frame_room = None
        self._frames.append((event, size))
        self._frame_bytes += size
        self._wake()

    async def wait(self) -> None:
        """
        Return when there is something to take.

        Takes nothing itself, so cancelling it loses nothing.
        """
        while not (self._messages or self._frames or self._lost or self.overflowed or self.closed):
            await self._sleep()

    def change(self) -> asyncio.Future[None]:
        """
        Return what is done once anything has happened here, for the one reader of a consumer.

        To be asked for when nothing waits. Costs less than `wait`.
        """
        self.ready = self.lane
        return self._waiter()

    def take(self) -> ChannelMessage | None:
        """Return the next message, or None if none waits."""
        if self._lost and (self.overflow == "drop_oldest" or not self._messages):
            return self._report()
        if not self._messages:
            return None
        message = self._messages[0]
        del self._messages[0]
        return message

    def take_frame(self) -> ChannelMessage | None:
        """Return the next event from the client, or None if none waits."""
        if not self._frames:
            return None
        if self._frame_room is not None:
            _resolve(self._frame_room)
        event, size = self._frames.pop(0)
        self._frame_bytes -= size
        return event

    async def get(self) -> ChannelMessage:
        """
        Wait for a message and take it. Cancelling loses nothing.

        Raises LayerClosed if the channel is closed and nothing is left in it.
        """
        while (message := self.take()) is None:
            if self.closed:
                raise LayerClosed(f"channel {self.name!r}")
            await self._sleep()
        return message

    def put_back(self, message: ChannelMessage) -> None:
        """Undo a take()."""
        self._messages.insert(0, message)
        self._wake()

    def close(self) -> None:
        """Let nobody wait for what will not come."""
        self.closed = True
        self._wake()

    def _has_room(self, size: int) -> bool:
        return len(self._frames) < FRAME_LIMIT and self._frame_bytes + size <= FRAME_BYTES

    def _add(self, message: ChannelMessage) -> None:
        self._messages.append(message)
        if len(self._messages) == MANY:
            self._messages = deque(self._messages)
        if self._waiters:
            self._wake()

    def _overflow(self) -> bool:
        """Make room or refuse, by policy; whether the message that arrives may stay."""
        if self.overflow == "drop_oldest":
            for index, message in enumerate(self._messages):
                # What the layer itself has to say outlives the messages around it.
                if not isinstance(message, Notice):
                    del self._messages[index]
                    self._lose()
                    break
            return True
        self._lose()
        if self.overflow == "close":
            self.overflowed = True
        self._wake()
        return False

    def _lose(self) -> None:
        self.dropped += 1
        self._lost += 1

    def _report(self) -> Notice:
        lost, self._lost = self._lost, 0
        return Notice(type="layer.overflow", dropped=lost)

    def _waiter(self) -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    async def _sleep(self) -> None:
        waiter = self._waiter()
        try:
            await waiter
        finally:
            # Still listed only if this wait was cancelled: a reader that polls
            # with short timeouts must leave nothing behind.
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        # All of them, so that a wake-up given to a reader that is being
        # cancelled at this moment is not lost for the others.
        self.ready = None
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class ThreadsafeMailbox(Mailbox):
    """The same for a reader whose loop is not the one that delivers."""

    __slots__ = ("_loop",)

    def __init__(self, name: str, capacity: int, overflow: Overflow = "drop_oldest") -> None:
        super().__init__(name, capacity, overflow)
        self._loop = asyncio.get_running_loop()

    def put(self, message: ChannelMessage) -> bool:
        self._call(super().put, message)
        return True

    def change(self) -> asyncio.Future[None]:
        # A lane is for the loop of its reader alone: it is not ready for a moment, in
        # which the thread that delivers may look.
        return self._waiter()

    def put_notice(self, notice: Notice) -> None:
        self._call(super().put_notice, notice)

    def close(self) -> None:
        self._call(super().close)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        # The reader's loop may have ended a moment ago, and the reader with it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def _size(event: ChannelMessage) -> int:
    """Bytes of memory that an event's data takes; what carries it counts for nothing."""
    data = event.get("text") or event.get("bytes") or event.get("body")
    return sys.getsizeof(data) if data else 0


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
