"""A server that follows a script, to observe how clients react."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

SUBPROTOCOL = "fast-channels.resume.v1"

# A client sends this frame after it has handled everything before a cut.
CUT = {"pong": "cut"}


@dataclass
class Visit:
    """The frames of a client on one connection."""

    offered: list[str]
    # The positions that the client sent to resume from.
    resume: dict[str, str] | None
    frames: list[Any] = field(default_factory=list)
    code: int | None = None


@dataclass
class Run:
    """
    The connections of one client in turn, with the script of each.

    A connection is a mapping: `steps` are done in turn, then the server stays until the client
    leaves; `plain` chooses no sub-protocol, `deaf` answers no ping, and `refuse` is the status
    of a failed handshake. Connections beyond the last one have no steps.

    Steps: `["send", value]` (as JSON), `["text", text]`, `["bytes", base64]`, `["receive", n]`
    (wait until the client has sent n frames), `["close", code, reason]`, `["cut"]`.
    """

    connections: list[dict[str, Any]]
    visits: list[Visit] = field(default_factory=list)

    def now(self) -> dict[str, Any]:
        """Return the script of the connection that came last."""
        return dict(enumerate(self.connections)).get(len(self.visits) - 1, {})


class ScriptedServer:
    """
    Serves runs.

    A run passed to `add` has its own address there. Other clients send their run in the query
    string, as `script`, with a name as `run`, and read the server's record at `/log/<run>`.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.address = ""

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            process_request=self._admit,
            select_subprotocol=self._choose,
            ping_interval=None,
            close_timeout=1,
        )
        port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    def add(self, *connections: dict[str, Any]) -> tuple[str, Run]:
        """Return the address of a run, and its record."""
        name = f"run-{len(self.runs)}"
        self.runs[name] = Run(list(connections))
        return f"ws://{self.address}/?run={name}", self.runs[name]

    def _admit(self, connection: ServerConnection, request: Any) -> Any:
        address = urlsplit(request.path)
        if address.path.startswith("/log/"):
            visits = self.runs[address.path.removeprefix("/log/")].visits
            return connection.respond(HTTPStatus.OK, json.dumps([asdict(v) for v in visits]))
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if query["run"] not in self.runs:
            self.runs[query["run"]] = Run(json.loads(query["script"]))
        run = self.runs[query["run"]]
        header = request.headers.get("Sec-WebSocket-Protocol", "")
        offered = [name.strip() for name in header.split(",") if name]
        run.visits.append(Visit(offered, decoded(query.get("resume"))))
        connection.run = run
        if status := run.now().get("refuse"):
            return connection.respond(HTTPStatus(status), "not now\n")
        return None

    def _choose(self, connection: Any, offered: Any) -> Any:
        if SUBPROTOCOL in offered and not connection.run.now().get("plain"):
            return SUBPROTOCOL
        return None

    async def _serve(self, connection: Any) -> None:
        todo, visit = connection.run.now(), connection.run.visits[-1]
        arrived = asyncio.Condition()
        reader = asyncio.create_task(read(connection, visit, arrived, deaf=todo.get("deaf", False)))
        try:
            for step in todo.get("steps", []):
                await perform(connection, visit, arrived, *step)
        except ConnectionClosed:
            pass
        await reader


async def read(connection: Any, visit: Visit, arrived: asyncio.Condition, *, deaf: bool) -> None:
    try:
        async for data in connection:
            frame = list(data) if isinstance(data, bytes) else data
            if connection.subprotocol and isinstance(data, str):
                frame = json.loads(data)
                if "ping" in frame and not deaf:
                    await connection.send(json.dumps({"pong": frame["ping"]}))
            async with arrived:
                visit.frames.append(frame)
                arrived.notify_all()
    except ConnectionClosed:
        pass
    async with arrived:
        visit.code = connection.close_code
        arrived.notify_all()


async def perform(
    connection: Any, visit: Visit, arrived: asyncio.Condition, what: str, *args: Any
) -> None:
    match what:
        case "send":
            await connection.send(json.dumps(args[0]))
        case "text":
            await connection.send(args[0])
        case "bytes":
            await connection.send(base64.b64decode(args[0]))
        case "receive":
            async with arrived:
                await arrived.wait_for(lambda: len(visit.frames) >= args[0] or visit.code)
        case "close":
            await connection.close(*args)
        case "cut":
            # Clients may drop frames that they have not read, so they confirm that they have.
            if connection.subprotocol:
                await connection.send(json.dumps({"ping": "cut"}))
                async with arrived:
                    await arrived.wait_for(lambda: CUT in visit.frames or visit.code)
            connection.transport.abort()
        case _:
            raise ValueError(what)


def decoded(resume: str | None) -> dict[str, str] | None:
    """Return the positions in a query string, checked as the protocol says."""
    if resume is None:
        return None
    assert len(resume) <= 8192
    assert "=" not in resume
    padding = "=" * (-len(resume) % 4)
    places: dict[str, str] = json.loads(base64.b64decode(resume + padding, b"-_", validate=True))
    return places
