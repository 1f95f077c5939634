"""
One client of docs/examples/migrating/fast_channels/chat.py, with the version that is installed.

The client sends the lines of stdin, prints the frames that it gets, and ends with stdin.
"""

import asyncio
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[2] / "docs" / "examples" / "migrating" / "fast_channels")
)

import chat

from fast_channels.testing import WebsocketCommunicator


async def main():
    client = WebsocketCommunicator(chat.Language(chat.ChatConsumer.as_asgi()), "/ws/chat")
    assert (await client.connect(timeout=15))[0]
    receiving = asyncio.create_task(show(client))
    while line := await asyncio.to_thread(sys.stdin.readline):
        await client.send_to(text_data=line.strip())
    receiving.cancel()
    await asyncio.wait([receiving])


async def show(client):
    while True:
        sys.stdout.write(f"{await client.receive_from(timeout=60)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
