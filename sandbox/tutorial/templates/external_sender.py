"""
A script outside the server: `python -m sandbox.external_sender` in another terminal.

It knows the layers and the names of the groups, nothing about connections.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import channel_layers
from sandbox.apps.showcase.consumer import (
    ANALYTICS_CHANNEL,
    CHAT_GROUP,
    NOTIFICATION_GROUP,
    RELIABLE_GROUP,
    analytics_event,
)
from sandbox.layers import setup_layers

EVENTS = (
    ("user_login", "method=passkey"),
    ("page_view", "/pricing"),
    ("button_click", "start-trial"),
    ("session_duration", "184s"),
    ("error", "checkout timed out"),
)

# Seconds between two rounds of events, so that they make a curve and not a spike.
EVENT_PAUSE = 0.5


class Sender:
    """Sends to the groups that the consumers of the showcase join, and prints what it did."""

    async def chat(self, text: str) -> None:
        await self._send("chat", CHAT_GROUP, {"type": "chat.message", "text": text})
        print(f"chat           {text}")

    async def reliable(self, text: str) -> None:
        await self._send("queue", RELIABLE_GROUP, {"type": "reliable.message", "text": text})
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
        """To both chats, of which one has it also for those who are away."""
        await self.chat(text)
        await self.reliable(text)

    # TODO 5.10: tell all who listen to any of three layers

    # TODO 5.11: send a message to a group of the layer with this alias


async def run(arguments: argparse.Namespace) -> None:
    setup_layers()
    async with channel_layers.lifespan():
        await tell_everything(Sender(), arguments)


async def tell_everything(sender: Sender, arguments: argparse.Namespace) -> None:
    await sender.chat("Announcement: hello from a script outside the server")
    await sender.reliable("This one waits for you if you are away")
    await sender.notify("Deployment", "version 2.0 is live")
    for _ in range(arguments.rounds):
        for name, detail in EVENTS:
            await sender.event(name, detail)
        await asyncio.sleep(EVENT_PAUSE)
    await sender.broadcast("Maintenance tonight, told over three layers")
    for number in range(1, arguments.count + 1):
        await asyncio.sleep(arguments.interval)
        await sender.both(f"Periodic announcement {number} of {arguments.count}")
        await sender.event(*random.choice(EVENTS))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.external_sender",
        description="Send messages of every kind to the open showcase page.",
    )
    parser.add_argument("--count", type=int, default=3, help="periodic announcements (3)")
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
