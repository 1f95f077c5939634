"""Serve the application with Hypercorn: `python serve_hypercorn.py`."""

from __future__ import annotations

import asyncio
import os
import signal

from hypercorn.asyncio import serve
from hypercorn.config import Config
from service import app

from fast_channels import channel_layers


async def drained() -> None:
    """Return after the process was told to stop and its connections have ended."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
    await channel_layers.drain()


async def main() -> None:
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ.get('PORT', '8000')}"]
    # For requests that no consumer serves. Connections of consumers have ended by then.
    config.graceful_timeout = 5
    # Hypercorn's types accept only applications for its own scope types.
    await serve(app, config, shutdown_trigger=drained)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main())
