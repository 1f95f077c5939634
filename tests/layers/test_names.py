"""Names: allowed characters and lengths, and the parts of a name."""

from __future__ import annotations

import random
import re

import pytest

from fast_channels.exceptions import ChannelLayerError, InvalidName
from fast_channels.layers import BaseChannelLayer, InMemoryChannelLayer, names
from fast_channels.layers.names import MAX_DELIVERY_BATCH


@pytest.mark.parametrize("name", ["a", "A-Z_0.9", "a" * 99, "....", "0"])
@pytest.mark.parametrize("kind", ["channel", "group"])
def test_plain_name_is_allowed(kind, name):
    """Letters, digits, hyphens, underscores and periods make a channel or a group."""
    names.check(kind, name)


@pytest.mark.parametrize("name", ["a!", "a!b", "specific.0a!f-_.", "a!" + "b" * 97])
def test_one_exclamation_mark_is_allowed_in_a_channel_only(name):
    """The mark separates the process from its channel."""
    names.check("channel", name)
    with pytest.raises(InvalidName, match="other characters"):
        names.check("group", name)


@pytest.mark.parametrize(
    "name", ["!", "!a", "a!b!c", "a b", "a\n", "a!b\n", "a/b", "a:b", "ä", "a!ä", "٣", "a!٣", "\0"]
)
@pytest.mark.parametrize("kind", ["channel", "group"])
def test_other_characters_are_refused(kind, name):
    """A line break at the end and digits of other scripts are refused, too."""
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
    """Code that catches TypeError still does, and the parts can be read one by one."""
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
    """One seed gives different names, and all of them are allowed."""
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
    """The inbox is the part up to and including the mark, or a whole plain name."""
    assert names.inbox_of(channel) == inbox
    assert names.is_local(channel) == ("!" in channel)


def test_inbox_of_a_process_contains_all_its_channels():
    """Channels with any prefix belong to their process and to no other."""
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
    """The address is in the inbox of its process."""
    inbox = names.process_inbox("specific", names.unique())
    address = names.group_address(inbox, group)
    assert names.group_of_address(address) == group
    assert names.inbox_of(address) == inbox


@pytest.mark.parametrize(
    "channel", ["plain", "group.room", "specific.abc!", "specific.abc!group", "a!groups.x"]
)
def test_channel_that_only_resembles_a_group_address_is_none(channel):
    """Only the prefix of the local part makes an address."""
    assert names.group_of_address(channel) is None


def test_group_address_never_equals_a_channel():
    """
    The local part of a channel made here has no period, and that of an address begins with one.
    """
    inbox = names.process_inbox("specific", "abc")
    for _ in range(100):
        local = names.unique()
        assert names.group_of_address(inbox + local) is None
        assert names.group_address(inbox, local) != inbox + local


@pytest.fixture
def rules():
    return BaseChannelLayer()


def test_valid_names_are_answered_with_true(rules):
    """Django Channels does the same."""
    assert rules.require_valid_channel_name("a.b!c") is True
    assert rules.require_valid_channel_name("a.b!", receive=True) is True
    assert rules.require_valid_channel_name("plain", receive=True) is True
    assert rules.require_valid_group_name("room") is True


@pytest.mark.parametrize("name", ["two words", "", 5, "a" * 100])
def test_invalid_names_raise_type_error(rules, name):
    """Django Channels does the same."""
    with pytest.raises(TypeError):
        rules.require_valid_channel_name(name)
    with pytest.raises(TypeError):
        rules.require_valid_group_name(name)


def test_receiving_on_the_local_part_is_refused(rules):
    """A process receives on the name up to the exclamation mark."""
    with pytest.raises(InvalidName, match="up to '!'"):
        rules.require_valid_channel_name("a.b!c", receive=True)


@pytest.mark.parametrize(
    ("name", "fits"), [("a", True), ("a" * 99, True), ("a" * 100, False), ("", False), (5, False)]
)
def test_type_and_length_can_be_asked_alone(rules, name, fits):
    """The check does not look at the characters."""
    assert rules.match_type_and_length(name) is fits


def test_non_local_name_ends_with_the_exclamation_mark(rules):
    """A plain name is returned unchanged."""
    assert rules.non_local_name("a.b!c") == "a.b!"
    assert rules.non_local_name("plain") == "plain"


def test_name_limit_and_error_text_are_public(rules):
    """Subclasses of Django Channels' layers read them."""
    assert rules.MAX_NAME_LENGTH == 100
    assert "ASCII" in rules.invalid_name_error.format("Group")
    assert rules.channel_name_regex.match("a!b")
    assert not rules.group_name_regex.match("a!b")


def test_first_matching_pattern_sets_the_capacity():
    """
    Globs and compiled patterns may be mixed; without a match, the layer's own capacity counts.
    """
    rules = BaseChannelLayer(
        channel_capacity={"http.request*": 1, re.compile(r"^ws\.\d+$"): 2, "ws.*": 3}
    )
    assert rules.get_capacity("http.request!x") == 1
    assert rules.get_capacity("ws.5") == 2
    assert rules.get_capacity("ws.five") == 3
    assert rules.get_capacity("other") == 100


def test_glob_matches_the_whole_name():
    """A pattern without a star matches one name."""
    rules = BaseChannelLayer(channel_capacity={"jobs": 1})
    assert rules.get_capacity("jobs") == 1
    assert rules.get_capacity("jobs.slow") == 100


def test_compiled_capacities_keep_their_order():
    """The result has pairs of a pattern and a number."""
    pattern = re.compile("x")
    compiled = BaseChannelLayer().compile_capacities({"a*": 1, pattern: 2})
    assert [capacity for _, capacity in compiled] == [1, 2]
    assert compiled[1][0] is pattern
    assert compiled[0][0].match("abc")


@pytest.mark.parametrize(
    ("capacity", "by_name", "expected"),
    [
        (100, {}, MAX_DELIVERY_BATCH),
        (10, {}, 5),
        (1, {}, 1),
        (100, {"*": 4}, 2),
        (100, {"*": 1}, 1),
    ],
)
def test_turn_is_at_most_half_of_the_smallest_mailbox(capacity, by_name, expected):
    """A reader that empties its mailbox in every turn never overflows."""
    assert names.delivery_batch(capacity, names.compile_capacities(by_name)) == expected


@pytest.mark.parametrize("capacity", [0, -1])
def test_channel_that_could_hold_nothing_is_refused(capacity):
    """The layer raises when it is made, for its own capacity and for one by name."""
    with pytest.raises(ValueError, match="capacity"):
        InMemoryChannelLayer(capacity=capacity)
    with pytest.raises(ValueError, match="capacity"):
        InMemoryChannelLayer(channel_capacity={"jobs": capacity})
