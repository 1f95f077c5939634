"""Two Valkey servers, and one process that runs channels_redis on them."""

from __future__ import annotations

import os

import pytest

from fast_channels.testing.server import ValkeyServer
from tests.interop.support import MATRIX, PEER_PYTHON, PeerProcess, Servers


@pytest.fixture(scope="session")
def peer():
    if not PEER_PYTHON.exists():
        reason = "no .venv-peers with channels_redis: run `make .venv-peers/.ready`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    process = PeerProcess()
    yield process
    process.stop()


@pytest.fixture(scope="session")
def servers():
    with ValkeyServer() as first, ValkeyServer() as second:
        both = Servers([first, second])
        yield both
        both.close()


@pytest.fixture(params=MATRIX, ids=str)
def setup(request):
    return request.param


@pytest.fixture
async def theirs(peer, setup, servers):
    return await setup.peer_layer(peer, servers)


@pytest.fixture
async def ours(theirs, setup, servers):
    async with setup.our_layer(servers) as layer:
        yield layer
