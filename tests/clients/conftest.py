"""Clients of the resume protocol, and a server that does rare things to them on request."""

from __future__ import annotations

import pytest

from tests.clients.scripted import ScriptedServer


@pytest.fixture
async def scripted():
    async with ScriptedServer() as server:
        yield server
