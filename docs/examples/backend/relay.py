"""A server that forwards payloads and stores none: `python relay.py --port 7000`."""

from __future__ import annotations

import argparse
import asyncio
import struct

# Each frame begins with its kind and the lengths of its topic and its payload.
HEADER = struct.Struct(">BHI")
SUBSCRIBE, UNSUBSCRIBE, PUBLISH, DONE, MESSAGE = range(5)

# A client for which more bytes wait is cut off. It reconnects, and reports a gap.
MAX_BUFFERED_BYTES = 16 * 1024 * 1024


def frame(kind: int, topic: str = "", payload: bytes = b"") -> bytes:
    name = topic.encode()
    return HEADER.pack(kind, len(name), len(payload)) + name + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, str, bytes]:
    """Return kind, topic and payload. Raises EOFError when the connection has ended."""
    kind, name, payload = HEADER.unpack(await reader.readexactly(HEADER.size))
    return kind, (await reader.readexactly(name)).decode(), await reader.readexactly(payload)


class Relay:
    """Answers each request with DONE, in order, and sends MESSAGE to subscribers."""

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
                # DONE comes last, so a publisher gets its own message before it.
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
            # A slow subscriber must not delay other subscribers, nor fill the memory.
            if subscriber.transport.get_write_buffer_size() > MAX_BUFFERED_BYTES:
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
    # With port 0, the system has chosen the port.
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7000)
    asyncio.run(main(parser.parse_args().port))
