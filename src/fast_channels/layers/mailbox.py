"""
The inbox of one channel, where frames and messages meet.

*Frames* come from the client and are never dropped: their writer waits while too many are
unread. *Messages* come from a layer, and their writer cannot wait: beyond `capacity` a named
policy decides which message is lost, and the reader is told where in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from fast_channels.exceptions import LayerClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fast_channels.type_defs import ChannelMessage, Overflow

    # Turns a message into an event that all readers of a kind share instead of copies.
    Prepare = Callable[[ChannelMessage], ChannelMessage | None]

# Frames that may wait before the client's socket is no longer read. TCP then slows the
# client down.
FRAME_LIMIT = 64

# Memory in bytes that frames may take together; a single one may take more.
FRAME_BYTES = 1_048_576


# Switch from a list to a deque at this length. Taking from the front of a deque is faster,
# but a deque takes 760 bytes, and most mailboxes are nearly empty.
DEQUE_LENGTH = 500


class MailboxReader(Protocol):
    """
    A reader of a mailbox that deliveries may run (see consumer/eager.py).

    Waking a reader in its own task costs more than most handlers do.
    """

    # True while the reader waits for something and its mailbox is empty. A delivery that is
    # going to run the reader sets this to False, so that nothing wakes it meanwhile.
    idle: bool

    def wake(self) -> None:
        """Let the reader run in its own task, if it is idle."""
        ...

    def run_all(
        self, mailboxes: Iterable[Mailbox], copies: Callable[[Mailbox], Sequence[ChannelMessage]]
    ) -> None:
        """
        Let the readers of these mailboxes handle their messages, which `copies` returns.

        If a reader has to wait, the rest of its messages goes into its mailbox.
        """
        ...


class Notice(dict[str, Any]):
    """A message that the layer itself has written. Senders cannot forge it."""


class Mailbox:
    """
    Messages for one reader, from any number of writers that never wait.

    A full mailbox follows `overflow`: `drop_oldest` drops the message that has waited longest,
    `drop_newest` drops the new message, and `close` drops it too and asks the reader to end the
    connection. Lost messages are counted in `dropped` and reported once, in their place among
    the messages, as `{"type": "layer.overflow", "dropped": n}`.
    """

    __slots__ = (
        "_frame_room",
        "_frames",
        "_lost",
        "_messages",
        "_reader",
        "_waiters",
        "capacity",
        "changed",
        "closed",
        "dropped",
        "eager_reader",
        "frame_bytes",
        "name",
        "overflow",
        "overflowed",
        "positioned",
        "prepare",
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
        self.name = name
        """The name of the channel."""
        self.capacity = capacity
        """Number of messages that may wait unread."""
        self.overflow = overflow
        """The policy of a full mailbox."""
        self.refuses = refuses
        """True if senders in this process get ChannelFull from a full mailbox."""
        # The reader to wake for a new entry, and the same reader if deliveries may run it.
        self._reader: MailboxReader | None = None
        self.eager_reader: MailboxReader | None = None
        # True after any change since the reader set this to False.
        self.changed = True
        # Returns an event that the reader gets instead of a copy of a message, or None.
        self.prepare: Prepare | None = None
        self.positioned = False
        self.dropped = 0
        """The number of messages lost here since the mailbox was made."""
        self.closed = False
        """True once the channel has been closed."""
        # True once the policy is "close" and a message was refused.
        self.overflowed = False
        self._messages: list[ChannelMessage] | deque[ChannelMessage] = []
        # Waiting events from the client, each with its size in memory.
        self._frames: list[tuple[ChannelMessage, int]] = []
        # The sum of these sizes.
        self.frame_bytes = 0
        # Messages lost since the last report. With drop_oldest they stood before the first
        # waiting message, otherwise after the last one.
        self._lost = 0
        # The futures of waiting calls of `get` and `wait`. Several tasks may call receive() for
        # one channel.
        self._waiters: list[asyncio.Future[None]] = []
        # The future of the writer of frames, which waits while too many are unread.
        self._frame_room: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Return how many messages wait; frames do not count."""
        return len(self._messages)

    def __bool__(self) -> bool:
        """Return True, even for an empty mailbox."""
        return True

    @property
    def full(self) -> bool:
        return len(self._messages) >= self.capacity

    def put(self, message: ChannelMessage) -> bool:
        """Add a message; return False if it was refused. An older one may be dropped for it."""
        if len(self._messages) >= self.capacity:
            if not self._overflow():
                return False
        elif self._lost and self.overflow != "drop_oldest":
            # The report takes the place of the lost messages, before the next message.
            self._add(self._report())
        self._add(message)
        return True

    def listen(self, reader: MailboxReader, prepare: Prepare | None = None) -> None:
        """Wake this reader for new entries, or let deliveries run it."""
        self._reader = self.eager_reader = reader
        self.prepare = prepare

    def wake(self) -> None:
        """Let an idle reader run, for reasons other than messages."""
        self._wake()

    def put_notice(self, notice: Notice) -> None:
        """Add a message from the layer itself; it is never dropped."""
        self._add(notice)

    @property
    def holds_frame_back(self) -> bool:
        """True while the writer of frames waits, because too many are unread."""
        return self._frame_room is not None

    async def put_frame(self, event: ChannelMessage) -> None:
        """Add an event from the client; wait while FRAME_LIMIT or FRAME_BYTES are unread."""
        size = _size(event)
        while self._frames and not self._has_room(size):
            self._frame_room = asyncio.get_running_loop().create_future()
            try:
                await self._frame_room
            finally:
                self._frame_room = None
        self._frames.append((event, size))
        self.frame_bytes += size
        self._wake()

    async def wait(self) -> None:
        """
        Wait for a message, a frame or an end, without taking it.

        Cancelling loses nothing.
        """
        while not (self._messages or self._frames or self._lost or self.overflowed or self.closed):
            await self._sleep()

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
        self.frame_bytes -= size
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
        """Undo a `take`."""
        self._messages.insert(0, message)
        self._wake()

    def close(self) -> None:
        """Mark the channel as closed, and wake every reader."""
        self.closed = True
        self._wake()

    def _has_room(self, size: int) -> bool:
        return len(self._frames) < FRAME_LIMIT and self.frame_bytes + size <= FRAME_BYTES

    def _add(self, message: ChannelMessage) -> None:
        self.changed = True
        self._messages.append(message)
        if len(self._messages) == DEQUE_LENGTH:
            self._messages = deque(self._messages)
        reader = self._reader
        if self._waiters or (reader is not None and reader.idle):
            self._wake()

    def _overflow(self) -> bool:
        """Drop a message by the policy; return whether the new message may stay."""
        if self.overflow == "drop_oldest":
            for index, message in enumerate(self._messages):
                # A message from the layer itself is never dropped.
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
            # Still listed only if this wait was cancelled: a reader that polls with short
            # timeouts must leave nothing behind.
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _wake(self) -> None:
        # All of them, so that a wake-up for a reader that is cancelled at this moment is not
        # lost for the others.
        self.changed = True
        if self._reader is not None:
            self._reader.wake()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class ThreadsafeMailbox(Mailbox):
    """A mailbox for a reader on another loop than the layer's."""

    __slots__ = ("_loop",)

    def __init__(self, name: str, capacity: int, overflow: Overflow = "drop_oldest") -> None:
        super().__init__(name, capacity, overflow)
        self._loop = asyncio.get_running_loop()

    def put(self, message: ChannelMessage) -> bool:
        self._call(super().put, message)
        return True

    def listen(self, reader: MailboxReader, prepare: Prepare | None = None) -> None:
        super().listen(reader, prepare)
        # The thread that delivers must not run it.
        self.eager_reader = None

    def put_notice(self, notice: Notice) -> None:
        self._call(super().put_notice, notice)

    def close(self) -> None:
        self._call(super().close)

    def _call(self, function: Callable[..., object], *args: object) -> None:
        # The reader's loop may have ended a moment ago.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)


def _size(event: ChannelMessage) -> int:
    """Return the bytes of memory that the data of an event takes, without the dict."""
    data = event.get("text") or event.get("bytes") or event.get("body")
    return sys.getsizeof(data) if data else 0


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
