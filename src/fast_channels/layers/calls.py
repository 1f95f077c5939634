"""A call that is made on one event loop and done on another, in another thread."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Call(Generic[T]):
    """
    Runs `function` as a task on `there`; the result comes back to where this is made.

    Each method says on which of the two loops it runs, so nothing here needs a
    lock. `undo` is called there with a result that nobody takes any more,
    because the caller was cancelled meanwhile.
    """

    def __init__(
        self,
        there: asyncio.AbstractEventLoop,
        function: Callable[[], Coroutine[Any, Any, T]],
        undo: Callable[[T], None] | None = None,
    ) -> None:
        self._here = asyncio.get_running_loop()
        self._there = there
        self._function = function
        self._undo = undo
        self._task: asyncio.Task[T] | None = None
        # Known there: whether the caller has given up, and whether the task's
        # result was sent on its way.
        self._stopped = self._ended = False
        self._reply: asyncio.Future[T] = self._here.create_future()

    async def result(self) -> T:
        """Here: do it. Cancelling this cancels the task there."""
        _soon(self._there, self._start)
        try:
            return await self._reply
        except asyncio.CancelledError:
            if self._reply.cancelled():
                _soon(self._there, self._stop)
            elif self._reply.exception() is None and self._undo is not None:
                # It came in the moment of the cancellation.
                _soon(self._there, self._undo, self._reply.result())
            raise

    def fail(self, exc: Exception) -> None:
        """From there: it will not be done, or its end not be heard of."""
        _soon(self._here, self._settle_with, exc)

    def _start(self) -> None:
        """There."""
        self._task = asyncio.create_task(self._function())
        self._task.add_done_callback(self._finished)

    def _stop(self) -> None:
        """There: the caller has given up."""
        self._stopped = True
        if self._task is None:
            return
        if self._ended:
            self._take_back(self._task)
        else:
            self._task.cancel()

    def _finished(self, task: asyncio.Task[T]) -> None:
        """There."""
        self._ended = True
        if not task.cancelled():
            # Marks it as seen: a caller who gave up does not ask for it.
            task.exception()
        if self._stopped or not _soon(self._here, self._settle, task):
            self._take_back(task)

    def _take_back(self, task: asyncio.Task[T]) -> None:
        """There: nobody will have the result."""
        if not task.cancelled() and task.exception() is None and self._undo is not None:
            self._undo(task.result())

    def _settle(self, task: asyncio.Task[T]) -> None:
        """Here: hand over what came of it."""
        if self._reply.done() or task.cancelled():
            # The caller gave up, and _stop() is on its way; or the loop there
            # ends, and whoever ends it says so with fail().
            return
        exc = task.exception()
        if exc is not None:
            self._settle_with(exc)
        else:
            self._reply.set_result(task.result())

    def _settle_with(self, exc: BaseException) -> None:
        """Here."""
        if not self._reply.done():
            self._reply.set_exception(exc)


def _soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> bool:
    """Call a function on a loop of another thread; False if that loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)
        return True
    return False
