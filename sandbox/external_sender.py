"""
A script outside the server: `make sender`, or `python -m sandbox.external_sender`.

The script knows the layers and the names of the groups, and nothing about connections.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from typing import Any

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import channel_layers
from sandbox.apps.showcase.consumer import (
    ANALYTICS_CHANNEL,
    CHAT_GROUP,
    NOTIFICATION_GROUP,
    RELIABLE_GROUP,
    analytics_event,
    line_message,
)
from sandbox.layers import setup_layers

EVENTS = (
    ("user_login", "method=passkey"),
    ("page_view", "/pricing"),
    ("button_click", "start-trial"),
    ("session_duration", "184s"),
    ("error", "checkout timed out"),
)

# Between two rounds of events, so that the chart shows a curve and not a spike.
EVENT_PAUSE_SECONDS = 0.5

# The author of its lines in the chats.
AUTHOR = "script"


class Sender:
    """Sends to the groups that the consumers of the showcase join, and prints each message."""

    async def chat(self, text: str) -> None:
        message = {"type": "chat.message", "text": f"{AUTHOR}: {text}"}
        await self._send("chat", CHAT_GROUP, message)
        print(f"chat           {text}")

    async def reliable(self, text: str) -> None:
        await self._send("queue", RELIABLE_GROUP, line_message(AUTHOR, text))
        print(f"reliable chat  {text}")

    async def notify(self, title: str, text: str, level: str = "info") -> None:
        message = {"type": "notification", "title": title, "message": text, "level": level}
        await self._send("notifications", NOTIFICATION_GROUP, message)
        print(f"notifications  {title}: {text}")

    async def event(self, name: str, detail: str) -> None:
        message = analytics_event(name, detail)
        await channel_layers["analytics"].send(ANALYTICS_CHANNEL, message)
        print(f"analytics      {name} {detail}")

    async def both(self, text: str) -> None:
        """Send to both chats. The reliable one keeps the line for clients that are disconnected."""
        await self.chat(text)
        await self.reliable(text)

    async def broadcast(self, text: str) -> None:
        """Send over three layers at once."""
        await asyncio.gather(self.both(text), self.notify("Broadcast", text, "warning"))

    async def _send(self, alias: str, group: str, message: dict[str, Any]) -> None:
        await channel_layers[alias].group_send(group, message)


async def run(arguments: argparse.Namespace) -> None:
    setup_layers()
    async with channel_layers.lifespan():
        await tell_everything(Sender(), arguments)


async def tell_everything(sender: Sender, arguments: argparse.Namespace) -> None:
    await sender.chat("hello from outside the server")
    await sender.reliable("This line waits for you if you are disconnected")
    await sender.notify("Deployment", "version 2.0 is live")
    for _ in range(arguments.rounds):
        for name, detail in EVENTS:
            await sender.event(name, detail)
        await asyncio.sleep(EVENT_PAUSE_SECONDS)
    await sender.broadcast("maintenance tonight, sent over three layers")
    for number in range(1, arguments.count + 1):
        await asyncio.sleep(arguments.interval)
        await sender.both(f"announcement {number} of {arguments.count}")
        await sender.event(*random.choice(EVENTS))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.external_sender",
        description="Send messages of every kind to the open showcase page.",
    )
    parser.add_argument("--count", type=int, default=3, help="announcements at the end (3)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between them (1)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of analytics events (4)")
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    try:
        asyncio.run(run(arguments))
    except LayerUnavailable as error:
        print(f"external_sender: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
