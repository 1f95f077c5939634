"""The questions about names and capacities that Django Channels' layers answer."""

from __future__ import annotations

import re

import pytest

from fast_channels.exceptions import InvalidName
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.rules import MOST_PER_TURN, NameRules


@pytest.fixture
def rules():
    return NameRules(100, None)


def test_valid_names_are_answered_with_true(rules):
    """As in Django Channels."""
    assert rules.require_valid_channel_name("a.b!c") is True
    assert rules.require_valid_channel_name("a.b!", receive=True) is True
    assert rules.require_valid_channel_name("plain", receive=True) is True
    assert rules.require_valid_group_name("room") is True


@pytest.mark.parametrize("name", ["two words", "", 5, "a" * 100])
def test_invalid_names_raise_type_error(rules, name):
    """As in Django Channels."""
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
    """Characters are not looked at."""
    assert rules.match_type_and_length(name) is fits


def test_non_local_name_ends_with_the_exclamation_mark(rules):
    """A plain name is one already."""
    assert rules.non_local_name("a.b!c") == "a.b!"
    assert rules.non_local_name("plain") == "plain"


def test_name_limit_and_error_text_are_public(rules):
    """Subclasses of Django Channels' layers read them."""
    assert rules.MAX_NAME_LENGTH == 100
    assert "ASCII" in rules.invalid_name_error.format("Group")
    assert rules.channel_name_regex.match("a!b")
    assert not rules.group_name_regex.match("a!b")


def test_first_matching_pattern_sets_the_capacity():
    """Globs and compiled patterns may be mixed; where none matches the layer's own counts."""
    rules = NameRules(100, {"http.request*": 1, re.compile(r"^ws\.\d+$"): 2, "ws.*": 3})
    assert rules.get_capacity("http.request!x") == 1
    assert rules.get_capacity("ws.5") == 2
    assert rules.get_capacity("ws.five") == 3
    assert rules.get_capacity("other") == 100


def test_glob_matches_the_whole_name():
    """A pattern without a star is a name."""
    rules = NameRules(100, {"jobs": 1})
    assert rules.get_capacity("jobs") == 1
    assert rules.get_capacity("jobs.slow") == 100


def test_compiled_capacities_keep_their_order():
    """They are pairs of a pattern and a number."""
    pattern = re.compile("x")
    compiled = NameRules(100, None).compile_capacities({"a*": 1, pattern: 2})
    assert [capacity for _, capacity in compiled] == [1, 2]
    assert compiled[1][0] is pattern
    assert compiled[0][0].match("abc")


@pytest.mark.parametrize(
    ("capacity", "by_name", "expected"),
    [(100, {}, MOST_PER_TURN), (10, {}, 5), (1, {}, 1), (100, {"*": 4}, 2), (100, {"*": 1}, 1)],
)
def test_turn_is_at_most_half_of_the_smallest_mailbox(capacity, by_name, expected):
    """A reader that is emptied at every turn never overflows."""
    assert NameRules(capacity, by_name)._turn() == expected


@pytest.mark.parametrize("capacity", [0, -1])
def test_channel_that_could_hold_nothing_is_refused(capacity):
    """The layer says so when it is made, for its own capacity and for one by name."""
    with pytest.raises(ValueError, match="capacity"):
        InMemoryChannelLayer(capacity=capacity)
    with pytest.raises(ValueError, match="capacity"):
        InMemoryChannelLayer(channel_capacity={"jobs": capacity})
