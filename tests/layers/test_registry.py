"""The registry of layers by alias."""

from __future__ import annotations

import pytest

from fast_channels.exceptions import (
    ChannelLayerError,
    InvalidChannelLayerError,
    UnknownLayer,
)
from fast_channels.layers import (
    BaseChannelLayer,
    ChannelLayerRegistry,
    InMemoryChannelLayer,
    channel_layers,
    get_channel_layer,
    has_layers,
    register_channel_layer,
    unregister_channel_layer,
)
from tests.layers.support import RecordingLayer


@pytest.fixture
def own():
    """A registry that is not the one of the process."""
    return ChannelLayerRegistry()


@pytest.fixture
def layer():
    return InMemoryChannelLayer()


# -- the table -----------------------------------------------------------------


def test_registered_layer_is_found_under_its_alias(own, layer):
    """Each method finds it."""
    own.register("chat", layer)
    assert own.get("chat") is layer
    assert own["chat"] is layer
    assert own.require("chat") is layer
    assert "chat" in own
    assert own.list_aliases() == ["chat"]
    assert len(own) == 1


def test_alias_that_is_not_there_is_none_or_key_error(own, layer):
    """get() returns None, [] raises an error that lists the known ones."""
    own.register("chat", layer)
    own.register("queue", layer)
    assert own.get("other") is None
    assert own.get() is None
    assert "other" not in own
    with pytest.raises(KeyError) as caught:
        own["other"]
    assert isinstance(caught.value, UnknownLayer)
    assert str(caught.value) == (
        "no channel layer is called 'other'; registered: 'chat', 'queue'; "
        "call register_channel_layer('other', ...) before the application starts"
    )


def test_error_of_an_empty_registry_says_so(own):
    """The error also names the consumer that asked for the layer."""
    with pytest.raises(UnknownLayer) as caught:
        own.require("default", "ChatConsumer")
    assert str(caught.value).startswith("ChatConsumer: no channel layer is called 'default'")
    assert "registered: none" in str(caught.value)
    assert (caught.value.alias, caught.value.known) == ("default", ())
    assert isinstance(caught.value, ChannelLayerError)


def test_registering_again_replaces(own, layer):
    """The alias keeps its place."""
    other = InMemoryChannelLayer()
    own.register("a", layer)
    own.register("b", layer)
    own.register("a", other)
    assert own["a"] is other
    assert own.list_aliases() == ["a", "b"]


def test_unregistering_forgets_one_alias(own, layer):
    """Unregistering an unknown alias has no effect."""
    own.register("a", layer)
    own.register("b", layer)
    own.unregister("a")
    own.unregister("a")
    assert own.list_aliases() == ["b"]


def test_clear_forgets_all(own, layer):
    """No alias is left."""
    own.register("a", layer)
    own.clear()
    assert len(own) == 0
    assert own.list_aliases() == []


def test_default_is_an_alias_like_any_other(own, layer):
    """get() without an argument returns the layer called "default"."""
    own.register("default", layer)
    assert own.get() is layer


def test_class_of_a_layer_is_refused_with_the_call_that_makes_one(own):
    """The error suggests an instance of the class instead of a new subclass."""
    with pytest.raises(
        InvalidChannelLayerError, match=r"make one, with InMemoryChannelLayer\(\.\.\.\)"
    ):
        own.register("chat", InMemoryChannelLayer)


@pytest.mark.parametrize("wrong", [None, "redis://localhost", dict, InMemoryChannelLayer, 5])
def test_something_else_than_a_layer_is_refused(own, wrong):
    """The error shows the value; a class is not a layer either."""
    with pytest.raises(InvalidChannelLayerError) as caught:
        own.register("chat", wrong)
    assert isinstance(caught.value, ValueError)
    assert repr(wrong) in str(caught.value)
    assert "'chat'" in str(caught.value)
    assert len(own) == 0


def test_layer_of_ones_own_may_be_registered(own):
    """Any subclass of BaseChannelLayer can be registered."""
    own.register("mine", RecordingLayer())
    assert isinstance(own["mine"], BaseChannelLayer)


def test_functions_work_on_the_registry_of_the_process(registry, layer):
    """Consumers look up their layers in this registry."""
    assert registry is channel_layers
    assert not has_layers()
    assert get_channel_layer() is None
    register_channel_layer("default", layer)
    assert has_layers()
    assert get_channel_layer() is get_channel_layer("default") is layer
    assert get_channel_layer("other") is None
    unregister_channel_layer("default")
    unregister_channel_layer("default")
    assert not has_layers()
