"""Every backend of this library with acknowledged work keeps the work contract."""

from __future__ import annotations

import pytest

from fast_channels.layers import InMemoryChannelLayer, RedisStreamsChannelLayer
from fast_channels.testing.work_contract import WorkContract


class TestInMemory(WorkContract):
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


class TestRedisStreams(WorkContract):
    @pytest.fixture
    async def make_layer(self, opened, redis_url):
        async def make(**options):
            return await opened(RedisStreamsChannelLayer(hosts=[redis_url], **options))

        return make


class TestRedisStreamsOnTwoHosts(WorkContract):
    """Encrypted as well."""

    @pytest.fixture
    async def make_layer(self, opened, redis_url, second_valkey):
        options = {
            "hosts": [redis_url, second_valkey.url],
            "serializer_format": "json",
            "symmetric_encryption_keys": ["new", "old"],
        }

        async def make(**more):
            return await opened(RedisStreamsChannelLayer(**options, **more))

        yield make
        await (await make()).flush()
