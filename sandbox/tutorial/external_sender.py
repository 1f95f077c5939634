"""
A script outside the server: `make sender`, or `python -m sandbox.external_sender`.

The script knows the layers and the names of the groups, and nothing about connections.
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
    ANALYTICS_GROUP,
    CHAT_GROUP,
    NOTIFICATION_GROUP,
    RELIABLE_GROUP,
    analytics_event,
    notification,
    reliable_line,
)
from sandbox.layers import setup_layers

EVENTS = (
    "user_login method=passkey",
    "page_view /pricing",
    "button_click start-trial",
    "session_duration 184s",
    "error checkout timed out",
)

# Between two rounds of events, so that the chart shows a curve and not a spike.
EVENT_PAUSE_SECONDS = 0.5

# The author of its lines in the chats.
AUTHOR = "script"

# Here, so that other scripts can import and call the functions below.
setup_layers()


async def send_chat_message(text: str = "hello from outside the server") -> None:
    message = {"type": "chat_message", "message": f"{AUTHOR}: {text}"}
    await channel_layers["chat"].group_send(CHAT_GROUP, message)
    print(f"chat           {text}")


async def send_reliable_message(
    text: str = "This line waits for you if you are disconnected",
) -> None:
    message = reliable_line(f"{AUTHOR}: {text}")
    await channel_layers["queue"].group_send(RELIABLE_GROUP, message)
    print(f"reliable chat  {text}")


async def send_notification(
    text: str = "version 2.0 is live", title: str = "Deployment", level: str = "info"
) -> None:
    message = notification(text, title, level)
    await channel_layers["notifications"].group_send(NOTIFICATION_GROUP, message)
    print(f"notifications  {title}: {text}")


async def send_analytics_event(*events: str) -> None:
    """Send events, or one of each kind: to the page at once, and to a worker that counts them."""
    layer = channel_layers["analytics"]
    for event in events or EVENTS:
        await layer.send(ANALYTICS_CHANNEL, analytics_event(event))
        message = {"type": "analytics_message", "message": f"📊 Event: {event}"}
        await layer.group_send(ANALYTICS_GROUP, message)
        print(f"analytics      {event}")


async def send_to_multiple_layers(
    text: str = "maintenance tonight, sent over three layers",
) -> None:
    """Send over three layers at once."""
    # TODO 5.4: send with three of the functions above, at the same time


async def periodic_announcements(count: int = 3, interval_seconds: float = 1.0) -> None:
    """Send to both chats. The reliable one keeps the line for clients that are disconnected."""
    for number in range(1, count + 1):
        await asyncio.sleep(interval_seconds)
        text = f"announcement {number} of {count}"
        await send_chat_message(text)
        await send_reliable_message(text)
        await send_analytics_event(random.choice(EVENTS))


async def send_everything(arguments: argparse.Namespace) -> None:
    async with channel_layers.lifespan():
        await send_chat_message()
        await send_reliable_message()
        await send_notification()
        for _ in range(arguments.rounds):
            await send_analytics_event()
            await asyncio.sleep(EVENT_PAUSE_SECONDS)
        await send_to_multiple_layers()
        await periodic_announcements(arguments.count, arguments.interval)


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
        asyncio.run(send_everything(arguments))
    except LayerUnavailable as error:
        print(f"external_sender: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
