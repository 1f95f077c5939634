"""Work for processes that are killed: each records the work it begins and completes."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

from fast_channels.consumer import AsyncConsumer
from fast_channels.layers import RedisStreamsChannelLayer, register_channel_layer
from fast_channels.routing import ChannelNameRouter

# Seconds after which the work of a killed process goes to another process.
VISIBILITY_TIMEOUT = 4.0


class Clerk(AsyncConsumer):
    """Takes a moment for each number, so that some work is always in progress."""

    def __init__(self):
        # Flushed lines reach the parent, no matter how this process ends.
        path = Path(os.environ["WORK_LOG"], f"{os.getpid()}.log")
        self.log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def test_number(self, message):
        self.write("begins", message["n"])
        await asyncio.sleep(random.uniform(0, 0.02))
        self.write("has done", message["n"])

    def write(self, what, number):
        os.write(self.log, f"{what},{number},{self.deliveries}\n".encode())


router = ChannelNameRouter({"numbers": Clerk.as_asgi()})


def layer():
    return RedisStreamsChannelLayer(
        [os.environ["REDIS_URL"]],
        capacity=1000,
        visibility_timeout=VISIBILITY_TIMEOUT,
        # More often than any process is killed in these tests.
        max_deliveries=100,
        check_interval=0.2,
    )


def setup():
    register_channel_layer("default", layer())
