"""
Where a layer lives: one event loop, and one task there that holds its broker open.

The task is what makes cleanup certain. Whatever ends it, also the end of its
loop (`asyncio.run` cancels all tasks and waits for them), closes the broker's
connections while the loop can still do so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from fast_channels.exceptions import LayerClosed

from .background import background_loop, is_background
from .calls import Call
from .forks import keep_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager

T = TypeVar("T")

# Loops hold their tasks weakly; a layer that is forgotten while open still has
# to be closed when its loop ends.
_keepers: set[asyncio.Task[None]] = set()


class _Gone(Exception):
    """The home ended before the call began, so it can be made again elsewhere."""


class Home:
    """
    A layer on one loop, from opening to closing; never opened a second time.

    `session` is entered on that loop and left on it.
    """

    def __init__(
        self,
        layer: object,
        loop: asyncio.AbstractEventLoop,
        session: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self.loop = loop
        self._layer = layer
        self._session = session
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

    @property
    def opened(self) -> bool:
        """Whether the session is entered, so that open() would do nothing."""
        return self._ready.done() and not self._ready.cancelled() and not self._ready.exception()

    async def open(self) -> None:
        """Return once the session is entered; raises what prevented it. On the home loop only."""
        if self._keeper is None:
            self._keeper = self.loop.create_task(self._keep(), name=f"fast_channels {self._layer}")
            _keepers.add(self._keeper)
            self._keeper.add_done_callback(_keepers.discard)
        if self._ready.done():
            self._ready.result()
        else:
            # Shielded: one caller who gives up must not end it for the others.
            await asyncio.shield(self._ready)

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
        undo: Callable[[T], None] | None = None,
    ) -> T:
        """
        Call `function` on the home loop from another one. Raises _Gone if it did not begin.

        `undo` gets, on the home loop, a result that came too late for a caller
        who was cancelled.
        """
        begun = False

        async def there() -> T:
            nonlocal begun
            await self.open()
            begun = True
            return await function(*args)

        call = Call(self.loop, there, undo)
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
            async with self._session():
                self._ready.set_result(None)
                await self._closing.wait()
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


class Lifetime:
    """
    Finds the home of a layer, or elects one.

    The loop that opens the layer or receives through it is its home. A call
    that only publishes, from a thread that is not the main one and with no home
    yet, comes from a loop that will not last (`async_to_sync` makes one per
    call): then the background loop is the home, until somebody wants to receive.
    """

    def __init__(
        self, layer: object, session: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self._layer = layer
        self._session = session
        # Replaced under _election only: several threads may need one at once.
        self._home: Home | None = None
        self._election = threading.Lock()
        self._pid = os.getpid()

    def is_here(self) -> bool:
        """Whether this is the home loop."""
        home = self._home
        return home is not None and home.alive and home.loop is asyncio.get_running_loop()

    async def run(
        self,
        function: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        receiving: bool = False,
        undo: Callable[[T], None] | None = None,
    ) -> T:
        """Call `function` at home, opening the layer if need be. For `undo` see Home.forward."""
        while True:
            home = self._find(receiving=receiving)
            if home.loop is asyncio.get_running_loop():
                if not home.opened:
                    await home.open()
                return await function(*args)
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
        """The same for cleaning up, for which a closed layer need not be opened."""
        if (home := self._home) is not None and home.alive:
            with contextlib.suppress(LayerClosed):
                await self.run(function, *args)

    def tell(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function` at home: now, or soon if that is elsewhere. Not if it is closed."""
        home = self._home
        if home is None or not home.alive:
            return
        if home.loop is asyncio.get_running_loop():
            function(*args)
        else:
            # It may end in this very moment.
            with contextlib.suppress(RuntimeError):
                home.loop.call_soon_threadsafe(function, *args)

    async def close(self) -> None:
        if (home := self._home) is not None and home.alive:
            await self._close(home)

    async def _close(self, home: Home) -> None:
        if home.loop is asyncio.get_running_loop():
            await home.close()
        else:
            await Call(home.loop, home.close).result()

    def _find(self, *, receiving: bool) -> Home:
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

    def _elect(self, *, receiving: bool) -> Home:
        loop = asyncio.get_running_loop()
        if self._home is not None:
            if self._home.loop is loop and self._home.loop_ends:
                # Tasks clean up while their loop ends; what they opened now
                # nobody would close.
                raise LayerClosed(self._layer)
            self._home.abandon()
        if not receiving and threading.current_thread() is not threading.main_thread():
            loop = background_loop()
        return Home(self._layer, loop, self._session)
