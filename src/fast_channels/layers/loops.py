"""
The event loop that a layer lives on, and calls to it from other loops, threads and processes.

A `Home` is a layer on one loop, with one task there that holds its session open. The task makes
cleanup certain: when it ends, even with its loop (`asyncio.run` cancels all tasks and waits for
them), it closes the broker's connections while the loop can still do so.

A `Call` is made on one loop and runs on another. The background loop, in a daemon thread, is for
callers without a loop that lasts. Sync code and `async_to_sync` use a new loop for every call,
and would need new connections every time.

A forked child shares the kernel's side of its parent's event loops. If the child closes a
connection, even by the garbage collector or at the end of the interpreter, the parent does not
watch that connection any more and waits for ever. `keep_in_children` prevents that.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import weakref
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fast_channels.exceptions import LayerClosed, LayerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")
S = TypeVar("S")

# How long open connections have to close when the process exits.
EXIT_TIMEOUT_SECONDS = 2.0

# Tasks that hold layers open. Loops reference their tasks weakly, and a layer without any other
# reference must still be closed when its loop ends.
_keepers: set[asyncio.Task[None]] = set()

# Objects that live on an event loop of this process.
_on_loops: weakref.WeakSet[Any] = weakref.WeakSet()

# Adds a reference without an owner; None until there is an object to keep.
_add_reference: Callable[[Any], None] | None = None


class _HomeEnded(Exception):
    """The home ended before the call began, so the call can be made again in another home."""


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
        """The argument of every call; None before the layer is open and after it is closed."""
        self._layer = layer
        self._opened = opened
        # A forked child must not touch the connections of its parent.
        self._pid = os.getpid()
        self._keeper: asyncio.Task[None] | None = None
        # Done when the session is entered, or has failed to be.
        self._ready: asyncio.Future[None] = loop.create_future()
        self._closing = asyncio.Event()
        # Calls from other loops that are under way, each with the error for the end of the home:
        # no call may go on waiting then. Guarded by _lock, because these loops are in other
        # threads.
        self._calls: dict[Call[Any], Callable[[], Exception]] = {}
        self._ended = False
        self._lock = threading.Lock()
        # Set when the end of the loop, and not close(), ended the session.
        self.loop_ends = False
        keep_in_children(self)

    @property
    def is_inherited(self) -> bool:
        """True in a child of the process that opened the layer."""
        return self._pid != os.getpid()

    @property
    def is_alive(self) -> bool:
        """True while calls may be made here: the loop runs, in this process."""
        return not self._ended and self.loop.is_running() and not self.is_inherited

    def is_here(self) -> bool:
        """Return whether calls may be made here, and the running loop is this one."""
        return self.is_alive and self.loop is asyncio.get_running_loop()

    async def open(self) -> S:
        """Return the session once it is entered, or raise why it is not. On the home loop."""
        if self.session is not None:
            return self.session
        if self._keeper is None:
            self._keeper = self.loop.create_task(self._keep(), name=f"fast_channels {self._layer}")
            _keepers.add(self._keeper)
            self._keeper.add_done_callback(_keepers.discard)
        if not self._ready.done():
            # Shielded: a caller that is cancelled must not end it for the others.
            await asyncio.shield(self._ready)
        self._ready.result()
        if self.session is None:
            raise LayerUnavailable(self._layer, "it is being closed")
        return self.session

    async def close(self) -> None:
        """Return once the session is left. On the home loop only."""
        # From now on, calls go to another home.
        self._ended = True
        self._closing.set()
        if self._keeper is not None:
            await asyncio.wait([self._keeper])

    def abandon(self) -> None:
        """Close as soon as the home loop runs again, if it does. From any thread."""
        if not self.is_inherited and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._closing.set)

    async def forward(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        undo: Callable[[S, T], None] | None = None,
    ) -> T:
        """
        Call `function` on the home loop from another one. Raises _HomeEnded if it did not begin.

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
            if not self.is_alive:
                raise _HomeEnded
            self._calls[call] = lambda: LayerClosed(self._layer) if begun else _HomeEnded()
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
            # Only the loop cancels this task, when it shuts down.
            self.loop_ends = True
            raise
        except Exception as exc:
            if self._ready.done():
                raise
            self._ready.set_exception(exc)
            # Calls from other loops get this error from open(), and must not get another first.
            with self._lock:
                self._ended = True
                self._calls.clear()
        finally:
            self._end()
            if not self._ready.done():
                self._ready.set_exception(LayerClosed(self._layer))
            if not self._ready.cancelled():
                self._ready.exception()  # marks it as seen; callers of open() still get it

    def _end(self) -> None:
        """Take no more calls from other loops, and fail the calls that are under way."""
        with self._lock:
            self._ended = True
            calls = list(self._calls.items())
        for call, reason in calls:
            call.fail(reason())


