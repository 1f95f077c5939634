"""
The contract over TLS, as a user with only the rights of docs/redis-acl.md.

The bundled server is built without TLS, so a proxy in front of it terminates TLS. The client
library does the same as with a TLS server.
"""

from __future__ import annotations

import contextlib

import pytest
import redis

from fast_channels.layers import (
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)
from fast_channels.testing.contract import LayerContract
from fast_channels.testing.history_contract import HistoryContract
from fast_channels.testing.server import ValkeyServer
from tests.chaos.proxy import Proxy
from tests.chaos.servers import documented_rule, of_documented_user
from tests.conftest import empty

pytestmark = pytest.mark.usefixtures("no_other_authorities")


@pytest.fixture(scope="module")
def guarded():
    """A server that has the documented user."""
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as client:
        client.execute_command(*documented_rule().split())
        yield server


@pytest.fixture(scope="module")
def secured(guarded, authority):
    """The proxy that makes this server available over TLS."""
    with Proxy(guarded.port, tls=authority.server_context()) as proxy:
        yield proxy


@pytest.fixture
def url(guarded, secured, authority):
    """The address with that user; fails afterwards if a command was refused."""
    empty(guarded)
    with redis.Redis.from_url(guarded.url) as client:
        client.acl_log_reset()
        yield f"{of_documented_user(secured.url)}?ssl_ca_certs={authority.certificate}"
        assert client.acl_log() == []


@pytest.fixture
async def opened():
    """Open layers, and close them after the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack.enter_async_context


class TestPubSub(LayerContract):
    keeps_messages = False

    @pytest.fixture
    async def make_layer(self, opened, url):
        async def make(**options):
            return await opened(RedisPubSubChannelLayer([url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, url):
        return lambda: RedisPubSubChannelLayer([url])


class TestQueue(LayerContract):
    @pytest.fixture
    async def make_layer(self, opened, url):
        async def make(**options):
            return await opened(RedisChannelLayer([url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, url):
        return lambda: RedisChannelLayer([url])


class TestStreams(LayerContract):
    keeps_members = False

    @pytest.fixture
    async def make_layer(self, opened, url):
        async def make(**options):
            return await opened(RedisStreamsChannelLayer([url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, url):
        return lambda: RedisStreamsChannelLayer([url])


class TestHistory(HistoryContract):
    @pytest.fixture
    async def make_layer(self, opened, url):
        async def make(**options):
            return await opened(RedisStreamsChannelLayer([url], **options))

        return make
