"""
The event loop that a layer lives on, and calls to it from other loops, threads and processes.

A `Home` is a layer on one loop, with one task there that holds its broker open. The task is
what makes cleanup certain: whatever ends it, even the end of its loop (`asyncio.run` cancels
all tasks and waits for them), closes the broker's connections while the loop can still do so.

A `Call` is made on one loop and runs on another. The background loop, in a daemon thread, is
for callers without a loop that lasts: sync code and `async_to_sync` come and go, and
connections that belong to their short-lived loops would be made anew for every message.

A child of fork shares the kernel's side of its parent's event loops. A connection that is
closed in the child, even by the garbage collector or at the end of the interpreter, is no
longer watched in the parent, which then waits for ever. `keep_in_children` prevents that.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fast_channels.exceptions import LayerClosed, LayerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
S = TypeVar("S")

# Seconds that open connections have to close when the process exits.
EXIT_TIMEOUT = 2.0

# Loops hold their tasks weakly; a layer that is forgotten while open still has
# to be closed when its loop ends.
_keepers: set[asyncio.Task[None]] = set()

# What lives on an event loop of this process.
_ours: weakref.WeakSet[Any] = weakref.WeakSet()

# Adds a reference that nobody has; None until there is something to keep.
_add_reference: Callable[[Any], None] | None = None


class _Gone(Exception):
    """The home ended before the call began, so it can be made again elsewhere."""


class Home(Generic[S]):
    """
    A layer on one loop, from opening to closing; never opened a second time.

    The context manager that `opened` returns is entered and left on that loop. Calls get the
    session that it yields.
    """

    def __init__(
        self,
        layer: object,
        loop: asyncio.AbstractEventLoop,
        opened: Callable[[], AbstractAsyncContextManager[S]],
    ) -> None:
        self.loop = loop
        self.session: S | None = None
        """What calls work on; None before the layer is open and after it is closed."""
        self._layer = layer
        self._opened = opened
        # A forked child must not touch the connections of its parent.
        self._pid = os.getpid()
        self._keeper: asyncio.Task[None] | None = None
        # Done when the session is entered, or has failed to be.
        self._ready: asyncio.Future[None] = loop.create_future()
        self._closing = asyncio.Event()
        # Calls from other loops that are under way, each with what to fail it
        # with: none may be left waiting for a loop that ends. Guarded by _lock,
        # since those loops are in other threads.
        self._calls: dict[Call[Any], Callable[[], Exception]] = {}
        self._gone = False
        self._lock = threading.Lock()
        # Set when the end of the loop, and not close(), ended the session.
        self.loop_ends = False
        keep_in_children(self)

    @property
    def inherited(self) -> bool:
        """Whether this process is a child of the one that opened it."""
        return self._pid != os.getpid()

    @property
    def alive(self) -> bool:
        """Whether calls may be made here: its loop runs, in this process."""
        return not self._gone and self.loop.is_running() and not self.inherited

    async def open(self) -> S:
        """Return the session once it is entered; raises what prevented it. On the home loop."""
        if self.session is not None:
            return self.session
        if self._keeper is None:
            self._keeper = self.loop.create_task(self._keep(), name=f"fast_channels {self._layer}")
            _keepers.add(self._keeper)
            self._keeper.add_done_callback(_keepers.discard)
        if not self._ready.done():
            # Shielded: one caller who gives up must not end it for the others.
            await asyncio.shield(self._ready)
        self._ready.result()
        if self.session is None:
            raise LayerUnavailable(self._layer, "it is being closed")
        return self.session

    async def close(self) -> None:
        """Return once the session is left. On the home loop only."""
        # From now on, calls go to another home.
        self._gone = True
        self._closing.set()
        if self._keeper is not None:
            await asyncio.wait([self._keeper])

    def abandon(self) -> None:
        """Close as soon as the home loop runs again, if it does. From any thread."""
        if not self.inherited and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._closing.set)

    async def forward(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        undo: Callable[[S, T], None] | None = None,
    ) -> T:
        """
        Call `function` on the home loop from another one. Raises _Gone if it did not begin.

        `undo` gets, on the home loop, the session and a result that came too late for a caller
        that was cancelled.
        """
        begun = False

        async def there() -> T:
            nonlocal begun
            session = await self.open()
            begun = True
            return await function(session, *args)

        def undo_there(result: T) -> None:
            if undo is not None and self.session is not None:
                undo(self.session, result)

        call = Call(self.loop, there, undo_there)
        with self._lock:
            if not self.alive:
                raise _Gone
            self._calls[call] = lambda: LayerClosed(self._layer) if begun else _Gone()
        try:
            return await call.result()
        finally:
            with self._lock:
                self._calls.pop(call, None)

    async def _keep(self) -> None:
        try:
            async with self._opened() as session:
                self.session = session
                try:
                    self._ready.set_result(None)
                    await self._closing.wait()
                finally:
                    self.session = None
        except asyncio.CancelledError:
            # Nobody else has this task, so it is the loop that is shutting down.
            self.loop_ends = True
            raise
        except Exception as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)
            # Calls from other loops get it too, from open(); they must not be
            # told of an end first.
            with self._lock:
                self._gone = True
                self._calls.clear()
        finally:
            self._end()
            if not self._ready.done():
                self._ready.set_exception(LayerClosed(self._layer))
            if not self._ready.cancelled():
                self._ready.exception()  # marks it as seen; whoever opens gets it all the same

    def _end(self) -> None:
        """Take no more calls from other loops, and fail those under way."""
        with self._lock:
            self._gone = True
            calls = list(self._calls.items())
        for call, reason in calls:
            call.fail(reason())


class Lifetime(Generic[S]):
    """
    Finds the home of a layer, or elects one.

    The loop that opens the layer or receives through it is its home. A call
    that only publishes, from a thread that is not the main one and with no home
    yet, comes from a loop that will not last (`async_to_sync` makes one per
    call): then the background loop is the home, until somebody wants to receive.
    """

    def __init__(self, layer: object, opened: Callable[[], AbstractAsyncContextManager[S]]) -> None:
        self._layer = layer
        self._opened = opened
        # Replaced under _election only: several threads may need one at once.
        self._home: Home[S] | None = None
        self._election = threading.Lock()
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Whether this is the home loop."""
        home = self._home
        return home is not None and home.alive and home.loop is asyncio.get_running_loop()

    async def open(self) -> None:
        """Open the layer on this loop, or on its home if it has one."""
        await self.run(_nothing, receiving=True)

    async def run(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        receiving: bool = False,
        undo: Callable[[S, T], None] | None = None,
    ) -> T:
        """
        Call `function` at home with the session, opening the layer if need be.

        For `undo` see Home.forward.
        """
        while True:
            home = self._find(receiving=receiving)
            if home.loop is asyncio.get_running_loop():
                return await function(home.session or await home.open(), *args)
            if receiving and is_background(home.loop):
                # It was lent to callers who only publish.
                await self._close(home)
                continue
            try:
                return await home.forward(function, *args, undo=undo)
            except _Gone:
                continue

    async def run_if_open(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Like `run`, but do nothing if the layer is closed: cleanup must not reopen it."""
        if (home := self._home) is not None and home.alive:
            with contextlib.suppress(LayerClosed):
                await self.run(function, *args)

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """
        Call `function` at home with the session: now, or soon if home is another loop.

        Does nothing if the layer is closed.
        """
        home = self._home
        if home is None or not home.alive or (session := home.session) is None:
            return
        if home.loop is asyncio.get_running_loop():
            function(session, *args)
        else:
            # Its loop may end in this very moment.
            with contextlib.suppress(RuntimeError):
                home.loop.call_soon_threadsafe(function, session, *args)

    async def close(self) -> None:
        if (home := self._home) is not None and home.alive:
            await self._close(home)

    async def _close(self, home: Home[S]) -> None:
        if home.loop is asyncio.get_running_loop():
            await home.close()
        else:
            await Call(home.loop, home.close).result()

    def _find(self, *, receiving: bool) -> Home[S]:
        home = self._home
        if home is not None and home.alive:
            return home
        if self._pid != os.getpid():
            # The lock may have been held by another thread during the fork.
            self._election, self._pid = threading.Lock(), os.getpid()
        with self._election:
            if self._home is None or not self._home.alive:
                self._home = self._elect(receiving=receiving)
            return self._home

    def _elect(self, *, receiving: bool) -> Home[S]:
        loop = asyncio.get_running_loop()
        if self._home is not None:
            if self._home.loop is loop and self._home.loop_ends:
                # Tasks clean up while their loop ends; what they opened now
                # nobody would close.
                raise LayerClosed(self._layer)
            self._home.abandon()
        if not receiving and threading.current_thread() is not threading.main_thread():
            loop = background_loop()
        return Home(self._layer, loop, self._opened)


async def _nothing(_: object) -> None:
    """Do nothing: opening the layer is all that was wanted."""


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


class _Background:
    def __init__(self) -> None:
        # A fork copies this object without the thread, so it says whose it is.
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None


_background = _Background()


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process; started on first use, in a child of fork again."""
    global _background  # noqa: PLW0603 - there is one thread per process, and this is its only handle
    if _background.pid != os.getpid():
        # The parent's lock may have been held at the moment of the fork.
        _background = _Background()
    with _background.lock:
        if _background.loop is None:
            _background.loop = asyncio.new_event_loop()
            keep_in_children(_background)
            thread = threading.Thread(
                target=_run, args=(_background.loop,), name="fast_channels background", daemon=True
            )
            running = threading.Event()
            _background.loop.call_soon(running.set)
            thread.start()
            # Only a loop that runs can be the home of a layer.
            running.wait()
            # Registered here, not at import: only a process that has the thread
            # needs to end it, in time for connections to be closed properly.
            atexit.register(_end, _background, thread)
        return _background.loop


def is_background(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is that loop; asking does not start it."""
    return loop is _background.loop and _background.pid == os.getpid()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    # At its end a Runner cancels all tasks and waits for them; that is when
    # layers close their connections.
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _end(state: _Background, thread: threading.Thread) -> None:
    # A child of fork inherits this call, but not the thread.
    if state.pid == os.getpid() and state.loop is not None:
        with contextlib.suppress(RuntimeError):  # it was stopped before
            state.loop.call_soon_threadsafe(state.loop.stop)
        thread.join(timeout=EXIT_TIMEOUT)


def keep_in_children(thing: Any) -> None:
    """See to it that in a child of fork `thing`, and all that it refers to, is never destroyed."""
    global _add_reference  # noqa: PLW0603 - hooks of the process are registered once
    if _add_reference is None and sys.platform != "win32":
        _add_reference = _find_add_reference()
        os.register_at_fork(after_in_child=_keep_all)
    _ours.add(thing)


def _keep_all() -> None:
    for thing in list(_ours):
        if _add_reference is not None:
            _add_reference(thing)
    # Children of this child have them too; they are kept for ever already.
    _ours.clear()


def _find_add_reference() -> Callable[[Any], None]:
    # Imported before the fork, since a child should do as little as possible,
    # and not with the library, since few processes need it.
    with contextlib.suppress(ImportError):
        import ctypes  # noqa: PLC0415

        # A reference of Python's own would end with its modules.
        return lambda thing: ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    # As good until the interpreter ends.
    kept: list[Any] = []
    return kept.append
