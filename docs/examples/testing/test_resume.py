"""A client that reconnects."""

from chat import app

from fast_channels import BaseChannelLayer
from fast_channels.testing import ResumingCommunicator


async def test_client_that_was_away_gets_what_it_has_missed(layer: BaseChannelLayer) -> None:
    """cut() breaks the connection; again() reconnects the same client."""
    reader = ResumingCommunicator(app, "/ws/news")
    await reader.connect()
    assert reader.speaks
    await layer.group_send("news", {"type": "headline", "text": "first"})
    assert await reader.receive_from() == "first"
    await reader.cut()
    await layer.group_send("news", {"type": "headline", "text": "second"})
    reader = await reader.again()
    frame = await reader.receive_frame()
    assert (frame.data, frame.replay) == ("second", True)
    assert reader.resumed["news"]["recovered"]
    await reader.disconnect()
