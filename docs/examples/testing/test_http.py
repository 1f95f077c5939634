"""Requests, and events of other kinds."""

from chat import Count, app
from conftest import Join

from fast_channels.testing import ApplicationCommunicator, HttpCommunicator


async def test_body_is_counted() -> None:
    """get_response() sends the request and returns the whole response as a dict."""
    request = HttpCommunicator(Count.as_asgi(), "/", method="POST", body=b"four")
    assert await request.get_response() == {"status": 200, "headers": [], "body": b"4"}


async def test_announcement_reaches_the_room(join: Join) -> None:
    """HttpCommunicator also requests the endpoints of a framework."""
    ann = await join("/ws/room/lobby?token=token-of-ann")
    request = HttpCommunicator(app, "/announce/lobby?text=lunch", method="POST")
    assert (await request.get_response())["status"] == 200
    assert await ann.receive_json_from() == {"who": "operator", "text": "lunch"}


async def test_application_starts_and_stops() -> None:
    """ApplicationCommunicator speaks any ASGI protocol, such as the lifespan protocol."""
    server = ApplicationCommunicator(app, {"type": "lifespan", "state": {}})
    await server.send_input({"type": "lifespan.startup"})
    assert await server.receive_output() == {"type": "lifespan.startup.complete"}
    await server.send_input({"type": "lifespan.shutdown"})
    assert await server.receive_output() == {"type": "lifespan.shutdown.complete"}
    await server.wait()
