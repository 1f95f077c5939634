"""The rights in docs/redis-acl.md, and errors without one of them. See test_secured.py, too."""

from __future__ import annotations

import asyncio
import re

import pytest
import redis

from fast_channels.exceptions import BrokerRefused
from tests.chaos.servers import ACL_DOCUMENT, documented_rule, of_documented_user
from tests.chaos.support import RECOVERY, works


def table():
    """Return the rights in the document's table, each with its layer."""
    rows = re.findall(r"^\| (`[A-Z].*?) \| (.+?) \|", ACL_DOCUMENT.read_text(), re.MULTILINE)
    for names, layer in rows:
        for name in re.findall(r"`([^`]+)`", names):
            yield "+" + name.lower().replace(" ", "|"), layer


def test_table_of_the_document_explains_the_commands_of_its_rule():
    """The table has each command of the rule, and no other."""
    allowed = [rule for rule in documented_rule().split() if rule.startswith("+")]
    assert sorted(right for right, _ in table()) == sorted(allowed)


@pytest.fixture
def restricted(server):
    """Make a user of the document without some of its rights; give its address."""

    def restrict(*rights):
        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*documented_rule().split())
            client.execute_command("ACL", "SETUSER", "app", *rights)
        return of_documented_user(server.url)

    return restrict


@pytest.mark.parametrize(
    ("kind", "named", "more"),
    [("pubsub", "pub/sub", ["resetkeys"]), ("queue", "queue", []), ("streams", "streams", [])],
)
async def test_rows_of_one_layer_are_enough_for_it(
    server, restricted, make_layer, kind, named, more
):
    """The pub/sub layer touches no keys."""
    rights = [right for right, layer in table() if layer == "all" or named in layer.split(", ")]
    layer = await make_layer(kind, [restricted("-@all", *rights, *more)])
    assert await works(layer)
    if kind != "pubsub":
        await takes_from_shared_channels(layer)
    left = await layer.open_channel()
    await layer.group_add("left", left.name)
    await layer.close_channel(left.name)
    with redis.Redis.from_url(server.url) as client:
        assert client.execute_command("ACL", "LOG") == []


async def takes_from_shared_channels(layer):
    """Receive from two channels, each of which is empty at first."""
    for channel in ("jobs", "mails"):
        receiving = asyncio.create_task(layer.receive(channel))
        await asyncio.sleep(0.1)
        await layer.send(channel, {"type": "test"})
        async with asyncio.timeout(RECOVERY):
            assert await receiving == {"type": "test"}


async def test_without_the_right_to_list_keys_only_flush_is_refused(restricted, make_layer):
    """An error points at the rules, as the document says."""
    layer = await make_layer("queue", [restricted("-keys")])
    assert await works(layer)
    with pytest.raises(BrokerRefused, match=r"keys.*access rules"):
        await layer.flush()


async def join(layer):
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)


async def send(layer):
    await layer.send("somebody-else", {"type": "test"})


async def group_send(layer):
    await layer.group_send("room", {"type": "test"})


@pytest.mark.parametrize(
    ("kind", "without", "use"),
    [
        ("pubsub", "-subscribe", join),
        ("pubsub", "-publish", send),
        ("pubsub", "resetchannels", join),
        ("queue", "-zadd", join),
        ("queue", "resetkeys", join),
        ("queue", "-evalsha", send),
        ("streams", "-subscribe", join),
        ("streams", "-hmget", join),
        ("streams", "-xadd", group_send),
        ("streams", "resetchannels", group_send),
    ],
)
async def test_missing_right_is_an_error_where_it_is_needed(
    restricted, make_layer, kind, without, use
):
    """The error names the access rules, and no call waits in vain."""
    layer = await make_layer(kind, [restricted(without)])
    with pytest.raises(BrokerRefused, match="access rules"):
        await use(layer)
