"""Fixtures for the contract of each backend."""

from __future__ import annotations

import contextlib

import pytest


@pytest.fixture
async def opened():
    """Open layers, and close them after the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack.enter_async_context
