"""The code, the close codes and the diagrams of docs/concepts.md."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from fast_channels.consumer import close_codes
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.broker import Outage
from fast_channels.layers.mailbox import Notice
from fast_channels.testing import WebsocketCommunicator, inspect
from tests.documents.support import ROOT, block_with

GUIDE = ROOT / "docs" / "concepts.md"
DIAGRAMS = [
    ROOT / "docs" / "diagrams" / f"{name}.svg" for name in ("publish", "deliver", "connection")
]
SVG = "{http://www.w3.org/2000/svg}"


async def test_chat_of_the_page_works(registry):
    """Every client in a room reads a message, including the sender; clients outside do not."""
    space: dict = {}
    exec(block_with(GUIDE, "class ChatConsumer"), space)
    clients = [WebsocketCommunicator(space["app"], f"/ws/{room}") for room in ("a", "a", "b")]
    for client in clients:
        assert (await client.connect())[0]
    await clients[0].send_to(text_data="hello")
    assert [await client.receive_from() for client in clients[:2]] == ["hello", "hello"]
    assert await clients[2].receive_nothing(timeout=0.05)
    for client in clients:
        await client.disconnect()


async def test_notices_of_the_page_are_told(registry):
    """The notices of the layer reach these handlers, with the keys that the page uses."""
    space: dict = {}
    exec(block_with(GUIDE, "class CarefulConsumer"), space)
    registry.register("chat", InMemoryChannelLayer())
    layer = registry["chat"]
    client = WebsocketCommunicator(space["CarefulConsumer"].as_asgi(), "/")
    await client.connect()
    inspect.report_outage(layer, Outage(1.0, 2.0, lost=["lobby"]))
    assert await client.receive_from() == "messages of ['lobby'] may have been lost"
    inspect.report_outage(layer, Outage(1.0, 2.0, recovered=["lobby"]))
    (mailbox,) = inspect.hub(layer).mailboxes.values()
    mailbox.put_notice(Notice(type="layer.overflow", dropped=3))
    assert await client.receive_from() == "3 messages were lost"
    await client.disconnect()


def test_close_codes_of_the_page_are_those_of_the_library():
    """The table has every code with which a consumer closes."""
    rows = re.findall(r"^\| ([\d, ]+) \|", GUIDE.read_text(), re.MULTILINE)
    shown = {int(code) for row in rows for code in row.split(",")}
    codes = {value for value in vars(close_codes).values() if isinstance(value, int)}
    assert shown == {code for code in codes if 1000 <= code < 1100}


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.name)
def test_diagram_can_be_read(path):
    """Text has at least 12 px and is inside the picture; diagrams share their colours."""
    text = path.read_text()
    root = ET.fromstring(text)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert width == 720
    sizes = re.findall(r"font-size: (\d+)px", text)
    assert sizes
    assert min(map(int, sizes)) >= 12
    for element in root.iter(f"{SVG}text"):
        assert 0 < float(element.attrib["x"]) < width
        assert 12 < float(element.attrib["y"]) < height - 4
    assert set(re.findall(r"#[0-9a-f]{6}\b", text)) <= {
        *("#ffffff", "#d0d7de", "#f6f8fa", "#57606a", "#0969da", "#bf8700", "#1f2328"),
    }
