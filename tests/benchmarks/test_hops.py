"""A message crosses few files, so that a reader of the code can follow it."""

import asyncio

import pytest

from benchmarks import hops

# The most files that a message may visit. Lower a number when a path gets shorter.
MESSAGE = {"in memory": 17, "pub/sub": 29, "queue": 44, "streams, resume": 47}
FRAME = 13


@pytest.fixture(scope="module")
def measured():
    """The files that a message and a frame visit, by layer."""
    return asyncio.run(hops.measured())


@pytest.mark.parametrize("layer", MESSAGE)
def test_message_visits_no_more_files_than_before(measured, layer):
    """From `group_send` to the ASGI `send`, on each layer."""
    message, frame = measured[layer]
    assert "consumer/websocket.py" in message
    assert len(message) <= MESSAGE[layer], " ".join(message)
    assert len(frame) <= FRAME, " ".join(frame)
