"""
A TCP proxy on loopback that delays, cuts, swallows and ends TLS.

The proxy has its own thread and event loop. Therefore it goes on while the loop of a test is
blocked, and blocking tests can use it. Each method returns once its effect has happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

T = TypeVar("T")
Predicate: TypeAlias = "Callable[[Connection], bool]"

# Upper bound in seconds for a call into the proxy's thread.
PATIENCE = 15.0

# Chunks on their way in one direction; a receiver that does not read stops its sender.
CHUNKS = 64
CHUNK_SIZE = 64 * 1024

# The beginning of a command, as every client library writes it, and the number of its bytes
# that can be left over at the end of a chunk.
COMMAND = re.compile(rb"\*[1-9]\d*\r\n\$\d+\r\n([A-Za-z]+)\r\n")
LONGEST_BEGINNING = 40

# Makes close() send RST instead of FIN.
LINGER_NOT = struct.pack("ii", 1, 0)


def every(_connection: Connection) -> bool:
    return True


def having_sent(*commands: str) -> Predicate:
    """Choose the connections on which the client has sent one of these, such as "SUBSCRIBE"."""
    return lambda connection: not connection.commands.isdisjoint(commands)


class Connection:
    """One client's connection to the server. Only the proxy's thread touches it."""

    def __init__(self, task: asyncio.Task[None], client: asyncio.StreamWriter) -> None:
        # Names of the commands that the client has sent so far.
        self.commands: set[str] = set()
        self._task = task
        # Both ends; the server's end is added once it is connected.
        self.ends = [client]
        # Bytes that may be the beginning of a command that continues in the next chunk.
        self._tail = b""

    def note(self, data: bytes) -> None:
        """Look for commands in the data of the client."""
        seen = self._tail + data
        self.commands.update(name.decode().upper() for name in COMMAND.findall(seen))
        self._tail = seen[-LONGEST_BEGINNING:]

    def reset(self) -> None:
        """Break both ends at once, as a power cut or a firewall would."""
        for end in self.ends:
            # None if this end was closed at the same moment.
            raw = end.get_extra_info("socket")
            with contextlib.suppress(OSError):
                if raw is not None:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            end.transport.abort()
        self._task.cancel()


class Proxy:
    """
    Forward connections to `target`, a port on loopback, inside its `with` block.

    With `tls` the proxy speaks TLS to clients and plain text to the server. Actions take a
    predicate that chooses connections. A connection whose commands make it match later is
    treated like the others from that moment, before the server sees the command.
    """

    def __init__(self, target: int, *, tls: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._tls = tls
        # Holds the port while the proxy does not listen, so that clients are refused.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        # Connections accepted so far.
        self.accepted = 0
        self._connections: set[Connection] = set()
        # Delay of every chunk in seconds, and the connections that it applies to.
        self._latency, self._slow = 0.0, every
        # The connections to break, and the connections to hold bytes back on; None means no
        # connection.
        self._cut: Predicate | None = None
        self._held: Predicate | None = None
        self._thread = threading.Thread(target=self._run, name="chaos proxy", daemon=True)
        self._started = threading.Event()
        self._listener: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'rediss' if self._tls else 'redis'}://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Return how many connections are open now."""
        return len(self._connections)

    def count(self, only: Predicate) -> int:
        """Return how many open connections `only` chooses."""
        return self._do(lambda: sum(map(only, self._connections)))

    def present(self) -> Predicate:
        """Choose the connections that are open now, and none that are opened later."""
        return self._do(lambda: frozenset(self._connections)).__contains__

    # -- network failures ----------------------------------------------------

    def delay(self, seconds: float, only: Predicate = every) -> None:
        """Delay everything by another `seconds` in each direction."""

        def there() -> None:
            self._latency, self._slow = seconds, only

        self._do(there)

    def cut(self, only: Predicate = every) -> int:
        """
        Break connections with RST, including new ones, until restore(); return how many broke.
        """

        def there() -> int:
            self._cut = only
            if only is every:
                self._stop_listening()
            return self._reset(only)

        return self._do(there)

    def cut_now(self, only: Predicate = every) -> int:
        """Break the present connections and accept new ones; return how many broke."""
        return self._do(lambda: self._reset(only))

    def blackhole(self, only: Predicate = every) -> None:
        """
        Let nothing pass in either direction until restore(), as on half-open TCP.

        Connections stay open, new ones are accepted, and neither side learns that the other has
        closed. Data sent meanwhile arrives late, as on a network that recovers.
        """

        def there() -> None:
            self._held = only

        self._do(there)

    async def _restore(self) -> None:
        self._latency, self._cut, self._held = 0.0, None, None
        if self._listener is None:
            await self._listen()
        self._changed.set()
        self._changed = asyncio.Event()

    def restore(self) -> None:
        """Behave like a perfect network again."""
        asyncio.run_coroutine_threadsafe(self._restore(), self._loop).result(PATIENCE)

    # -- lifetime -----------------------------------------------------------

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(PATIENCE), "the proxy does not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(PATIENCE)
        self._reserved.close()
        assert not self._thread.is_alive(), "the proxy does not stop"

    def _run(self) -> None:
        asyncio.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        # Set and replaced when waiting connections are to check the predicates again.
        self._changed = asyncio.Event()
        await self._listen()
        self._started.set()
        await self._closing.wait()
        self._stop_listening()
        self._reset(every)
        while self._connections:
            await asyncio.sleep(0)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._serve, sock=_bound(self.port), ssl=self._tls
        )

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _do(self, function: Callable[[], T]) -> T:
        async def there() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(there(), self._loop).result(PATIENCE)

    # -- one connection -----------------------------------------------------

    def _reset(self, only: Predicate) -> int:
        chosen = [connection for connection in self._connections if only(connection)]
        for connection in chosen:
            connection.reset()
        return len(chosen)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = Connection(task, writer)
        self._connections.add(connection)
        self.accepted += 1
        try:
            await self._connect(connection, reader, writer)
        except asyncio.CancelledError:
            # Only reset() cancels this task.
            pass
        except OSError:
            connection.reset()
        finally:
            for end in connection.ends:
                end.close()
            self._connections.discard(connection)

    async def _connect(
        self,
        connection: Connection,
        from_client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
    ) -> None:
        await self._let_pass(connection)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
        connection.ends.append(to_server)
        ways = [
            asyncio.create_task(self._forward(connection, *way))
            for way in ((from_client, to_server), (from_server, to_client))
        ]
        try:
            # Redis and its clients do not use a connection that one side has closed.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forward(
        self, connection: Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Forward one direction until it ends."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS)
        arriving = asyncio.create_task(self._deliver(connection, under_way, writer))
        try:
            while data := await reader.read(CHUNK_SIZE):
                if writer is not connection.ends[0]:
                    self._note(connection, data)
                slow = self._latency if self._slow(connection) else 0.0
                await under_way.put((self._loop.time() + slow, data))
            # The end of the stream must not overtake the data before it.
            await under_way.put((self._loop.time() + self._latency, b""))
            await arriving
        finally:
            arriving.cancel()
            await asyncio.gather(arriving, return_exceptions=True)

    def _note(self, connection: Connection, data: bytes) -> None:
        connection.note(data)
        if self._cut is not None and self._cut(connection):
            connection.reset()
            raise ConnectionResetError

    async def _deliver(
        self,
        connection: Connection,
        under_way: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - self._loop.time())
            await self._let_pass(connection)
            if not data:
                return
            writer.write(data)
            await writer.drain()

    async def _let_pass(self, connection: Connection) -> None:
        while self._held is not None and self._held(connection):
            await self._changed.wait()


def _bound(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only if the protocol is given.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    # The listening socket and the reserving socket share one port.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound
