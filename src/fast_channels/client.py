"""
Client of the resume protocol (docs/protocol.md) for services and tests; needs the extra `client`.

    async with connect("wss://example.org/ws/chat", json=True) as socket:
        await socket.send({"text": "hello"})
        async for message in socket:
            print(message.data, message.replayed)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json as json_module
import logging
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

from fast_channels.exceptions import MissingExtra, SocketClosed

try:
    from websockets.asyncio.client import ClientConnection
    from websockets.asyncio.client import connect as websockets_connect
    from websockets.client import process_exception
    from websockets.exceptions import ConnectionClosed
    from websockets.protocol import State as ConnectionState
    from websockets.typing import Subprotocol
    from websockets.uri import parse_uri
except ImportError:
    raise MissingExtra("a client of the resume protocol", "client") from None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["SUBPROTOCOL", "Message", "Resumed", "ResumingSocket", "State", "connect"]

SUBPROTOCOL = "fast-channels.resume.v1"
"""Sub-protocol of a connection that speaks the resume protocol."""

State = Literal["connecting", "open", "waiting", "closed"]
"""State of a socket; `waiting` is the pause before the next attempt, and `closed` is final."""

# Close codes after which a new connection would end the same way.
FINAL_CLOSE_CODES = {1000, 1002, 1003, 1007, 1008, 1009, 1010, *range(4000, 5000)}

# Maximal JSON size in bytes of the positions in a URL. Base64 makes it a third longer, and
# many servers and proxies refuse request lines of more than 8 KiB.
MAX_RESUME_BYTES = 4_500

logger = logging.getLogger("fast_channels.client")


@dataclass(frozen=True, slots=True)
class Message:
    """A frame of the application, and its position in the history of a group."""

    data: Any
    """Text or bytes; with `json`, a decoded value instead of the text."""

    group: str | None
    """The group of the message that led to this frame; None if the frame is never replayed."""

    position: str | None
    """The position of that message in the group, or None."""

    replayed: bool
    """True if the client had missed the frame and the server sent it after the reconnect."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The server's consumer has joined a group; the missed messages come next."""

    group: str
    """The name of the group."""

    recovered: bool | None
    """False if messages are lost; None if the group is new to this client."""

    missed: int
    """Number of missed messages that come next."""

    position: str
    """The position of this client in the group now."""


class _Arrival(NamedTuple):
    """An entry of the inbox, and the positions once the application has taken it."""

    places: dict[str, str]
    # A protocol frame with a frame of the application in it, or None for positions alone.
    content: Resumed | dict[str, Any] | None


def connect(
    url: str,
    *,
    json: bool = False,
    places: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    on_state: Callable[[State], None] | None = None,
    on_resumed: Callable[[Resumed], None] | None = None,
    retry_base: float = 0.5,
    retry_cap: float = 20.0,
    heartbeat_interval: float = 20.0,
    heartbeat_timeout: float = 20.0,
    inbox_size: int = 100,
    connect_options: Mapping[str, Any] | None = None,
) -> ResumingSocket:
    """
    Return a socket that `async with` connects, and that reconnects whenever the connection is lost.

    Pass the `places` of another socket, even from another process, to continue at its
    positions. The client offers `protocols` in addition to the resume protocol. `on_state` is
    called at once; the iteration calls `on_resumed` in order with the messages. Times are in
    seconds. The pause before attempt n is a random part of `retry_base * 2 ** n`, at most of
    `retry_cap`, after the pause that the server asked for. Up to `inbox_size` messages wait for
    the application; then the client stops reading. `connect_options` are more arguments for
    `websockets.connect`, such as `ssl` or `additional_headers`.

    Raises ValueError for a number that is not above 0, and InvalidURI (of websockets).
    """
    parse_uri(url)
    times = {
        "retry_base": retry_base,
        "retry_cap": retry_cap,
        "heartbeat_interval": heartbeat_interval,
        "heartbeat_timeout": heartbeat_timeout,
        "inbox_size": inbox_size,
    }
    for name, value in times.items():
        if not value > 0:
            raise ValueError(f"{name} is {value!r}; give a number above 0")
    options = {
        "subprotocols": [Subprotocol(name) for name in (SUBPROTOCOL, *protocols)],
        "ping_interval": heartbeat_interval,
        "ping_timeout": heartbeat_timeout,
        **(connect_options or {}),
    }
    socket = ResumingSocket(url, places or {}, options, json=json, inbox_size=inbox_size)
    socket.on_state, socket.on_resumed = on_state, on_resumed
    socket.retry_base, socket.retry_cap = retry_base, retry_cap
    return socket


