"""
Clients that reconnect at once, and the messages that they missed.

Every frame is checked: a message that is missing, repeated or out of order is an error. The text
of a message begins with its offset in the log.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import time
from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks.apps.settings import GROUP
from benchmarks.load.commands import obey, run

SUBPROTOCOL = "fast-channels.resume.v1"

# Seconds until all clients must have all messages, even on a busy machine.
TIMEOUT = 120.0


class Goal:
    """The number of clients of this process that still wait for messages."""

    def __init__(self) -> None:
        self._waiting = 0
        self._reached = asyncio.Event()
        # The first error.
        self.error = ""

    def set(self, clients: int) -> None:
        self._waiting = clients
        self._reached.clear()

    def one(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._reached.set()

    def fail(self, error: str) -> None:
        self.error = self.error or error
        self._reached.set()

    async def reached(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self._reached.wait()
        if self.error:
            raise RuntimeError(self.error)


class Client(WSListener):
    """A client without the resume protocol: a frame is a text."""

    def __init__(self, goal: Goal, had: int) -> None:
        self._goal = goal
        # The offset of the last message that the client has.
        self.had = had
        # The offset of the last message that the client waits for.
        self.wants = had
        self._connected = False

    def on_ws_connected(self, transport: WSTransport) -> None:  # noqa: ARG002
        self._begin()

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        if self.had < self.wants or not self._connected:
            self._goal.fail("a client was disconnected")

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        if frame.msg_type == WSMsgType.TEXT:
            self.read(frame.get_payload_as_utf8_text())

    def read(self, frame: str) -> None:
        self.take(frame)

    def _begin(self) -> None:
        self._connected = True
        if self.had == self.wants:
            self._goal.one()

    def take(self, text: str) -> None:
        self.had += 1
        if int(text[:32]) != self.had:
            self._goal.fail(f"message {int(text[:32])} came in the place of {self.had}")
        if self.had == self.wants:
            self._goal.one()


class Resuming(Client):
    """A client with the resume protocol."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Wait for the first frame, in which the server confirms the resume."""

    def read(self, frame: str) -> None:
        said = json.loads(frame)
        if "t" in said:
            self._take_placed(said)
        elif (joined := said.get("resume", {}).get(GROUP)) is not None:
            if not joined["recovered"] or joined["missed"] != self.wants - self.had:
                self._goal.fail(f"the server has resumed with {joined}")
            self._begin()

    def _take_placed(self, said: dict[str, Any]) -> None:
        group, position, number = said["p"]
        self.take(said["t"])
        if (group, int(position.split("-")[1]), number) != (GROUP, self.had, 0):
            self._goal.fail(f"message {self.had} came as {said['p']}")


class Crowd:
    """All clients of this process."""

    def __init__(self, port: int) -> None:
        self._url = f"ws://127.0.0.1:{port}/resumable"
        self._goal = Goal()
        self._clients: list[Client] = []

    async def come(self, count: int, had: int, missed: int, place: str = "") -> dict[str, Any]:
        """
        Connect `count` clients at once, and return the seconds until they have all messages.

        They use the resume protocol if they have a position, `place`.
        """
        kind = Resuming if place else Client
        self._clients = [kind(self._goal, had) for _ in range(count)]
        self._expect(missed)
        began = time.monotonic()
        await asyncio.gather(*[self._connect(client, place) for client in self._clients])
        await self._goal.reached()
        return {"seconds": time.monotonic() - began}

    async def _connect(self, client: Client, place: str) -> None:
        url, headers = self._url, {}
        if place:
            presented = base64.urlsafe_b64encode(json.dumps({GROUP: place}).encode())
            url += f"?resume={presented.decode().rstrip('=')}"
            headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL
        await ws_connect(
            lambda: client, url, websocket_handshake_timeout=TIMEOUT, extra_headers=headers
        )

    async def expect(self, more: int) -> None:
        """Let `reached` wait for `more` messages for each client."""
        self._expect(more)

    def _expect(self, more: int) -> None:
        for client in self._clients:
            client.wants = client.had + more
        self._goal.set(len(self._clients))

    async def reached(self) -> None:
        """Wait until each client has the expected messages."""
        await self._goal.reached()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    crowd = Crowd(parser.parse_args().port)
    await obey({"come": crowd.come, "expect": crowd.expect, "reached": crowd.reached})


if __name__ == "__main__":
    run(main())
