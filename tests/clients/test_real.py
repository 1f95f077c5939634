"""Both clients work with a production server and a resumable consumer."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from fast_channels.client import connect
from tests.clients.support import JS_TESTS, run_node_tests
from tests.servers.support import ServerProcess


class RoomServer(ServerProcess):
    folder = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The address of uvicorn with the application of this directory."""
    server = RoomServer("uvicorn_websockets", tmp_path_factory.mktemp("real") / "server.log")
    yield f"127.0.0.1:{server.port}"
    server.stop()


async def test_javascript_client_resumes(real):
    """The client gets each missed message once."""
    assert await run_node_tests(JS_TESTS / "real.test.js", REAL_SERVER=real) == 2


async def test_python_client_resumes_from_the_places_of_another(real):
    """The second client gets the messages since the first one left, marked as replayed."""
    url, resumed = f"ws://{real}/ws", []
    async with connect(url, json=True) as socket:
        await socket.send("before")
        assert (await anext(socket)).data == "before"
        places = socket.places
    async with httpx.AsyncClient(base_url=f"http://{real}", timeout=15) as http:
        await http.get("/say", params={"text": "missed"})
    async with connect(url, json=True, places=places, on_resumed=resumed.append) as socket:
        missed = await anext(socket)
        await socket.send("after")
        after = await anext(socket)
    assert [(resumed.recovered, resumed.missed) for resumed in resumed] == [(True, 1)]
    assert [(m.data, m.replayed) for m in (missed, after)] == [("missed", True), ("after", False)]
