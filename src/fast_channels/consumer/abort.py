"""Closes the socket of a client that does not read, without asking the server."""

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

# The folder with the descriptors of this process on Linux, macOS and the BSDs.
DESCRIPTORS = Path("/dev/fd")

# Discards unsent data with the socket, because the client would not read it.
NO_LINGER = struct.pack("ii", 1, 0)


def abort(scope: ChannelScope) -> bool:
    """
    End the TCP connection of a scope; return whether it was found.

    ASGI has no event for this. A server closes the connection after the application has
    returned and everything is sent, which never happens if the client does not read: uvicorn
    and Hypercorn keep socket and buffers without limit.

    The function finds the connection by its two addresses, which no two sockets share. If the
    scope names the client behind a proxy, no socket has that address, and nothing is done. The
    function looks at every descriptor of the process, so call it in a thread.
    """
    ends = (_socket_address(scope.get("server")), _socket_address(scope.get("client")))
    if None in ends:
        return False
    for connection in _sockets():
        with contextlib.suppress(OSError):
            here, there = connection.getsockname(), connection.getpeername()
            if (_socket_address(here), _socket_address(there)) == ends:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
                # The server sees a broken connection and cleans up as usual.
                connection.shutdown(socket.SHUT_RDWR)
                return True
    return False


def _socket_address(value: Any) -> tuple[str, int] | None:
    """Return host and port, or None for a Unix socket. IPv6 addresses have two more parts."""
    match value:
        case (str() as host, (int() | str()) as port, *_) if str(port).isdigit() and int(port):
            # Granian writes the port as a string.
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
        # Other threads close and open descriptors meanwhile. A duplicate stays valid.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as duplicate:
                    yield duplicate
