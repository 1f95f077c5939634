"""The table of settings agrees with the code, and the examples are valid."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re

import pytest
from redis.asyncio import Redis

from fast_channels.exceptions import BrokerRefused
from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
)
from fast_channels.testing.server import ValkeyServer, free_port
from tests.documents.support import ROOT, block_with

GUIDE = ROOT / "docs" / "layers.md"

CLASSES = {
    "memory": InMemoryChannelLayer,
    "pub/sub": RedisPubSubChannelLayer,
    "queue": RedisChannelLayer,
    "streams": RedisStreamsChannelLayer,
}
REDIS = ["pub/sub", "queue", "streams"]

# Settings that the page omits: a layer in memory may have a codec of its own.
OTHER = {("memory", "codec")}


def rows():
    """Yield every pair of a layer and a setting in the table, with its default."""
    _, _, section = GUIDE.read_text().partition("\n## Settings\n")
    for line in section.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`") and cells[1]:
            layers = {"all": list(CLASSES), "redis": REDIS}.get(cells[1]) or cells[1].split(", ")
            for name in re.findall(r"`(\w+)`", cells[0]):
                for layer in layers:
                    yield layer, name, ast.literal_eval(cells[2].strip("`"))


def settings():
    """Yield every pair of a layer and a setting in the code, with its default."""
    for layer, class_ in CLASSES.items():
        for name, parameter in inspect.signature(class_).parameters.items():
            yield layer, name, parameter.default


def test_table_has_every_setting_with_its_default():
    """The table and the code have equal settings with equal defaults."""
    shown = {(layer, name): default for layer, name, default in rows()}
    known = {(layer, name): default for layer, name, default in settings()}
    assert shown.keys() == known.keys() - OTHER
    assert {key: known[key] for key in shown} == shown


def test_hosts_of_the_page_are_ones():
    """Each way to name a server is accepted; the keywords are checked without a connection."""
    space: dict = {}
    exec(block_with(GUIDE, "unix://"), space)
    layers = {k: v for k, v in space.items() if isinstance(v, RedisPubSubChannelLayer)}
    assert len(layers) == 7
    assert str(layers["one"]) == "RedisPubSubChannelLayer(hosts=['redis://10.0.0.5:6379/0'])"
    assert "rediss" in str(layers["keywords"])


async def test_layers_of_the_page_do_not_share_groups(registry, redis_url):
    """Different prefixes separate the groups of layers on one server."""
    block = block_with(GUIDE, "history_ttl=1_800")
    exec(block.replace("redis://localhost:6379", redis_url), {})
    assert {registry[alias].prefix for alias in registry.list_aliases()} == {
        *("presence", "rooms", "jobs"),
    }
    async with registry["presence"] as presence, registry["rooms"] as rooms:
        here, there = await presence.open_channel(), await rooms.open_channel()
        await presence.group_add("lobby", here.name)
        await rooms.group_add("lobby", there.name)
        await presence.group_send("lobby", {"type": "typing"})
        await rooms.group_send("lobby", {"type": "said"})
        assert (await here.get())["type"] == "typing"
        assert (await there.get())["type"] == "said"
        assert len(here) == len(there) == 0


@pytest.mark.parametrize(("name", "expected"), [("pub/sub", 2), ("queue", 3), ("streams", 3)])
async def test_connections_of_a_layer_are_as_many_as_the_page_says(name, expected, redis_url):
    """Channels, groups and shared names all use the same connections."""
    client_name = f"counted-{name.replace('/', '')}"
    address = f"{redis_url}?client_name={client_name}"

    async def connections():
        return sum(client["name"] == client_name for client in await redis.client_list())

    async with Redis.from_url(redis_url) as redis, CLASSES[name](hosts=[address]) as layer:
        for _ in range(5):
            mailbox = await layer.open_channel()
            await layer.group_add("room", mailbox.name)
        await layer.group_send("room", {"type": "said"})
        assert (await mailbox.get())["type"] == "said"
        if name != "pub/sub":  # Pub/sub has no shared names.
            for job in ("jobs", "mails"):
                await layer.send(job, {"type": "first"})
                assert (await layer.receive(job))["type"] == "first"
                # With a receiver that waits, whatever it needs is there.
                receiving = asyncio.create_task(layer.receive(job))
                await asyncio.sleep(0.1)
                await layer.send(job, {"type": "second"})
                assert (await receiving)["type"] == "second"
        assert await connections() == expected


async def test_queue_is_refused_by_a_cluster():
    """The error has the words of the page."""
    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    sentence = "Keys in request don't hash to the same slot"
    assert sentence in GUIDE.read_text().replace("\n", " ")
    with ValkeyServer(options=options) as server:
        async with Redis.from_url(server.url) as redis:
            await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        async with RedisChannelLayer(hosts=[server.url]) as layer:
            with pytest.raises(BrokerRefused, match=sentence):
                await layer.group_send("room", {"type": "said"})


def test_error_says_what_to_write_instead():
    """An invalid entry is an error where the layer is made."""
    with pytest.raises(ValueError, match="begins with redis://, rediss:// or unix://"):
        RedisPubSubChannelLayer(hosts=["localhost:6379"])
