"""One connection to an ASGI application, from the server's side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_channels.type_defs import ASGI3Application, ChannelMessage, ChannelScope


# Number of parts of a timeout, which are waited for one after the other. If the process is
# suspended, as on a busy machine, at most one part passes, because the application could do
# nothing meanwhile.
TIMEOUT_PARTS = 10


class ApplicationCommunicator:
    """
    Runs an application in a task, with queues in place of a server.

    An exception of the application is raised by the next call of a method here. Timeouts are
    in seconds; after a timeout the application is cancelled and TimeoutError is raised. Time
    in which the whole process was suspended counts as a tenth of the timeout at most.
    """

    def __init__(self, application: ASGI3Application, scope: ChannelScope) -> None:
        self.application = application
        """The application that runs here."""

        self.scope = scope
        """The connection scope that the application gets."""

        self.input_queue: asyncio.Queue[ChannelMessage] = asyncio.Queue()
        """Events to the application."""

        self.output_queue: asyncio.Queue[ChannelMessage] = asyncio.Queue()
        """Events from the application."""

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
        # The task starts first, so that it exists even if the caller never reads the output.
        _ = self.future
        await self.input_queue.put(message)

    async def receive_output(self, timeout: float = 1) -> Any:
        """Return the next event that the application sends."""
        # Events sent before a failure come first.
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
        """Return whether the application sends nothing for `timeout` seconds, or ends."""
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
        """Wait for the application to end; raise its exception, if any."""
        if not await _first([self.future], timeout):
            await self._cancel()
            raise TimeoutError(f"the application still runs after {timeout} s")
        self._raise_failure()

    def stop(self, exceptions: bool = True) -> None:
        """Cancel the application; if it has ended and `exceptions` is true, raise its exception."""
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
    """Wait until one of the futures is done; return the done ones, or none after the timeout."""
    # Without a timeout (None, as in asyncio), the first part has no end.
    part = timeout and timeout / TIMEOUT_PARTS
    for _ in range(TIMEOUT_PARTS):
        done, _ = await asyncio.wait(waited, timeout=part, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return done
    return set()
