"""
A client of the resume protocol (docs/protocol.md) for services and tests. Needs the extra `client`.

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

__all__ = ["SUBPROTOCOL", "Message", "Resumed", "ResumingSocket", "SocketState", "connect"]

SUBPROTOCOL = "fast-channels.resume.v1"
"""The sub-protocol that a client offers. A server that supports resuming chooses it."""

SocketState = Literal["connecting", "open", "waiting", "closed"]
"""The state of a socket: `waiting` for the next attempt, or `closed` and not reconnecting."""

# After a close with one of these codes, another connection would end in the same way.
FINAL_CODES = {1000, 1002, 1003, 1007, 1008, 1009, 1010, *range(4000, 5000)}

# Bytes of JSON. Base64 makes them a third longer, and many servers and proxies refuse request
# lines of more than 8 KiB.
MAX_PLACES_BYTES = 4_500

logger = logging.getLogger("fast_channels.client")


@dataclass(frozen=True, slots=True)
class Message:
    """A frame from the server's consumer, with its position in a group."""

    data: Any
    """Text or bytes. With `json`, a value instead of text."""
    group: str | None
    """The group of the message that caused the frame. None for a frame that is never replayed."""
    position: str | None
    """The position of that message in the group, or None."""
    replayed: bool
    """True if the client had missed the frame and receives it now."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The consumer joined a group for this client. The missed messages of the group come next."""

    group: str
    """The name of the group."""
    recovered: bool | None
    """False if messages are lost, None if the group is new to this client, True otherwise."""
    missed: int
    """The number of missed messages that come next."""
    position: str
    """The place in the group up to which the client has everything now."""


class _Arrival(NamedTuple):
    """An item of the inbox, and the places of the client after the application has taken it."""

    places: dict[str, str]
    # None if only the places change.
    item: Resumed | dict[str, Any] | None