class ResumingSocket:
    """
    A WebSocket that reconnects and resumes; made by `connect`.

    Entering the context waits for the first connection without limit, and raises errors that
    another attempt would not fix, such as a handshake refused with 403. Leaving the context
    closes with 1000.

    The iteration ends when the server closes with 1000, and raises SocketClosed when the server
    closes with another final code. Cancelling the iteration loses no message. A message counts
    in `places` from the moment the iteration returns it.
    """

    def __init__(
        self,
        url: str,
        places: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        json: bool,
        inbox_size: int,
    ) -> None:
        self.url = url
        """The address of the server; the next attempt uses a changed value."""

        self.state: State = "closed"
        """The state of the connection now; `on_state` is called with each change."""

        self.resumable = False
        """True if this connection speaks the protocol, so missed messages will be replayed."""

        self.places = dict(places)
        """The application's position in each group; another socket can continue from them."""

        self.on_state: Callable[[State], None] | None = None
        """The callback passed to `connect`; it may be replaced at any time."""

        self.on_resumed: Callable[[Resumed], None] | None = None
        """The callback passed to `connect`; it may be replaced at any time."""

        self.retry_base = 0.5
        """Seconds, as passed to `connect`; the value may be changed at any time."""

        self.retry_cap = 20.0
        """Seconds, as passed to `connect`; the value may be changed at any time."""

        # The position of the last frame received in each group, sent to the server when
        # resuming. The groups that changed last are at the end.
        self._received = dict(places)
        self._options = options
        self._json = json
        self._inbox: deque[_Arrival] = deque()
        self._inbox_size = inbox_size
        # Set when the inbox gets an entry or will get no more. Both sides set and clear it.
        self._arrived = asyncio.Event()
        # Set when the application has taken an entry.
        self._has_space = asyncio.Event()
        # Set while a connection is open or no more will come; set while no connection is open.
        self._opened, self._lost = asyncio.Event(), asyncio.Event()
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        # The time.monotonic() before which the server wants no new connection.
        self._not_before = 0.0

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("this socket was used before; call connect() for another one")
        self._task = asyncio.create_task(self._run(), name="fast_channels client")
        self._task.add_done_callback(self._ended)
        try:
            await self._opened.wait()
        except asyncio.CancelledError:
            await self.close()
            raise
        if self._task.done() and not self._inbox:
            self._task.result()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close with 1000, for good. Messages received before can still be taken."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._enter("closed")
        self._opened.set()
        self._arrived.set()
        if not task.cancelled():
            # Marks the exception as retrieved: the iteration and `send` raise it, and an
            # application that does neither should get no warning of asyncio.
            task.exception()

    # -- sending and receiving -----------------------------------------------

    async def send(self, data: Any) -> None:
        """
        Send text or bytes or, with `json`, any value that JSON can hold (bytes stay bytes).

        Without a connection, `send` waits for one; a cancelled wait sends nothing. Data passed to
        a connection that then breaks may be lost, and is not sent again. If no connection will
        come, `send` raises SocketClosed or the error that ended the socket.
        """
        frame: str | bytes = data
        if self._json and not isinstance(data, bytes):
            frame = json_module.dumps(data)
        while True:
            await self._opened.wait()
            connection = self._connection
            if connection is None:
                self._raise_end()
                raise SocketClosed(self.url, 1000, "")
            if connection.state is ConnectionState.OPEN:
                break
            await self._lost.wait()
        if self.resumable and isinstance(frame, str):
            frame = json_module.dumps({"t": frame})
        with contextlib.suppress(ConnectionClosed):
            await connection.send(frame)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        while True:
            while self._inbox:
                arrival = self._inbox.popleft()
                self._has_space.set()
                self.places.update(arrival.places)
                if isinstance(arrival.content, Resumed):
                    if self.on_resumed is not None:
                        self.on_resumed(arrival.content)
                elif arrival.content is not None:
                    return self._message(arrival.content)
            if self._task is None or self._task.done():
                self._raise_end()
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()

    def _raise_end(self) -> None:
        if self._task is not None and not self._task.cancelled():
            self._task.result()

    def _message(self, frame: dict[str, Any]) -> Message:
        group, position, _ = frame.get("p") or (None, None, 0)
        return Message(self._data(frame), group, position, bool(frame.get("replay")))

    def _data(self, frame: dict[str, Any]) -> Any:
        if "b" in frame:
            data = frame["b"]
            # A server without the protocol sends the bytes themselves.
            return data if isinstance(data, bytes) else base64.b64decode(data)
        if "j" in frame:
            return frame["j"] if self._json else json_module.dumps(frame["j"])
        return json_module.loads(frame["t"]) if self._json else frame["t"]

    # -- connections ---------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            self._enter("connecting")
            lasted = 0.0
            if (connection := await self._connect()) is not None:
                opened = time.monotonic()
                await self._serve(connection)
                lasted = time.monotonic() - opened
                code, reason = connection.close_code or 1006, connection.close_reason or ""
                if code == 1000:
                    return
                if code in FINAL_CLOSE_CODES:
                    raise SocketClosed(self.url, code, reason)
            if lasted > self._longest_pause(failures):
                failures = 0
            await self._wait(self._longest_pause(failures))
            failures += 1

    async def _connect(self) -> ClientConnection | None:
        """Return a connection, or None if another attempt may succeed; otherwise raise."""
        url = self.url
        if self._received:
            url += f"{'&' if '?' in url else '?'}resume={resume_parameter(self._received)}"
        try:
            return await websockets_connect(url, **self._options)
        except Exception as exc:
            # websockets knows which errors another attempt may avoid.
            if process_exception(exc) is not None:
                raise
            return None

    async def _serve(self, connection: ClientConnection) -> None:
        """Receive frames until the connection ends; when cancelled, close it with 1000."""
        self.resumable = connection.subprotocol == SUBPROTOCOL
        self._connection = connection
        self._lost.clear()
        self._opened.set()
        self._enter("open")
        try:
            with contextlib.suppress(ConnectionClosed):
                async for data in connection:
                    await self._take(connection, data)
        finally:
            # On a cancellation, the connection's own context manager would close with 1011.
            await connection.close()
            self._connection = None
            self.resumable = False
            self._opened.clear()
            self._lost.set()

    def _longest_pause(self, failures: int) -> float:
        return min(self.retry_cap, self.retry_base * 2.0 ** min(failures, 64))

    async def _wait(self, longest: float) -> None:
        self._enter("waiting")
        early = max(0.0, self._not_before - time.monotonic())
        # Random from 0 up, so that thousands of clients do not reconnect at the same moment.
        await asyncio.sleep(early + random.random() * longest)  # noqa: S311 - no secret

    def _enter(self, state: State) -> None:
        self.state = state
        if self.on_state is not None:
            try:
                self.on_state(state)
            except Exception:
                logger.exception("on_state failed")

    # -- frames --------------------------------------------------------------

    async def _take(self, connection: ClientConnection, data: str | bytes) -> None:
        if not self.resumable:
            return await self._put({}, {"b" if isinstance(data, bytes) else "t": data})
        frame = envelope(data)
        if "ping" in frame:
            await connection.send(json_module.dumps({"pong": frame["ping"]}))
        if isinstance(frame.get("retry"), int | float):
            self._not_before = time.monotonic() + frame["retry"]
        for group, joined in frame.get("resume", {}).items():
            await self._put({group: joined["position"]}, self._joined(group, joined))
        if frame.keys() & {"t", "j", "b"}:
            await self._put(place_after(frame), frame)
        if "at" in frame:
            await self._put(frame["at"], None)
        return None

    def _joined(self, group: str, joined: dict[str, Any]) -> Resumed:
        # The server knows nothing of positions that did not fit into the URL.
        unknown = False if group in self._received else None
        recovered = joined.get("recovered", unknown)
        return Resumed(group, recovered, joined.get("missed", 0), joined["position"])

    async def _put(self, places: dict[str, str], content: Resumed | dict[str, Any] | None) -> None:
        for group, place in places.items():
            self._received.pop(group, None)
            self._received[group] = place
        if content is None and self._inbox:
            # Positions alone need no entry and no space in the inbox.
            self._inbox[-1].places.update(places)
            return
        self._inbox.append(_Arrival(places, content))
        self._arrived.set()
        while len(self._inbox) >= self._inbox_size:
            self._has_space.clear()
            await self._has_space.wait()


def resume_parameter(places: Mapping[str, str]) -> str:
    """Return positions as a query parameter: as many of the last changed ones as fit."""
    kept: dict[str, str] = {}
    for group in reversed(list(places)):
        more = {**kept, group: places[group]}
        if len(json_module.dumps(more)) > MAX_RESUME_BYTES:
            break
        kept = more
    encoded = base64.urlsafe_b64encode(json_module.dumps(kept).encode())
    return encoded.decode().rstrip("=")


def envelope(data: str | bytes) -> dict[str, Any]:
    """Return a frame of the protocol; an empty one if the data is not such a frame."""
    try:
        frame = json_module.loads(data)
    except ValueError:
        return {}
    return cast("dict[str, Any]", frame) if isinstance(frame, dict) else {}


def place_after(frame: dict[str, Any]) -> dict[str, str]:
    """Return the position after a frame, by group; empty if the frame has no position."""
    if not frame.get("p"):
        return {}
    group, position, k = frame["p"]
    return {group: f"{position}+{k + 1}"}
