"""What may be a name, and what its parts mean."""

from __future__ import annotations

import random

import pytest

from fast_channels.exceptions import ChannelLayerError, InvalidName
from fast_channels.layers import names


@pytest.mark.parametrize("name", ["a", "A-Z_0.9", "a" * 99, "....", "0"])
@pytest.mark.parametrize("kind", ["channel", "group"])
def test_plain_name_is_allowed(kind, name):
    """Letters, digits, hyphens, underscores and periods make a channel or a group."""
    names.check(kind, name)


@pytest.mark.parametrize("name", ["a!", "a!b", "specific.0a!f-_.", "a!" + "b" * 97])
def test_one_exclamation_mark_is_allowed_in_a_channel_only(name):
    """It separates the process from the channel in it."""
    names.check("channel", name)
    with pytest.raises(InvalidName, match="other characters"):
        names.check("group", name)


@pytest.mark.parametrize(
    "name", ["!", "!a", "a!b!c", "a b", "a\n", "a!b\n", "a/b", "a:b", "ä", "a!ä", "٣", "a!٣", "\0"]
)
@pytest.mark.parametrize("kind", ["channel", "group"])
def test_other_characters_are_refused(kind, name):
    """Also a line break at the end, and digits of other scripts."""
    with pytest.raises(InvalidName, match="other characters"):
        names.check(kind, name)


@pytest.mark.parametrize("name", ["", "a" * 100, "a" * 150])
@pytest.mark.parametrize("kind", ["channel", "group"])
def test_length_beyond_the_limits_is_refused(kind, name):
    """The error says how long the name is."""
    with pytest.raises(InvalidName, match=f"it has {len(name)} characters"):
        names.check(kind, name)


@pytest.mark.parametrize("name", [None, 5, b"bytes", ["list"], object()])
def test_name_of_another_type_is_refused(name):
    """The error shows the value and its type."""
    with pytest.raises(InvalidName) as caught:
        names.check("group", name)
    assert repr(name) in str(caught.value)
    assert type(name).__name__ in str(caught.value)


def test_invalid_name_is_a_type_error_with_its_data():
    """Code that caught TypeError still does; the parts can be read one by one."""
    with pytest.raises(TypeError) as caught:
        names.check("group", "two words")
    error = caught.value
    assert isinstance(error, ChannelLayerError)
    assert (error.kind, error.name) == ("group", "two words")
    assert str(error) == (
        "group name 'two words' is not allowed, it has other characters: use 1 to 99 ASCII "
        "letters, digits, hyphens, underscores or periods"
    )


def test_unique_names_do_not_depend_on_the_random_module():
    """The same seed gives different names, each of which is allowed."""
    made = set()
    for _ in range(100):
        random.seed(0)
        made.add(names.unique())
    assert len(made) == 100
    for name in made:
        names.check("channel", name)


@pytest.mark.parametrize(
    ("channel", "inbox"),
    [
        ("specific.abc!def", "specific.abc!"),
        ("specific.abc!", "specific.abc!"),
        ("a!b", "a!"),
        ("plain", "plain"),
        ("plain.with.periods", "plain.with.periods"),
    ],
)
def test_name_is_split_after_the_exclamation_mark(channel, inbox):
    """The inbox is the part up to and including it, or a plain name as it is."""
    assert names.inbox_of(channel) == inbox
    assert names.is_local(channel) == ("!" in channel)


def test_inbox_of_a_process_contains_all_its_channels():
    """Whatever their prefix, they belong to it and to no other process."""
    for prefix in ("specific", "custom", "a.b"):
        inbox = names.process_inbox(prefix, "0a1b")
        assert names.belongs_to(inbox, "0a1b")
        assert names.belongs_to(f"{inbox}local", "0a1b")
        assert not names.belongs_to(f"{inbox}local", "1b")
        assert not names.belongs_to(f"{inbox}local", "0a1")
    assert not names.belongs_to("plain", "0a1b")
    assert not names.belongs_to("specific.0a1b", "0a1b")


@pytest.mark.parametrize("group", ["room", "group.room", "a" * 99, ".", "0"])
def test_group_address_gives_back_its_group(group):
    """It lies in the inbox of its process."""
    inbox = names.process_inbox("specific", names.unique())
    address = names.group_address(inbox, group)
    assert names.group_of_address(address) == group
    assert names.inbox_of(address) == inbox


@pytest.mark.parametrize(
    "channel", ["plain", "group.room", "specific.abc!", "specific.abc!group", "a!groups.x"]
)
def test_channel_that_only_resembles_a_group_address_is_none(channel):
    """Only the prefix of the local part makes one."""
    assert names.group_of_address(channel) is None


def test_group_address_never_equals_a_channel():
    """The local part of a channel made here has no period, that of an address begins with one."""
    inbox = names.process_inbox("specific", "abc")
    for _ in range(100):
        local = names.unique()
        assert names.group_of_address(inbox + local) is None
        assert names.group_address(inbox, local) != inbox + local
