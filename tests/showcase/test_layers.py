"""The table of layers."""

from __future__ import annotations

import runpy

import pytest

from fast_channels.layers import (
    InMemoryChannelLayer,
    RedisPubSubChannelLayer,
    RedisStreamsChannelLayer,
    channel_layers,
)
from sandbox import layers
from sandbox.layers import layer_table, setup_layers


@pytest.fixture(autouse=True)
def empty_registry():
    """Put back the layers that other tests have registered."""
    before = {alias: channel_layers[alias] for alias in channel_layers.list_aliases()}
    channel_layers.clear()
    yield
    channel_layers.clear()
    for alias, layer in before.items():
        channel_layers.register(alias, layer)


def test_every_alias_has_the_layer_that_fits_its_purpose():
    """Low latency uses pub/sub; streams are for messages that must not be missed."""
    setup_layers()
    assert {alias: type(channel_layers[alias]) for alias in channel_layers.list_aliases()} == {
        "memory": InMemoryChannelLayer,
        "chat": RedisPubSubChannelLayer,
        "queue": RedisStreamsChannelLayer,
        "notifications": RedisPubSubChannelLayer,
        "analytics": RedisStreamsChannelLayer,
    }


def test_layers_share_a_broker_but_no_prefix():
    """Groups of two layers differ even if they have one name."""
    setup_layers()
    prefixes = [channel_layers[alias].prefix for alias in layer_table() if alias != "memory"]
    assert len(set(prefixes)) == len(prefixes)


def test_setting_up_twice_changes_nothing_that_is_there():
    """A second call adds only new aliases."""
    setup_layers()
    before = {alias: channel_layers[alias] for alias in layer_table()}
    mine = InMemoryChannelLayer()
    setup_layers(extra={"mine": {"layer": mine, "description": "mine"}})
    assert {alias: channel_layers[alias] for alias in layer_table()} == before
    assert channel_layers["mine"] is mine


def test_every_row_says_why_it_is_there():
    """The description is one phrase."""
    for entry in layer_table().values():
        assert entry.keys() == {"layer", "description"}
        assert len(entry["description"].split()) > 3


@pytest.mark.parametrize(
    ("value", "url"),
    [
        (None, "redis://localhost:6399"),
        ("", "redis://localhost:6399"),
        ("redis://elsewhere:1", "redis://elsewhere:1"),
    ],
)
def test_broker_is_the_local_one_unless_the_environment_says_otherwise(monkeypatch, value, url):
    """REDIS_URL decides; an empty value counts as not set."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    if value is not None:
        monkeypatch.setenv("REDIS_URL", value)
    space = runpy.run_path(layers.__file__)
    assert space["redis_url"] == url
    host = url.removeprefix("redis://")
    assert host in str(space["layer_table"]()["chat"]["layer"])
