"""Clients of the resume protocol, and a server that does to them what servers do rarely."""

from __future__ import annotations

import pytest

from tests.clients.scripted import ScriptedServer


@pytest.fixture
async def scripted():
    async with ScriptedServer() as server:
        yield server