def connect(
    url: str,
    *,
    json: bool = False,
    places: Mapping[str, str] | None = None,
    protocols: Sequence[str] = (),
    on_state: Callable[[SocketState], None] | None = None,
    on_resumed: Callable[[Resumed], None] | None = None,
    retry_base: float = 0.5,
    retry_cap: float = 20.0,
    heartbeat_interval: float = 20.0,
    heartbeat_timeout: float = 20.0,
    inbox_size: int = 100,
    connect_options: Mapping[str, Any] | None = None,
) -> ResumingSocket:
    """
    Return a socket that `async with` connects, and that reconnects whenever it is lost.

    `json` sends and receives JSON values instead of text. `places` are the `places` of another
    socket, perhaps in another process, from which this one continues. `protocols` are offered
    in addition to the resume protocol. A change of state calls `on_state` at once. The
    iteration calls `on_resumed`, in order with the messages.

    Times are in seconds. The wait before attempt n is random, between 0 and the smaller of
    `retry_cap` and `retry_base * 2 ** n`, in addition to the time that the server asked for.
    After `heartbeat_interval` the client pings the server, and reconnects without an answer
    within `heartbeat_timeout`. At most `inbox_size` messages wait for the application; if the
    inbox is full, the client stops reading from the server. `connect_options` are further
    arguments for `websockets.connect`, such as `ssl` or `additional_headers`.

    Raises ValueError for an invalid number, and InvalidURI (of websockets) for an invalid `url`.
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
    A WebSocket client that reconnects and receives the messages it missed. Made by `connect`.

    `async with` waits for the first connection, without a limit. An error that another attempt
    would not avoid, such as a handshake refused with 403, is raised. Leaving the block closes
    the socket with 1000.

    Iterate over the socket to receive `Message` objects. The iteration ends when the server
    closes with 1000, and raises SocketClosed when the server closes with another code that
    forbids reconnecting. Cancelling it loses no message. `places` include a message from the
    moment the iteration returns it.
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
        """The address of the server. A change takes effect at the next attempt."""
        self.state: SocketState = "closed"
        """The current state. Each change calls `on_state`."""
        self.resumable = False
        """True while the server supports resuming on this connection."""
        self.places = dict(places)
        """The place in each group up to which the application has taken every message."""
        self.on_state: Callable[[SocketState], None] | None = None
        """A function that each change of state calls. May be replaced at any time."""
        self.on_resumed: Callable[[Resumed], None] | None = None
        """A function that the iteration calls for each joined group. May be replaced."""
        self.retry_base = 0.5
        """The longest wait before the first new attempt, in seconds. May be changed."""
        self.retry_cap = 20.0
        """The longest wait before any attempt, in seconds. May be changed."""
        # The place in each group up to which everything was received, the latest change last.
        # The next connection presents these.
        self._received = dict(places)
        self._options = options
        self._json = json
        self._inbox: deque[_Arrival] = deque()
        self._inbox_size = inbox_size
        # Set when an item has arrived, or none will arrive any more.
        self._arrived = asyncio.Event()
        # Set when the application has taken an item.
        self._taken = asyncio.Event()
        # Set while there is a connection, and when there will be none any more.
        self._opened = asyncio.Event()
        # Set when the last connection is lost.
        self._lost = asyncio.Event()
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        # The server asked not to reconnect before this time.monotonic().
        self._not_before = 0.0

    async def __aenter__(self) -> Self:
        if self._task is not None:
            raise RuntimeError("this socket was used before; call connect() for a new one")
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
        """Close with 1000 and do not reconnect. Messages that were received can still be taken."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._enter("closed")
        self._opened.set()
        self._arrived.set()
        if not task.cancelled():
            # Retrieved here, because asyncio would log an error that no iteration or send raises.
            task.exception()

    # -- for the application -------------------------------------------------

    async def send(self, data: Any) -> None:
        """
        Send text or bytes. With `json`, send any value that JSON has, or bytes.

        Without a connection, this waits for one; cancelling it then sends nothing. If the
        connection breaks shortly after a send, the frame may be lost, and the client does not
        repeat it. After the end of the socket, this raises SocketClosed or the error that ended it.
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
                self._taken.set()
                self.places.update(arrival.places)
                if isinstance(arrival.item, Resumed):
                    if self.on_resumed is not None:
                        self.on_resumed(arrival.item)
                elif arrival.item is not None:
                    return self._message(arrival.item)
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
            # Without the resume protocol, binary frames arrive as bytes.
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
                if code in FINAL_CODES:
                    raise SocketClosed(self.url, code, reason)
            if lasted > self._longest_pause(failures):
                failures = 0
            await self._wait(self._longest_pause(failures))
            failures += 1

    async def _connect(self) -> ClientConnection | None:
        """Open a connection. Return None after an error that another attempt may avoid."""
        url = self.url
        if self._received:
            url += f"{'&' if '?' in url else '?'}resume={resume_parameter(self._received)}"
        try:
            return await websockets_connect(url, **self._options)
        except Exception as exc:
            # websockets decides which errors are worth another attempt.
            if process_exception(exc) is not None:
                raise
            return None

    async def _serve(self, connection: ClientConnection) -> None:
        """Receive frames until the connection ends. Cancelling this closes it with 1000."""
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
            # Cancelling `async with connection` would close with 1011 instead of 1000.
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
        # Random from 0, so that thousands of clients of one server do not return at once.
        await asyncio.sleep(early + random.random() * longest)  # noqa: S311 - no secret

    def _enter(self, state: SocketState) -> None:
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
        frame = decoded_envelope(data)
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
        # The server does not know places that were not presented, because there were too many.
        default = False if group in self._received else None
        recovered = joined.get("recovered", default)
        return Resumed(group, recovered, joined.get("missed", 0), joined["position"])

    async def _put(self, places: dict[str, str], item: Resumed | dict[str, Any] | None) -> None:
        for group, place in places.items():
            self._received.pop(group, None)
            self._received[group] = place
        if item is None and self._inbox:
            # Places alone need no entry of their own.
            self._inbox[-1].places.update(places)
            return
        self._inbox.append(_Arrival(places, item))
        self._arrived.set()
        while len(self._inbox) >= self._inbox_size:
            self._taken.clear()
            await self._taken.wait()


def resume_parameter(places: Mapping[str, str]) -> str:
    """Return the value for the query string: the places that changed last, as many as fit."""
    kept: dict[str, str] = {}
    for group in reversed(list(places)):
        more = {**kept, group: places[group]}
        if len(json_module.dumps(more)) > MAX_PLACES_BYTES:
            break
        kept = more
    encoded = base64.urlsafe_b64encode(json_module.dumps(kept).encode())
    return encoded.decode().rstrip("=")


def decoded_envelope(data: str | bytes) -> dict[str, Any]:
    """Return the keys of a frame of the protocol, or none for any other frame."""
    try:
        frame = json_module.loads(data)
    except ValueError:
        return {}
    return cast("dict[str, Any]", frame) if isinstance(frame, dict) else {}


def place_after(frame: dict[str, Any]) -> dict[str, str]:
    """Return the group's place after a frame, as a mapping. A frame without position has none."""
    if not frame.get("p"):
        return {}
    group, position, k = frame["p"]
    return {group: f"{position}+{k + 1}"}
