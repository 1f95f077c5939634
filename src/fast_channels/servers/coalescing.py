"""One system call for all that a connection is sent at a time."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# Bytes from which a piece is not joined with others: copying it would cost more
# than the system call that it saves.
LARGE = 16_384


class Turn:
    """The present turn of an event loop: all callbacks up to one that is called soon."""

    __slots__ = ("_collectors", "_ends", "number")

    def __init__(self) -> None:
        # Of this turn. Turns in which nobody wrote anything are not counted.
        self.number = 0
        # Whether its end is scheduled.
        self._ends = False
        # Who has something to write then.
        self._collectors: list[CoalescingTransport] = []

    def entered(self) -> int:
        """Return the number of this turn, and see that it ends."""
        if not self._ends:
            self._ends = True
            asyncio.get_running_loop().call_soon(self._end)
        return self.number

    def add(self, collector: CoalescingTransport) -> None:
        self._collectors.append(collector)

    def _end(self) -> None:
        self.number += 1
        self._ends = False
        collectors, self._collectors = self._collectors, []
        for collector in collectors:
            try:
                collector.flush()
            except Exception as exc:  # noqa: BLE001 - it is reported, and the others get theirs
                context = {"message": "a write failed", "exception": exc, "transport": collector}
                asyncio.get_running_loop().call_exception_handler(context)


# The turn of each event loop.
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turn] = weakref.WeakKeyDictionary()


class CoalescingTransport(asyncio.Transport):
    """
    Collects what is written during one turn of the event loop, and writes it in one piece.

    What is written first in a turn is not kept back: a connection that is sent
    one thing at a time does not notice this class. Only where several things
    came in the turn before, the first one is collected as well.

    Everything reaches the transport underneath in the order in which it was
    written, and before the loop waits for anything. `close` and `write_eof` come
    after all of it; `abort` and a connection that breaks throw it away, as they
    do with whatever the client has not taken.

    Flow control counts what is collected: together with what the transport
    underneath holds, it does not exceed that one's high-water mark. A piece that
    would is passed on at once with all before it, and the protocol is paused at
    the byte at which it would be without this class.
    """

    __slots__ = ("_collected", "_last", "_room", "_several", "_size", "_transport", "_turn")

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._turn = _turns.setdefault(asyncio.get_running_loop(), Turn())
        # The last turn in which something was written, and whether that was
        # more than one thing.
        self._last = -1
        self._several = False
        # What is written at the end of this turn, and how many bytes that is.
        # When a turn is over, there is nothing.
        self._collected: list[bytes | bytearray | memoryview] = []
        self._size = 0
        # Bytes that may be collected before flow control has to know of them.
        self._room = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """As with any transport, `data` must not be changed afterwards."""
        first = self._last != self._turn.number
        if first:
            self._last = self._turn.entered()
        lone = first and not self._several
        self._several = not first
        if lone or len(data) >= LARGE:
            self.flush()
            self._transport.write(data)
        else:
            self._collect(data)

    def _collect(self, data: bytes | bytearray | memoryview) -> None:
        if not self._collected:
            self._turn.add(self)
            # Nobody but this object adds to what the transport underneath holds,
            # so there is no less room at the end of the turn.
            _, high = self._transport.get_write_buffer_limits()
            self._room = high - self._transport.get_write_buffer_size()
        self._collected.append(data)
        self._size += len(data)
        if self._size > self._room:
            self.flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def flush(self) -> None:
        """Write what is collected now, rather than at the end of the turn."""
        if not self._collected:
            # It was passed on before the turn was over.
            return
        data = b"".join(self._collected)
        self._discard()
        # A connection that broke meanwhile is reported to the protocol, and that
        # is enough: uvloop would raise an error here, and asyncio log a warning.
        if not self._transport.is_closing():
            self._transport.write(data)

    def _discard(self) -> None:
        self._collected.clear()
        self._size = 0

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._discard()
        self._transport.abort()

    def can_write_eof(self) -> bool:
        return self._transport.can_write_eof()

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def get_write_buffer_size(self) -> int:
        return self._size + self._transport.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._transport.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.flush()
        self._transport.set_write_buffer_limits(high, low)

    # The rest is the affair of the transport underneath.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)
