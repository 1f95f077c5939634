"""What every backend needs to be held to a contract."""

from __future__ import annotations

import contextlib

import pytest


@pytest.fixture
async def opened():
    """Opens layers and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack.enter_async_context
