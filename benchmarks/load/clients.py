"""
Many WebSocket clients in one process, which only count frames.

The clients use picows, which needs a fraction of the CPU time that any server here spends on a
frame. The suite still watches how busy this process is.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import math
import os
import time
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.load.commands import obey, run
from benchmarks.load.wires import WIRES, Wire

# Seconds until a connection must be ready, even on a busy machine.
HANDSHAKE_TIMEOUT = 60.0
# A text with a time stamp begins with this many digits of nanoseconds.
STAMP = 20


class Tally:
    """
    Counts the frames that all clients of this process have received.

    The k-th frame of a connection is the k-th broadcast: contenders must neither reorder nor
    drop messages, and the suite compares the totals in the end.
    """

    def __init__(self, credit: int | None) -> None:
        # Frames with fewer bytes are pings and not counted.
        self.least = 1
        self.connections = 0
        self.frames = 0
        # Connections that have not yet received the k-th broadcast.
        self.missing: list[int] = []
        # The descriptor that gets a byte for each broadcast that all clients have received.
        self._credit = credit

    def arrived(self, position: int) -> None:
        if position == len(self.missing):
            self.missing.append(self.connections)
        self.frames += 1
        self.missing[position] -= 1
        if not self.missing[position] and self._credit is not None:
            os.write(self._credit, b".")


class Client(WSListener):
    """One connection. Subclasses handle a frame."""

    def __init__(self, wire: Wire, purpose: str, tally: Tally) -> None:
        self.wire = wire
        self.purpose = purpose
        self.tally = tally
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_ready = wire.ready_at_once
        self.transport: WSTransport | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        if self.is_ready:
            self.ready.set_result(None)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self.is_ready and frame.payload_size >= self.tally.least:
            self.count(frame)
            return
        text = frame.get_payload_as_utf8_text() if frame.msg_type == WSMsgType.TEXT else ""
        if answer := self.wire.answer(text, self.purpose):
            transport.send(WSMsgType.TEXT, answer.encode())
        if not self.is_ready and self.wire.is_ready(text):
            self.is_ready = True
            self.ready.set_result(None)

    def count(self, frame: WSFrame) -> None:
        raise NotImplementedError


class Counting(Client):
    position = 0

    def count(self, frame: WSFrame) -> None:  # noqa: ARG002
        self.tally.arrived(self.position)
        self.position += 1


class Timing(Counting):
    # Nanoseconds from the stamp of a text to its arrival, of all connections.
    taken = array.array("q")

    def count(self, frame: WSFrame) -> None:
        now = time.monotonic_ns()
        start = self.wire.start_of_text()
        stamp = frame.get_payload_as_bytes()[start : start + STAMP]
        self.taken.append(now - int(stamp))
        super().count(frame)


class Echoing(Client):
    """Sends the next frame when the last one has returned."""

    going = True
    sent = 0
    frame = b""

    def count(self, frame: WSFrame) -> None:  # noqa: ARG002
        self.tally.frames += 1
        if Echoing.going:
            self.say()

    def say(self) -> None:
        assert self.transport is not None
        Echoing.sent += 1
        self.transport.send(WSMsgType.TEXT, self.frame)


KINDS: dict[str, type[Client]] = {"count": Counting, "time": Timing, "echo": Echoing}


class Crowd:
    """All clients of this process, and their commands."""

    def __init__(self, port: int, wire: Wire, kind: type[Client], tally: Tally) -> None:
        self._url = f"ws://127.0.0.1:{port}"
        self._wire = wire
        self._kind = kind
        self._purpose = "echo" if kind is Echoing else "room"
        self._tally = tally
        # Limits the handshakes at the same time.
        self._turns = asyncio.Semaphore(32)
        self.clients: list[Client] = []

    async def connect(self, count: int) -> dict[str, Any]:
        began = time.monotonic()
        self.clients += await asyncio.gather(*[self._connect() for _ in range(count)])
        self._tally.connections = len(self.clients)
        return {"seconds": time.monotonic() - began}

    async def _connect(self) -> Client:
        client = self._kind(self._wire, self._purpose, self._tally)
        url = self._url + self._wire.path(self._purpose)
        async with self._turns, asyncio.timeout(HANDSHAKE_TIMEOUT):
            await ws_connect(lambda: client, url, websocket_handshake_timeout=HANDSHAKE_TIMEOUT)
            await client.ready
        return client

    async def expect(self, size: int) -> None:
        """Count frames of this size or more from now on."""
        self._tally.least = size

    async def count(self) -> dict[str, Any]:
        """Return how many frames have arrived."""
        return {"frames": self._tally.frames, "time": time.monotonic()}

    async def echo(self, size: int) -> None:
        Echoing.frame = self._wire.wrap("x" * size, "echo").encode()
        Echoing.going = True
        for client in self.clients:
            assert isinstance(client, Echoing)
            client.say()

    async def quiet(self) -> dict[str, Any]:
        """Stop sending. Return how many frames were sent and returned."""
        Echoing.going = False
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            while self._tally.frames < Echoing.sent:  # noqa: ASYNC110 - cheaper than an event for each frame
                await asyncio.sleep(0.01)
        return {"sent": Echoing.sent, "frames": self._tally.frames}

    async def latencies(self) -> dict[str, Any]:
        """Return percentiles in milliseconds of the frames since the last call."""
        taken = sorted(Timing.taken)
        del Timing.taken[:]
        if not taken:
            return {"count": 0}
        at = {"p50": 0.50, "p99": 0.99}
        places = {name: math.ceil(len(taken) * share) - 1 for name, share in at.items()}
        return {"count": len(taken)} | {name: taken[at] / 1e6 for name, at in places.items()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--wire", choices=WIRES, default="plain")
    parser.add_argument("--kind", choices=KINDS, default="count")
    parser.add_argument("--credit", type=int, help="file descriptor")
    chosen = parser.parse_args()
    tally = Tally(chosen.credit)
    crowd = Crowd(chosen.port, WIRES[chosen.wire], KINDS[chosen.kind], tally)
    names = ("connect", "expect", "count", "echo", "quiet", "latencies")
    await obey({name: getattr(crowd, name) for name in names})


if __name__ == "__main__":
    run(main())
