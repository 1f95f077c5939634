"""
A client of the resume protocol (docs/protocol.md), for services and tests: the extra `client`.

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

# What a server chooses that speaks the resume protocol.
SUBPROTOCOL = "fast-channels.resume.v1"

# `waiting`: for the next attempt. `closed`: for good.
State = Literal["connecting", "open", "waiting", "closed"]

# Close codes after which coming back would end the same way.
FINAL = {1000, 1002, 1003, 1007, 1008, 1009, 1010, *range(4000, 5000)}

# Bytes of the JSON of places that are presented: as base64 they are a third longer, and
# request lines of more than 8 KiB are refused by many servers and proxies.
MOST_PRESENTED = 4_500

logger = logging.getLogger("fast_channels.client")


@dataclass(frozen=True, slots=True)
class Message:
    """A frame of the application, and where it stands."""

    # Text or bytes; with `json`, a value instead of the text.
    data: Any
    # The group whose message led to it; None for what is not sent again if it is missed.
    group: str | None
    # Of that message in the group; None likewise.
    position: str | None
    # It was missed, and is made up for.
    replayed: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """A group was joined; what was missed of it comes next."""

    # Which.
    group: str
    # False: something is lost. None: the group is new to this client.
    recovered: bool | None
    # How many messages come next.
    missed: int
    # Where this client stands now.
    position: str


class _Arrival(NamedTuple):
    """What waits to be taken by the application, and where it stands after that."""

    places: dict[str, str]
    # A Resumed, a frame of the protocol that carries one of the application's, or nothing.
    what: Resumed | dict[str, Any] | None


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
    Return a socket that is connected by `async with`, and again whenever it is lost.

    `places` are those of another socket, also of another process, which this one goes on
    from. `protocols` are offered beside the resume protocol. `on_state` is called at once,
    `on_resumed` by the iteration, at its place among the messages. Times are in seconds: the
    wait before connection n is a random part of `retry_base * 2 ** n`, at most of `retry_cap`,
    after what the server asked for. `inbox_size` is how many messages may wait for the
    application; beyond that, the server is not read. `connect_options` are more arguments for
    `websockets.connect`, such as `ssl` or `additional_headers`.

    Raises ValueError for values that make no sense, and InvalidURI (of websockets).
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
    What `connect` returns.

    Entering waits for the first connection, for as long as it takes, and raises what would not
    be better the next time, such as a handshake that is refused with 403. Leaving closes with 1000.

    The iteration ends when the server closes with 1000 and raises SocketClosed when it does so
    with another code that forbids to come back. Cancelling it loses no message. A message counts
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
        # Where to connect; a change holds for the next attempt.
        self.url = url
        # As of now; `on_state` is called with each change.
        self.state: State = "closed"
        # Whether this connection speaks the protocol, so that what it misses will be sent again.
        self.resumable = False
        # Up to where the application has taken each group: what another socket goes on from.
        self.places = dict(places)
        # As `connect` was given it; may be changed at any time.
        self.on_state: Callable[[State], None] | None = None
        # Likewise.
        self.on_resumed: Callable[[Resumed], None] | None = None
        # Seconds, likewise.
        self.retry_base = 0.5
        # Seconds, likewise.
        self.retry_cap = 20.0
        # Up to where each group was received: what this one presents. Those that changed last
        # are at the end.
        self._received = dict(places)
        self._options = options
        self._json = json
        self._inbox: deque[_Arrival] = deque()
        self._inbox_size = inbox_size
        # Something came, or nothing more will. Set and cleared by either side of the inbox.
        self._arrived = asyncio.Event()
        # The application took something.
        self._room = asyncio.Event()
        # There is a connection, or there will be none; and: the last one is gone.
        self._opened, self._lost = asyncio.Event(), asyncio.Event()
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        # By time.monotonic(), before when the server wants no other connection.
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
        """Close with 1000, for good. What was received before can still be taken."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._enter("closed")
        self._opened.set()
        self._arrived.set()
        if not task.cancelled():
            # Whoever iterates or sends gets it; whoever does neither wants no warning of it.
            task.exception()

    # -- what the application does -------------------------------------------

    async def send(self, data: Any) -> None:
        """
        Send text or bytes, or with `json` any value that JSON has (bytes stay bytes).

        Waits for a connection if there is none; cancelled meanwhile, nothing is sent. What was
        handed to a connection that died then may be lost, and is not sent again. Raises
        SocketClosed, or what ended the socket, when there will be no connection.
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
                self._room.set()
                self.places.update(arrival.places)
                if isinstance(arrival.what, Resumed):
                    if self.on_resumed is not None:
                        self.on_resumed(arrival.what)
                elif arrival.what is not None:
                    return self._message(arrival.what)
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
                if code in FINAL:
                    raise SocketClosed(self.url, code, reason)
            if lasted > self._longest_pause(failures):
                failures = 0
            await self._wait(self._longest_pause(failures))
            failures += 1

    async def _connect(self) -> ClientConnection | None:
        """Return None if the next time may be better, and raise if it would not."""
        url = self.url
        if self._received:
            url += f"{'&' if '?' in url else '?'}resume={presented(self._received)}"
        try:
            return await websockets_connect(url, **self._options)
        except Exception as exc:
            # It knows which answers of a server may be others the next time.
            if process_exception(exc) is not None:
                raise
            return None

    async def _serve(self, connection: ClientConnection) -> None:
        """Take what comes, until the connection is over. Cancelled, it is closed with 1000."""
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
            # Leaving its context when cancelled would say 1011 instead of 1000.
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
        # Random from 0 up, so that thousands who lost the same server do not return together.
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
        # There may be more places than are presented, and of the others the server knows nothing.
        unknown = False if group in self._received else None
        recovered = joined.get("recovered", unknown)
        return Resumed(group, recovered, joined.get("missed", 0), joined["position"])

    async def _put(self, places: dict[str, str], what: Resumed | dict[str, Any] | None) -> None:
        for group, place in places.items():
            self._received.pop(group, None)
            self._received[group] = place
        if what is None and self._inbox:
            # Nothing to take: it needs no turn, and no room, of its own.
            self._inbox[-1].places.update(places)
            return
        self._inbox.append(_Arrival(places, what))
        self._arrived.set()
        while len(self._inbox) >= self._inbox_size:
            self._room.clear()
            await self._room.wait()


def presented(places: Mapping[str, str]) -> str:
    """Return places as they go into a query string: those that changed last, as many as fit."""
    kept: dict[str, str] = {}
    for group in reversed(list(places)):
        more = {**kept, group: places[group]}
        if len(json_module.dumps(more)) > MOST_PRESENTED:
            break
        kept = more
    encoded = base64.urlsafe_b64encode(json_module.dumps(kept).encode())
    return encoded.decode().rstrip("=")


def envelope(data: str | bytes) -> dict[str, Any]:
    """Return a frame of the protocol, or one without anything if it is not."""
    try:
        frame = json_module.loads(data)
    except ValueError:
        return {}
    return cast("dict[str, Any]", frame) if isinstance(frame, dict) else {}


def place_after(frame: dict[str, Any]) -> dict[str, str]:
    if not frame.get("p"):
        return {}
    group, position, k = frame["p"]
    return {group: f"{position}+{k + 1}"}
