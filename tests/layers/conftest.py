"""Layers and servers for these tests."""

from __future__ import annotations

import pytest

from fast_channels.layers import InMemoryChannelLayer
from tests.layers.support import RecordingLayer


@pytest.fixture
async def memory():
    async with InMemoryChannelLayer() as layer:
        yield layer


@pytest.fixture
async def recording():
    """An open layer with a recording broker."""
    async with RecordingLayer() as layer:
        yield layer
