"""Recipes as their readers run them: with the command on the page, over real sockets."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import uvicorn
from websockets.asyncio.client import ClientConnection, connect

from fast_channels.testing.server import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "recipes"
EXAMPLES = ROOT / "docs" / "examples" / "recipes"

# Seconds until a test gives up on a message.
PATIENCE = 30.0

# The command on a page: its folder and the application.
COMMAND = re.compile(r"^cd docs/examples/recipes(\S*)\nuvicorn ([\w.]+):(\w+)$", re.MULTILINE)


def command_of(page: str) -> tuple[Path, str, str]:
    """Return the folder, the module and the application of the command on a page."""
    ((folder, module, application),) = COMMAND.findall((PAGES / f"{page}.md").read_text())
    return EXAMPLES / folder.strip("/"), module, application


def load(folder: Path, name: str) -> ModuleType:
    """Import a module of an example anew, like a server that is started in its folder."""
    assert str(folder) in sys.path
    for other in folder.glob("*.py"):
        sys.modules.pop(other.stem, None)
    module = importlib.import_module(name)
    assert Path(module.__file__).parent == folder
    return module


class Server:
    """An application, served by uvicorn on this loop."""

    def __init__(self, module: ModuleType, application: str) -> None:
        self.module = module
        self.port = free_port()
        app = getattr(module, application)
        # Its logging configuration would affect later tests.
        config = uvicorn.Config(app, port=self.port, log_config=None, lifespan="on")
        self._server = uvicorn.Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            assert not self._serving.done(), self._serving.result()
            # The server has no other way to say that it listens.
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """End the server as SIGTERM would. Stopping twice is fine."""
        self._server.should_exit = True
        await self._serving

    def cut(self) -> None:
        """Break every connection, like a network failure."""
        self._abort(lambda _: True)

    def cut_sockets(self) -> None:
        """Break every WebSocket."""
        self._abort(lambda connection: "websockets" in type(connection).__module__)

    def _abort(self, chosen: Callable[[Any], bool]) -> None:
        for connection in filter(chosen, list(self._server.server_state.connections)):
            connection.transport.abort()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def socket(self, path: str, **options: Any) -> Socket:
        return Socket(f"ws://127.0.0.1:{self.port}{path}", options)

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """Return the JSON of a successful response."""
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE) as client:
            response = await client.request(method, path, **options)
        response.raise_for_status()
        return response.json()


class Socket:
    """`async with server.socket(path) as socket`: a WebSocket that speaks JSON."""

    connection: ClientConnection

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._connecting = connect(url, **options)

    async def __aenter__(self) -> Self:
        self.connection = await self._connecting.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connecting.__aexit__(*exc_info)

    async def send(self, content: object) -> None:
        await self.connection.send(json.dumps(content))

    async def next(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self.connection.recv())

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait until the server closes; return its code and reason."""
        async with asyncio.timeout(PATIENCE):
            await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason
