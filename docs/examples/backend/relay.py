"""A server that passes payloads on: `python relay.py --port 7000`. It keeps nothing."""

from __future__ import annotations

import argparse
import asyncio
import struct

# What stands before each frame: its kind, and how long the topic and the payload are.
HEADER = struct.Struct(">BHI")
SUBSCRIBE, UNSUBSCRIBE, PUBLISH, DONE, MESSAGE = range(5)

# Bytes that may wait for a client that reads too slowly. With more, it is cut off:
# it comes back, and knows that it has missed something.
MOST_WAITING = 16 * 1024 * 1024


def frame(kind: int, topic: str = "", payload: bytes = b"") -> bytes:
    name = topic.encode()
    return HEADER.pack(kind, len(name), len(payload)) + name + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Return kind, topic and payload; raises EOFError when the connection has ended."""
    kind, name, payload = HEADER.unpack(await reader.readexactly(HEADER.size))
    return kind, (await reader.readexactly(name)).decode(), await reader.readexactly(payload)


class Relay:
    """Answers each request with DONE, in order, and sends MESSAGE to those who subscribed."""

    def __init__(self) -> None:
        self._subscribers: dict[str, set[asyncio.StreamWriter]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        topics: set[str] = set()
        try:
            while True:
                kind, topic, payload = await read_frame(reader)
                if kind == SUBSCRIBE:
                    topics.add(topic)
                    self._subscribers.setdefault(topic, set()).add(writer)
                elif kind == UNSUBSCRIBE:
                    topics.discard(topic)
                    self._forget(topic, writer)
                else:
                    self._publish(topic, payload)
                # After the messages: whoever is told DONE has been sent its own.
                writer.write(frame(DONE))
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            for topic in topics:
                self._forget(topic, writer)
            writer.close()

    def _publish(self, topic: str, payload: bytes) -> None:
        message = frame(MESSAGE, topic, payload)
        for subscriber in self._subscribers.get(topic, ()):
            # One who is slow must not delay the others, nor fill our memory.
            if subscriber.transport.get_write_buffer_size() > MOST_WAITING:
                subscriber.transport.abort()
            else:
                subscriber.write(message)

    def _forget(self, topic: str, writer: asyncio.StreamWriter) -> None:
        subscribers = self._subscribers.get(topic, set())
        subscribers.discard(writer)
        if not subscribers:
            self._subscribers.pop(topic, None)


async def main(port: int) -> None:
    server = await asyncio.start_server(Relay().serve, "127.0.0.1", port)
    # For whoever asked for port 0, which is any that is free.
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7000)
    asyncio.run(main(parser.parse_args().port))
