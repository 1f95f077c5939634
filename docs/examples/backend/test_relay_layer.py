"""The contract of layers, for the relay."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from relay import Relay
from relay_layer import RelayChannelLayer

from fast_channels.testing.contract import LayerContract, MakeLayer


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Run a relay in a thread, for layers on several loops, and yield its port."""
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with await asyncio.start_server(Relay().serve, "127.0.0.1", 0) as server:
            found.append(server.sockets[0].getsockname()[1])
            started.set()
            await stopping.wait()

    found: list[int] = []
    started, stopping = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    started.wait()
    yield found[0]
    loop.call_soon_threadsafe(stopping.set)
    thread.join()
    loop.close()


class TestRelayLayer(LayerContract):
    keeps_messages = False

    @pytest.fixture
    async def make_layer(self, port: int) -> AsyncIterator[MakeLayer]:
        async with contextlib.AsyncExitStack() as stack:

            async def make(**options: Any) -> RelayChannelLayer:
                return await stack.enter_async_context(RelayChannelLayer(port=port, **options))

            yield make

    @pytest.fixture
    def make_unopened(self, port: int) -> Callable[[], RelayChannelLayer]:
        return lambda: RelayChannelLayer(port=port)
