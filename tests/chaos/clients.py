"""Servers for test_clients.py, and a client that behaves as no browser would."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from pathlib import Path

import psutil
import websockets

from tests.servers.support import PATIENCE, ServerProcess

TEXT, CLOSE = 1, 8

# Prefix of the watcher's answers in clients_app.py; every other line is news.
ANSWER = "answer "

# Bytes that the kernel may buffer for a client that does not read.
SMALL_BUFFER = 4096


class Server(ServerProcess):
    """A server with the application of clients_app.py."""

    folder = Path(__file__).resolve().parent
    application = "clients_app:app"

    def url(self, path: str, room: str = "") -> str:
        return f"ws://127.0.0.1:{self.port}/{path}"

    def connect(self, path: str, **options):
        # Compressing data that is thrown away would take longer than all the rest.
        return websockets.connect(self.url(path), compression=None, max_queue=None, **options)

    @property
    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.pid)
        return [parent, *parent.children(recursive=True)]

    def memory(self) -> int:
        """Return the bytes of memory that the server has in use."""
        return sum(process.memory_info().rss for process in self.processes)

    def holds(self, port: int) -> bool:
        """Return whether the server still has the socket of the client with that port."""
        return any(
            connection.raddr and connection.raddr.port == port
            for process in self.processes
            for connection in process.net_connections("tcp")
        )

    def closed(self, name: str) -> list[str]:
        """Return the log's lines about the ended connections of one consumer class."""
        return [line for line in self.output.splitlines() if f" {name} closed: " in line]


def open_request(server: Server, path: str, *headers: str) -> socket.socket:
    """Send a GET request from a socket that can buffer almost nothing of the answer."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.settimeout(PATIENCE)
    connection.connect(("127.0.0.1", server.port))
    lines = (f"GET /{path} HTTP/1.1", "Host: localhost", *headers, "", "")
    connection.sendall("\r\n".join(lines).encode())
    return connection


class RawClient:
    """A WebSocket client over a plain socket; it reads only when told to and answers nothing."""

    def __init__(self, server: Server, path: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket = open_request(
            server,
            path,
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        )
        self.port = self.socket.getsockname()[1]
        self._stream = self.socket.makefile("rb")
        assert b" 101 " in self._stream.readline()
        while self._stream.readline().strip():
            pass

    def send(self, *texts: str) -> None:
        frames = b""
        for text in texts:
            # A mask of zeros leaves the data unchanged and is still a valid mask.
            data = text.encode()
            frames += bytes([0x80 | TEXT, 0x80 | len(data), 0, 0, 0, 0]) + data
        # In one call, because the server may close at any of the frames.
        self.socket.sendall(frames)

    def frames(self) -> list[tuple[int, bytes]]:
        """Read until the server ends the connection; return opcode and data of all frames."""
        found = []
        with contextlib.suppress(ConnectionError):
            while len(head := self._stream.read(2)) == 2:
                size = head[1]
                if size == 126:
                    (size,) = struct.unpack("!H", self._stream.read(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", self._stream.read(8))
                found.append((head[0] & 0x0F, self._stream.read(size)))
                if found[-1][0] == CLOSE:
                    # The status line and headers that end the handshake.
                    self.socket.sendall(bytes([0x80 | CLOSE, 0x80, 0, 0, 0, 0]))
        return found

    def close(self) -> None:
        self._stream.close()
        self.socket.close()


def closings(frames: list[tuple[int, bytes]]) -> list[tuple[int, str]]:
    """Return code and reason of every close frame."""
    return [
        (struct.unpack("!H", data[:2])[0], data[2:].decode())
        for opcode, data in frames
        if opcode == CLOSE
    ]


class Watch:
    """A client that receives the consumers' news and asks the process for its state."""

    def __init__(self, client: websockets.ClientConnection) -> None:
        self.client = client
        # News that arrived while the client waited for an answer.
        self._news: list[str] = []

    async def heard(self, count: int) -> list[str]:
        async with asyncio.timeout(PATIENCE):
            while len(self._news) < count:
                self._news.append(await self.client.recv())
        news, self._news = self._news[:count], self._news[count:]
        return news

    async def ask(self, question: str) -> str:
        await self.client.send(question)
        async with asyncio.timeout(PATIENCE):
            while not (frame := await self.client.recv()).startswith(ANSWER):
                self._news.append(frame)
        return frame.removeprefix(ANSWER)

    async def statistics(self) -> dict[str, int]:
        return json.loads(await self.ask("statistics"))


async def eventually(condition) -> None:
    """Return once a condition holds that no event announces."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)
