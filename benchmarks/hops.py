"""
Count the files that one message visits from `group_send` to the ASGI `send`.

`python -m benchmarks.hops` prints the counts of four layers, and with `--files` the files in the
order in which they are entered. Fewer is not a goal in itself: the count measures how often a
reader of the code has to change files.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fast_channels
from fast_channels import AsyncWebsocketConsumer, InMemoryChannelLayer, channel_layers
from fast_channels.layers import (
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)
from fast_channels.testing.server import ValkeyServer

SUBPROTOCOL = "fast-channels.resume.v1"

if TYPE_CHECKING:
    from types import FrameType

    from fast_channels import BaseChannelLayer

PACKAGE = Path(fast_channels.__file__).parent
ROUNDS = 5
TIMEOUT_SECONDS = 10

# Nothing marks the moment at which a connection has finished one round.
QUIET_SECONDS = 0.3


class Recorder:
    """A profile hook that notes each change of file within the package."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.recording = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if not self.recording or event != "call":
            return
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            name = path.relative_to(PACKAGE).as_posix()
            if self.files[-1:] != [name]:
                self.files.append(name)

    def start(self) -> None:
        """Forget the files of the last round and begin to record."""
        self.files = []
        self.recording = True


class Listener(AsyncWebsocketConsumer):
    """A consumer in one group, which sends each message to its client."""

    channel_layer_alias = "hops"
    groups: ClassVar = ["room"]

    async def receive(
        self,
        text_data: str | None = None,  # noqa: ARG002 - the signature of the hook
        bytes_data: bytes | None = None,  # noqa: ARG002
    ) -> None:
        recorder.recording = False
        received.set()

    async def chat_message(self, message: dict[str, Any]) -> None:
        await self.send(message["text"])


class ResumableListener(Listener):
    """The consumer of `Listener` for a client that speaks the resume protocol."""

    resumable = True


recorder = Recorder()
received = asyncio.Event()


class Client:
    """The ASGI server of one connection."""

    def __init__(self, consumer: type[Listener]) -> None:
        self.accepted = asyncio.Event()
        self.sent = asyncio.Event()
        # Events that the consumer has not received yet.
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        subprotocols = [SUBPROTOCOL] if consumer.resumable else []
        scope = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "subprotocols": subprotocols,
        }
        self.events.put_nowait({"type": "websocket.connect"})
        # The ignored error: `send` and `events.get` have wider types than an ASGI server.
        self.task = asyncio.ensure_future(
            consumer.as_asgi()(scope, self.events.get, self.send)  # type: ignore[arg-type]
        )

    async def send(self, event: Any) -> None:
        if event["type"] == "websocket.accept":
            self.accepted.set()
        elif "hello" in (event.get("text") or ""):
            recorder.recording = False
            self.sent.set()

    async def leave(self) -> None:
        await self.events.put({"type": "websocket.disconnect", "code": 1000})
        await self.task


async def visited(layer: BaseChannelLayer, consumer: type[Listener]) -> tuple[list[str], list[str]]:
    """Return the files that a message visits, and the files that a frame visits to its handler."""
    channel_layers.register("hops", layer)
    try:
        async with layer, asyncio.timeout(TIMEOUT_SECONDS):
            client = Client(consumer)
            await client.accepted.wait()
            rounds = []
            for _ in range(ROUNDS):
                await asyncio.sleep(QUIET_SECONDS)
                client.sent.clear()
                recorder.start()
                await layer.group_send("room", {"type": "chat.message", "text": "hello"})
                await client.sent.wait()
                rounds.append(recorder.files)
            await asyncio.sleep(QUIET_SECONDS)
            received.clear()
            text = '{"t":"frame"}' if consumer.resumable else "frame"
            recorder.start()
            await client.events.put({"type": "websocket.receive", "text": text})
            await received.wait()
            frame = recorder.files
            await client.leave()
    finally:
        channel_layers.unregister("hops")
    # The first round loads caches. The median is the path of each later message.
    return sorted(rounds, key=len)[ROUNDS // 2], frame


async def measured() -> dict[str, tuple[list[str], list[str]]]:
    """Return for each layer the files that a message and a frame visit."""
    sys.setprofile(recorder)
    try:
        counts = {"in memory": await visited(InMemoryChannelLayer(), Listener)}
        with ValkeyServer() as server:
            hosts = [server.url]
            counts["pub/sub"] = await visited(RedisPubSubChannelLayer(hosts), Listener)
            counts["queue"] = await visited(RedisChannelLayer(hosts), Listener)
            streams = RedisStreamsChannelLayer(hosts)
            counts["streams, resume"] = await visited(streams, ResumableListener)
    finally:
        sys.setprofile(None)
    return counts


def main() -> None:
    for name, (message, frame) in asyncio.run(measured()).items():
        print(f"{name:16} {len(message):3} files for a message, {len(frame):3} for a frame")
        if "--files" in sys.argv:
            print("  message:", " ".join(message))
            print("  frame:  ", " ".join(frame))


if __name__ == "__main__":
    main()
