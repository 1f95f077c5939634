"""A transport that joins the writes of one turn of the event loop into one system call."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

# Data of this many bytes or more is not joined, because copying it would cost more than the
# system call that joining saves.
MAX_JOINED_BYTES = 16_384


class LoopTurn:
    """The present turn of an event loop: all callbacks up to one scheduled with call_soon."""

    __slots__ = ("_collectors", "_ends", "number")

    def __init__(self) -> None:
        # Counts only turns with a write.
        self.number = 0
        # True if the end of the turn is scheduled.
        self._ends = False
        # Transports with data to write at the end of the turn.
        self._collectors: list[CoalescingTransport] = []

    def entered(self) -> int:
        """Return the number of this turn, and schedule its end."""
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
            except Exception as exc:  # noqa: BLE001 - reported below; the other transports go on
                context = {"message": "a write failed", "exception": exc, "transport": collector}
                asyncio.get_running_loop().call_exception_handler(context)


# The turn of each event loop.
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopTurn] = weakref.WeakKeyDictionary()


class CoalescingTransport(asyncio.Transport):
    """
    Collects the writes of one turn of the event loop, and passes them on in one piece.

    The first write of a turn is passed on at once, so single writes are not delayed. If the
    turn before had several writes, the first one is collected as well.

    Data reaches the inner transport in the order of the writes, and before the loop waits
    for events. `close` and `write_eof` first pass on the collected data. `abort` and a broken
    connection discard it, like other data that the client has not received.

    Flow control includes the collected data. A write that would exceed the high-water mark of
    the inner transport is passed on at once, together with the data before it. Therefore the
    protocol is paused at the same byte as without this class.
    """

    __slots__ = ("_capacity", "_collected", "_last", "_several", "_size", "_transport", "_turn")

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._turn = _turns.setdefault(asyncio.get_running_loop(), LoopTurn())
        # The last turn with a write, and whether it had several writes.
        self._last = -1
        self._several = False
        # Data to pass on at the end of this turn, and its size in bytes. Empty between turns.
        self._collected: list[bytes | bytearray | memoryview] = []
        self._size = 0
        # Bytes that may be collected before the inner transport must get them.
        self._capacity = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write `data` now or at the end of the turn; as usual, it must not be changed later."""
        first = self._last != self._turn.number
        if first:
            self._last = self._turn.entered()
        lone = first and not self._several
        self._several = not first
        if lone or len(data) >= MAX_JOINED_BYTES:
            self.flush()
            self._transport.write(data)
        else:
            self._collect(data)

    def _collect(self, data: bytes | bytearray | memoryview) -> None:
        if not self._collected:
            self._turn.add(self)
            # Only this object writes to the inner transport, so the capacity does not shrink
            # until the end of the turn.
            _, high = self._transport.get_write_buffer_limits()
            self._capacity = high - self._transport.get_write_buffer_size()
        self._collected.append(data)
        self._size += len(data)
        if self._size > self._capacity:
            self.flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def flush(self) -> None:
        """Pass on the collected data now instead of at the end of the turn."""
        if not self._collected:
            # The data was passed on before the end of the turn.
            return
        data = b"".join(self._collected)
        self._discard()
        # The protocol is told of a broken connection anyway; writing to it would raise in
        # uvloop, and log a warning in asyncio.
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

    # All other methods are passed to the inner transport.

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