class Lifetime(Generic[S]):
    """
    Finds the home of a layer, or elects one.

    The loop that opens the layer or receives through it is its home. If there is no home yet and
    a thread other than the main one publishes, its loop will not last (`async_to_sync` makes a
    loop per call): the background loop becomes the home until a call wants to receive.
    """

    def __init__(self, layer: object, opened: Callable[[], AbstractAsyncContextManager[S]]) -> None:
        self._layer = layer
        self._opened = opened
        # Replaced under _election only: several threads may need one at once.
        self._home: Home[S] | None = None
        self._election = threading.Lock()
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Return whether the running loop is the home of the layer."""
        return self._home is not None and self._home.is_here()

    async def open(self) -> None:
        """Open the layer on this loop, or on its home if it has one."""
        await self.run(_nothing, receiving=True)

    def run(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        receiving: bool = False,
        undo: Callable[[S, T], None] | None = None,
    ) -> Coroutine[Any, Any, T]:
        """
        Call `function` at home with the session, opening the layer if need be. Await it at once.

        For `undo` see Home.forward.
        """
        home = self._home
        if home is not None and home.is_here() and home.session is not None:
            # The ordinary case, without a coroutine between the caller and the session.
            return function(home.session, *args)
        return self._run(function, args, undo, receiving=receiving)

    async def _run(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        args: Sequence[Any],
        undo: Callable[[S, T], None] | None,
        *,
        receiving: bool,
    ) -> T:
        while True:
            home = self._find(receiving=receiving)
            if home.loop is asyncio.get_running_loop():
                return await function(home.session or await home.open(), *args)
            if receiving and is_background(home.loop):
                # The background loop was the home only while all calls published.
                await self._close(home)
                continue
            try:
                return await home.forward(function, *args, undo=undo)
            except _HomeEnded:
                continue

    async def run_if_open(
        self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any
    ) -> None:
        """Like `run`, but do nothing if the layer is closed: cleanup must not reopen it."""
        if (home := self._home) is not None and home.is_alive:
            with contextlib.suppress(LayerClosed):
                await self.run(function, *args)

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """
        Call `function` at home with the session: now, or soon if home is another loop.

        Does nothing if the layer is closed.
        """
        home = self._home
        if home is None or not home.is_alive or (session := home.session) is None:
            return
        if home.loop is asyncio.get_running_loop():
            function(session, *args)
        else:
            # Its loop may end in this very moment.
            with contextlib.suppress(RuntimeError):
                home.loop.call_soon_threadsafe(function, session, *args)

    async def close(self) -> None:
        if (home := self._home) is not None and home.is_alive:
            await self._close(home)

    async def _close(self, home: Home[S]) -> None:
        if home.loop is asyncio.get_running_loop():
            await home.close()
        else:
            await Call(home.loop, home.close).result()

    def _find(self, *, receiving: bool) -> Home[S]:
        home = self._home
        if home is not None and home.is_alive:
            return home
        if self._pid != os.getpid():
            # The lock may have been held by another thread during the fork.
            self._election, self._pid = threading.Lock(), os.getpid()
        with self._election:
            if self._home is None or not self._home.is_alive:
                self._home = self._elect(receiving=receiving)
            return self._home

    def _elect(self, *, receiving: bool) -> Home[S]:
        loop = asyncio.get_running_loop()
        if self._home is not None:
            if self._home.loop is loop and self._home.loop_ends:
                # Tasks clean up while their loop ends. A layer that they opened now would
                # never be closed.
                raise LayerClosed(self._layer)
            self._home.abandon()
        if not receiving and threading.current_thread() is not threading.main_thread():
            loop = background_loop()
        return Home(self._layer, loop, self._opened)


async def _nothing(_: object) -> None:
    """Do nothing: opening the layer is all that was wanted."""


class Call(Generic[T]):
    """
    A call that waits on one loop while a task runs `function` on `loop`, in another thread.

    `undo` is called on `loop` with the result of a call that was cancelled meanwhile.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        function: Callable[[], Coroutine[Any, Any, T]],
        undo: Callable[[T], None] | None = None,
    ) -> None:
        self._loop = loop
        self._function = function
        self._undo = undo
        self._task: asyncio.Task[T] | None = None
        # Used from both threads: the first one to set or cancel it wins.
        self._reply: Future[T] = Future()

    async def result(self) -> T:
        """Make the call and return its result. Cancelling this cancels the task."""
        here, answered = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: Future[T]) -> None:
            if not _call_soon(here, answered.set):
                self._take_back()

        self._reply.add_done_callback(tell)
        _call_soon(self._loop, self._start)
        try:
            await answered.wait()
        except asyncio.CancelledError:
            if self._reply.cancel():
                _call_soon(self._loop, self._stop)
            else:
                # The result came in the moment of the cancellation.
                self._take_back()
            raise
        return self._reply.result()

    def fail(self, exc: Exception) -> None:
        """Let the caller raise `exc`, because the loop ends. Too late if there is a result."""
        with contextlib.suppress(InvalidStateError):
            self._reply.set_exception(exc)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._function())
        self._task.add_done_callback(self._finish)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[T]) -> None:
        # The caller of a cancelled task has given up, or the loop ends: then fail() tells it.
        if task.cancelled():
            return
        exc = task.exception()
        try:
            if exc is not None:
                self._reply.set_exception(exc)
            else:
                self._reply.set_result(task.result())
        except InvalidStateError:
            if exc is None and self._undo is not None:
                self._undo(task.result())

    def _take_back(self) -> None:
        reply = self._reply
        if self._undo is not None and not reply.cancelled() and reply.exception() is None:
            _call_soon(self._loop, self._undo, reply.result())


