"""Every backend of this library with a history keeps the history contract."""

from __future__ import annotations

import pytest

from fast_channels.layers import InMemoryChannelLayer, RedisStreamsChannelLayer
from fast_channels.testing.history_contract import HistoryContract


class TestInMemory(HistoryContract):
    @pytest.fixture
    async def make_layer(self, opened):
        made = {}

        async def make(**options):
            # All tests run in one process, so they share one layer.
            key = repr(sorted(options.items()))
            if key not in made:
                made[key] = await opened(InMemoryChannelLayer(**options))
            return made[key]

        return make


class TestRedisStreams(HistoryContract):
    @pytest.fixture
    async def make_layer(self, opened, redis_url):
        async def make(**options):
            return await opened(RedisStreamsChannelLayer(hosts=[redis_url], **options))

        return make


class TestRedisStreamsOnTwoHosts(HistoryContract):
    @pytest.fixture
    async def make_layer(self, opened, redis_url, second_valkey):
        hosts = [redis_url, second_valkey.url]

        async def make(**options):
            return await opened(RedisStreamsChannelLayer(hosts=hosts, **options))

        yield make
        await (await make()).flush()


class TestEncryptedJson(HistoryContract):
    @pytest.fixture
    async def make_layer(self, opened, redis_url):
        async def make(**options):
            options |= {"serializer_format": "json", "symmetric_encryption_keys": ["key"]}
            return await opened(RedisStreamsChannelLayer(hosts=[redis_url], **options))

        return make
