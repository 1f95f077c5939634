"""The last resort against a client that does not read: its socket is ended under the server."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fast_channels.type_defs import ChannelScope

# Where a process sees its own descriptors: on Linux, macOS and the BSDs.
DESCRIPTORS = Path("/dev/fd")

# What is unsent is thrown away with the socket, for nobody would read it.
NO_LINGER = struct.pack("ii", 1, 0)


def abort(scope: ChannelScope) -> bool:
    """
    End the TCP connection of a scope; whether it was found.

    ASGI has no event for this. A server whose application returns closes the
    connection when everything is sent, and to a client that never reads that
    is never: uvicorn and Hypercorn keep socket and buffers as long as it likes.

    The connection is known by its two addresses, which no two sockets share. A
    proxy's client is told apart by them too: if the scope names the client
    behind a proxy, no socket is found and nothing is done. Looks at every
    descriptor of the process, so it is for a thread.
    """
    ends = (_address(scope.get("server")), _address(scope.get("client")))
    if None in ends:
        return False
    for connection in _sockets():
        with contextlib.suppress(OSError):
            if (_address(connection.getsockname()), _address(connection.getpeername())) == ends:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                # The server sees a broken connection and cleans up as after any other.
                connection.shutdown(socket.SHUT_RDWR)
                return True
    return False


def _address(value: Any) -> tuple[str, int] | None:
    """Return host and port. IPv6 addresses have two more parts, a Unix socket's has none."""
    match value:
        case (str() as host, (int() | str()) as port, *_) if str(port).isdigit() and int(port):
            # Granian writes the number in digits.
            return host, int(port)
        case _:
            return None


def _sockets() -> Iterator[socket.socket]:
    """Yield duplicates of the sockets of this process, each closed after its turn."""
    try:
        numbers = [int(entry.name) for entry in DESCRIPTORS.iterdir()]
    except OSError:
        return
    for number in numbers:
        # Others close and open descriptors meanwhile. A duplicate stays what it is.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as duplicate:
                    yield duplicate
