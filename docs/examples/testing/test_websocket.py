"""Clients of a WebSocket consumer."""

import pytest
from chat import app
from conftest import Join

from fast_channels import BaseChannelLayer
from fast_channels.testing import WebsocketCommunicator

ANN = "/ws/room/lobby?token=token-of-ann"
BOB = "/ws/room/lobby?token=token-of-bob"


async def test_stranger_is_rejected() -> None:
    """connect() returns True if the application accepts, and the close code if not."""
    stranger = WebsocketCommunicator(app, "/ws/room/lobby")
    assert await stranger.connect() == (False, 1000)


async def test_what_one_writes_all_in_the_room_see() -> None:
    """Each communicator is one client; the layer connects them."""
    ann, bob = WebsocketCommunicator(app, ANN), WebsocketCommunicator(app, BOB)
    assert await ann.connect() == (True, None)
    assert await bob.connect() == (True, None)
    await ann.send_json_to({"text": "hello"})
    for client in (ann, bob):
        assert await client.receive_json_from() == {"who": "ann", "text": "hello"}
    await ann.disconnect()
    await bob.disconnect()


async def test_another_room_hears_nothing(join: Join) -> None:
    """receive_nothing() waits 0.1 s. A later message that arrives first proves more."""
    ann, elsewhere = await join(ANN), await join("/ws/room/other?token=token-of-bob")
    await ann.send_json_to({"text": "hello"})
    assert await ann.receive_json_from() == {"who": "ann", "text": "hello"}
    assert await elsewhere.receive_nothing()


async def test_message_from_outside_arrives(join: Join, layer: BaseChannelLayer) -> None:
    """The test sends to the group, like a script or another process."""
    ann = await join(ANN)
    message = {"type": "chat.message", "who": "script", "text": "lunch"}
    await layer.group_send("room.lobby", message)
    assert await ann.receive_json_from() == {"who": "script", "text": "lunch"}


async def test_room_is_told_who_leaves_and_the_layer_is_left(
    join: Join, layer: BaseChannelLayer
) -> None:
    """disconnect() leaves with a code, and returns when the consumer has ended."""
    ann, bob = await join(ANN), await join(BOB)
    await bob.disconnect(code=1001)
    assert await ann.receive_json_from() == {"who": "bob", "text": "left with 1001"}
    await ann.disconnect()
    statistics = layer.statistics()
    assert (statistics.channels, statistics.groups) == (0, 0)


async def test_handler_that_raises_ends_its_own_connection(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    """A list has no get(): the client sees 1011, the log has the traceback, the test no error."""
    ann = await join(ANN)
    await ann.send_json_to(["hello"])
    assert (await ann.receive_output())["code"] == 1011
    await ann.wait()
    assert "AttributeError" in caplog.text


async def test_frame_that_is_no_json_closes_with_1007(join: Join) -> None:
    """receive_output() returns any event, here the close frame; wait() returns at the end."""
    ann = await join(ANN)
    await ann.send_to(text_data="{")
    event = await ann.receive_output()
    assert (event["type"], event["code"]) == ("websocket.close", 1007)
    await ann.wait()