def _call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: Any) -> bool:
    """Call a function on the loop of another thread; return False if that loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)
        return True
    return False


class _BackgroundLoop:
    """The background loop of one process."""

    def __init__(self) -> None:
        # A fork copies this object without the thread.
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.loop: asyncio.AbstractEventLoop | None = None


_background = _BackgroundLoop()


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the background loop of this process; it starts on first use."""
    global _background  # noqa: PLW0603 - there is one thread per process
    if _background.pid != os.getpid():
        # The parent's lock may have been held at the moment of the fork.
        _background = _BackgroundLoop()
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
            # Registered here and not at import: only a process that has the thread needs to end
            # it, in time for connections to be closed properly.
            atexit.register(_end, _background, thread)
        return _background.loop


def is_background(loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether `loop` is the background loop. Does not start one."""
    return loop is _background.loop and _background.pid == os.getpid()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    # At its end a Runner cancels all tasks and waits for them; then layers close their
    # connections.
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()


def _end(state: _BackgroundLoop, thread: threading.Thread) -> None:
    # A forked child inherits this call, but not the thread.
    if state.pid == os.getpid() and state.loop is not None:
        with contextlib.suppress(RuntimeError):  # it was stopped before
            state.loop.call_soon_threadsafe(state.loop.stop)
        thread.join(timeout=EXIT_TIMEOUT_SECONDS)


def keep_in_children(thing: Any) -> None:
    """Never destroy `thing`, nor any object that it refers to, in forked children."""
    global _add_reference  # noqa: PLW0603 - hooks of the process are registered once
    if _add_reference is None and sys.platform != "win32":
        _add_reference = _find_add_reference()
        os.register_at_fork(after_in_child=_keep_all)
    _on_loops.add(thing)


def _keep_all() -> None:
    for thing in list(_on_loops):
        if _add_reference is not None:
            _add_reference(thing)
    # In the children of this child they are kept already.
    _on_loops.clear()


def _find_add_reference() -> Callable[[Any], None]:
    # Imported before the fork, because a child should do as little as possible, and not with
    # the library, because few processes need it.
    with contextlib.suppress(ImportError):
        import ctypes  # noqa: PLC0415

        # A reference in a Python module would end with that module, before the interpreter does.
        return lambda thing: ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    # Keeps objects until the interpreter ends.
    kept: list[Any] = []
    return kept.append
