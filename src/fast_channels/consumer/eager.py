"""
Runs an idle consumer within a delivery, instead of waking its task.

Waking a task costs more than most handlers do. Therefore the coroutine of a connection can
be advanced from two sides: by its task, and by a delivery while the connection is idle. The
delivery enters the task and its context first, so that the code of the connection sees no
difference: there is one loop, one order, and one place where handlers are called.

If a handler waits for something, the delivery leaves it suspended and wakes the task, which
from then on waits for the same thing.
"""

from __future__ import annotations

# ruff: noqa: SLF001 - one reader runs the others of a delivery
import asyncio
import types
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Callable, Generator, Iterable, Sequence

    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelMessage

# Documented for code that runs something as a task which is not running:
# https://docs.python.org/3/library/asyncio-extending.html
enter_task = asyncio.tasks._enter_task  # pyright: ignore[reportPrivateUsage]
leave_task = asyncio.tasks._leave_task  # pyright: ignore[reportPrivateUsage]

# A connection yields this when it is idle.
IDLE: Any = object()


@types.coroutine
def until_woken() -> Generator[Any, Any, Iterable[ChannelMessage]]:
    """
    Wait, within an EagerCoroutine, until something has come.

    Return the messages of a delivery, or nothing if there is something in the mailbox.
    """
    return (yield IDLE) or ()


class EagerCoroutine(Coroutine[Any, Any, None]):
    """
    The coroutine of a connection: run by its task, and while it is idle by deliveries.

    The reader of its mailbox, see `layers.mailbox.MailboxReader`.
    """

    __slots__ = (
        "_context",
        "_left",
        "_loop",
        "_outcome",
        "_run",
        "_running",
        "_task",
        "_wakeup",
        "idle",
    )

    def __init__(self, running: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        # True while a delivery may run the connection: it has nothing to do, and no wake-up
        # is under way.
        self.idle = False
        self._running = running
        self._run = running.send
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        # The future that the task waits for while the connection is idle, or until the task
        # hears of a step that a delivery has taken.
        self._wakeup: asyncio.Future[None] | None = None
        # The future that the connection waits for since that step, and its end in that step.
        self._left: Any = None
        self._outcome: BaseException | None = None

    # -- called by the mailbox and by deliveries ------------------------------

    def wake(self) -> None:
        """Let the task run the connection, if it is idle."""
        if self.idle:
            self.idle = False
            self._wake_task()

    def run_all(
        self, mailboxes: Iterable[Mailbox], copies: Callable[[Mailbox], Sequence[ChannelMessage]]
    ) -> None:
        """
        Let the readers of these mailboxes, all of them idle, handle messages.

        Raises nothing: an error of a handler, like KeyboardInterrupt, ends the task of its
        connection and not the caller.
        """
        loop = self._loop
        caller = asyncio.current_task(loop)
        if caller is not None:
            leave_task(loop, caller)
        try:
            for mailbox in mailboxes:
                # One connection after the other, with all its messages: the memory that it
                # needs is then touched once.
                reader: Any = mailbox.eager_reader
                task, left = reader._task, iter(copies(mailbox))
                enter_task(loop, task)
                try:
                    waits_for = reader._context.run(reader._run, left)
                except BaseException as exc:  # noqa: BLE001 - raised in the task instead
                    reader._outcome = exc
                else:
                    if waits_for is IDLE:
                        reader.idle = True
                        continue
                    reader._left = waits_for
                finally:
                    leave_task(loop, task)
                for message in left:
                    mailbox.put(message)
                reader._wake_task()
        finally:
            if caller is not None:
                enter_task(loop, caller)

    def _wake_task(self) -> None:
        if self._wakeup is not None and not self._wakeup.done():
            self._wakeup.set_result(None)

    # -- called by the task ---------------------------------------------------

    def __next__(self) -> Any:
        if self._outcome is not None:
            raise self._outcome
        self._wakeup, left, self._left = None, self._left, None
        if left is not None:
            return left
        self.idle = False
        return self._wait_for(self._running.send(None))

    def send(self, value: Any) -> Any:  # noqa: ARG002 - tasks send None
        return self.__next__()

    def throw(self, exc: Any, value: Any = None, traceback: Any = None) -> Any:  # noqa: ARG002
        if self._outcome is not None:
            raise self._outcome
        task, left, self._left = self._task, self._left, None
        woken, self._wakeup = self._wakeup is not None, None
        if woken and task is not None and not task.cancelling():
            # A handler has cancelled its task and taken that back, in a step of a delivery.
            return left if left is not None else self._wait_for(self._running.send(None))
        if left is not None and left.cancel(*exc.args):
            # Like a task: cancel the future that it waits for, which then wakes it.
            return left
        self.idle = False
        return self._wait_for(self._running.throw(exc))

    def close(self) -> None:
        self._running.close()

    def __await__(self) -> Generator[Any, Any, None]:
        raise TypeError("a connection is run by a task of its own")

    def _wait_for(self, waits_for: Any) -> Any:
        if waits_for is not IDLE:
            return waits_for
        self._task = asyncio.current_task(self._loop)
        self._wakeup = wakeup = self._loop.create_future()
        # `await` sets this to mark the future as awaited.
        wakeup._asyncio_future_blocking = True
        self.idle = True
        return wakeup

    # -- seen by tools ----------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """
        Return an attribute such as `cr_frame` or `cr_await` of the handler that is running.

        `Task.get_stack()` shows one frame of a suspended task. This makes it the frame of the
        handler, and tools that follow `cr_await` from here see the awaitable of the handler.
        """
        inner: Any = self._running
        while inner is not None:
            frame = getattr(inner, "cr_frame", None)
            if frame is not None and not _is_library(frame):
                return getattr(inner, name)
            inner = getattr(inner, "cr_await", None)
        return getattr(self._running, name)


def _is_library(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("fast_channels.")
