"""Every backend of this library keeps the contract."""

from __future__ import annotations

import pytest

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)
from fast_channels.testing.contract import LayerContract


class TestInMemory(LayerContract):
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

    @pytest.fixture
    def make_unopened(self):
        return InMemoryChannelLayer


class TestRedisPubSub(LayerContract):
    keeps_messages = False

    @pytest.fixture
    async def make_layer(self, opened, redis_url):
        async def make(**options):
            return await opened(RedisPubSubChannelLayer(hosts=[redis_url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, redis_url):
        return lambda: RedisPubSubChannelLayer(hosts=[redis_url])


class TestRedisQueue(LayerContract):
    @pytest.fixture
    async def make_layer(self, opened, redis_url):
        async def make(**options):
            return await opened(RedisChannelLayer(hosts=[redis_url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, redis_url):
        return lambda: RedisChannelLayer(hosts=[redis_url])


class TestRedisStreams(LayerContract):
    keeps_members = False

    @pytest.fixture
    async def make_layer(self, opened, redis_url):
        async def make(**options):
            return await opened(RedisStreamsChannelLayer(hosts=[redis_url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, redis_url):
        return lambda: RedisStreamsChannelLayer(hosts=[redis_url])


class TestRedisQueueOnTwoHosts(LayerContract):
    @pytest.fixture
    async def make_layer(self, opened, redis_url, second_valkey):
        hosts = [redis_url, second_valkey.url]

        async def make(**options):
            return await opened(RedisChannelLayer(hosts=hosts, **options))

        yield make
        await (await make()).flush()

    @pytest.fixture
    def make_unopened(self, redis_url, second_valkey):
        return lambda: RedisChannelLayer(hosts=[redis_url, second_valkey.url])


class TestRedisPubSubOnTwoHosts(LayerContract):
    keeps_messages = False

    @pytest.fixture
    async def make_layer(self, opened, redis_url, second_valkey):
        async def make(**options):
            return await opened(
                RedisPubSubChannelLayer(hosts=[redis_url, second_valkey.url], **options)
            )

        return make

    @pytest.fixture
    def make_unopened(self, redis_url, second_valkey):
        return lambda: RedisPubSubChannelLayer(hosts=[redis_url, second_valkey.url])


class TestEncryptedJson(LayerContract):
    """The queue in the configuration that differs most from the others."""

    @pytest.fixture
    def options(self, redis_url):
        return {
            "hosts": [redis_url],
            "serializer_format": "json",
            "symmetric_encryption_keys": ["new", "old"],
        }

    @pytest.fixture
    async def make_layer(self, opened, options):
        async def make(**more):
            return await opened(RedisChannelLayer(**options, **more))

        return make

    @pytest.fixture
    def make_unopened(self, options):
        return lambda: RedisChannelLayer(**options)
