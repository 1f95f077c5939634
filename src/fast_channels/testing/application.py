"""One connection to an ASGI application, from the server's side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_channels.type_defs import ASGI3Application, ChannelMessage, ChannelScope


# Parts of a timeout that are waited for one after the other. When the process
# stands still, as on a busy machine, one of them has passed afterwards, however
# long it was: the application could do nothing meanwhile.
PARTS = 10


class ApplicationCommunicator:
    """
    Runs an application in a task, with queues in place of a server.

    Whatever the application raises comes out of the next call here. Timeouts
    are in seconds; when one passes, the application is cancelled and
    TimeoutError raised. Time in which the whole process stood still counts as
    a tenth of the timeout at most.
    """

    def __init__(self, application: ASGI3Application, scope: ChannelScope) -> None:
        # What is driven.
        self.application = application
        # What it is told of the connection.
        self.scope = scope
        # Events to the application.
        self.input_queue: asyncio.Queue[ChannelMessage] = asyncio.Queue()
        # Events from it.
        self.output_queue: asyncio.Queue[ChannelMessage] = asyncio.Queue()
        # The application's task, from the first use on.
        self._task: asyncio.Task[Any] | None = None

    @property
    def future(self) -> asyncio.Task[Any]:
        """The application's task; started by the first use of this communicator."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return self._task

    async def send_input(self, message: ChannelMessage) -> None:
        """Give the application an event to receive."""
        # Started first, so that the task exists whatever the caller does next.
        _ = self.future
        await self.input_queue.put(message)

    async def receive_output(self, timeout: float = 1) -> Any:
        """Return the next event that the application sends."""
        # What was sent before the end counts, even if the application has failed since.
        if not self.output_queue.empty():
            return self.output_queue.get_nowait()
        output = asyncio.ensure_future(self.output_queue.get())
        try:
            done = await _first([output, self.future], timeout)
        finally:
            output.cancel()
        if output in done:
            return output.result()
        if not done:
            await self._cancel()
            raise TimeoutError(f"the application sent nothing within {timeout} s")
        self._raise_failure()
        raise RuntimeError("the application ended without sending anything more")

    async def receive_nothing(self, timeout: float = 0.1, interval: float = 0.01) -> bool:
        """Whether the application sends nothing for `timeout` seconds, or ends."""
        if not self.output_queue.empty():
            return False
        deadline = asyncio.get_running_loop().time() + timeout
        while asyncio.get_running_loop().time() < deadline and not self.future.done():
            await asyncio.sleep(interval)
            if not self.output_queue.empty():
                return False
        if self.future.done():
            self._raise_failure()
        return self.output_queue.empty()

    async def wait(self, timeout: float = 1) -> None:
        """Wait for the application to end; raises what it raised."""
        if not await _first([self.future], timeout):
            await self._cancel()
            raise TimeoutError(f"the application still runs after {timeout} s")
        self._raise_failure()

    def stop(self, exceptions: bool = True) -> None:
        """Cancel the application; if it had ended, raise what it raised if `exceptions`."""
        if self._task is None:
            return
        if not self._task.done():
            self._task.cancel()
        elif exceptions:
            self._raise_failure()

    async def _run(self) -> None:
        await self.application(self.scope, self.input_queue.get, self.output_queue.put)

    async def _cancel(self) -> None:
        self.future.cancel()
        await asyncio.wait([self.future])

    def _raise_failure(self) -> None:
        if self.future.done() and not self.future.cancelled():
            self.future.result()


async def _first(waited: list[asyncio.Future[Any]], timeout: float) -> set[asyncio.Future[Any]]:
    """Wait until one of them is done; return those that are, none if the time has passed."""
    # Without one (None, as in asyncio), the first part lasts for ever.
    part = timeout and timeout / PARTS
    for _ in range(PARTS):
        done, _ = await asyncio.wait(waited, timeout=part, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return done
    return set()
