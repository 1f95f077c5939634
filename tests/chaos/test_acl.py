"""The user that docs/redis-acl.md describes can do everything, and nothing it does is refused."""

from __future__ import annotations

import contextlib
import re

import pytest
import redis

from fast_channels.exceptions import BrokerRefused
from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.testing.contract import LayerContract
from fast_channels.testing.server import ValkeyServer
from tests.chaos.servers import ACL_DOCUMENT, documented_rule
from tests.conftest import empty


def documented_user(server):
    """Return the address of a server for the user of the document."""
    _, _, name, *rules = documented_rule().split()
    (password,) = [rule.removeprefix(">") for rule in rules if rule.startswith(">")]
    return f"redis://{name}:{password}@127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def guarded():
    """A server that knows the user of the document."""
    with ValkeyServer() as server, redis.Redis.from_url(server.url) as client:
        client.execute_command(*documented_rule().split())
        yield server


@pytest.fixture
def url(guarded):
    """Its address for that user; fails afterwards if anything was refused."""
    empty(guarded)
    with redis.Redis.from_url(guarded.url) as client:
        client.acl_log_reset()
        yield documented_user(guarded)
        assert client.acl_log() == []


@pytest.fixture
async def opened():
    """Opens layers and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack.enter_async_context


class TestPubSubWithAccessRules(LayerContract):
    keeps_messages = False

    @pytest.fixture
    async def make_layer(self, opened, url):
        async def make(**options):
            return await opened(RedisPubSubChannelLayer([url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, url):
        return lambda: RedisPubSubChannelLayer([url])


class TestQueueWithAccessRules(LayerContract):
    @pytest.fixture
    async def make_layer(self, opened, url):
        async def make(**options):
            return await opened(RedisChannelLayer([url], **options))

        return make

    @pytest.fixture
    def make_unopened(self, url):
        return lambda: RedisChannelLayer([url])


def test_table_of_the_document_explains_the_commands_of_its_rule():
    """Each of them, and no other."""
    allowed = {rule[1:] for rule in documented_rule().split() if rule.startswith("+")}
    rows = re.findall(r"^\| (`[A-Z].*?) \|", ACL_DOCUMENT.read_text(), re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {name.lower().replace(" ", "|") for name in explained} == allowed


@pytest.fixture
def restricted(server):
    """Makes a user of the document without some of its rights; gives its address."""

    def restrict(*rights):
        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*documented_rule().split())
            client.execute_command("ACL", "SETUSER", "app", *rights)
        return documented_user(server)

    return restrict


async def test_without_the_right_to_list_keys_only_flush_is_refused(restricted, make_layer):
    """As the document says, with an error that points at the rules."""
    layer = await make_layer("queue", [restricted("-keys")])
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await layer.group_send("room", {"type": "test"})
    assert await inbox.get() == {"type": "test"}
    with pytest.raises(BrokerRefused, match=r"keys.*access rules"):
        await layer.flush()


async def join(layer):
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)


async def send(layer):
    await layer.send("somebody-else", {"type": "test"})


@pytest.mark.parametrize(
    ("kind", "without", "use"),
    [
        ("pubsub", "-subscribe", join),
        ("pubsub", "-publish", send),
        ("pubsub", "resetchannels", join),
        ("queue", "-zadd", join),
        ("queue", "resetkeys", join),
        ("queue", "-evalsha", send),
    ],
)
async def test_missing_right_is_an_error_where_it_is_needed(
    restricted, make_layer, kind, without, use
):
    """It names the access rules; nobody waits in vain."""
    layer = await make_layer(kind, [restricted(without)])
    with pytest.raises(BrokerRefused, match="access rules"):
        await use(layer)
