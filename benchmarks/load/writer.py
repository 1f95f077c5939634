"""
A program that accepts WebSockets and then writes a frame that it made before.

A real server cannot be faster. Therefore the clients cannot count more frames than here, and
the suite cannot tell faster contenders apart.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import time
from typing import TYPE_CHECKING, Any

from benchmarks.load.commands import obey, run

if TYPE_CHECKING:
    import socket

ACCEPT = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
# RFC 6455 defines this suffix of the key.
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Writer:
    """Writes to the sockets of all clients in turn, one frame each."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        headers = dict(line.split(b": ", 1) for line in request.split(b"\r\n")[1:-2])
        lower = {name.lower(): value for name, value in headers.items()}
        digest = hashlib.sha1(lower[b"sec-websocket-key"] + MAGIC, usedforsecurity=False).digest()
        answer = f"{ACCEPT}Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}\r\n\r\n"
        writer.write(answer.encode())
        # A copy, to write without the event loop and its buffer.
        self._sockets.append(writer.get_extra_info("socket").dup())

    async def write(self, seconds: float, size: int) -> dict[str, Any]:
        """Write for `seconds`, and return the number of frames."""
        assert size < 126, "longer frames begin differently"
        frame = bytes((0x81, size)) + b"x" * size
        for connection in self._sockets:
            connection.setblocking(True)
        written, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            for connection in self._sockets:
                connection.sendall(frame)
            written += len(self._sockets)
        return {"written": written}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    writer = Writer()
    async with await asyncio.start_server(
        writer.welcome, "127.0.0.1", parser.parse_args().port, backlog=1000
    ):
        await obey({"write": writer.write})


if __name__ == "__main__":
    run(main())
