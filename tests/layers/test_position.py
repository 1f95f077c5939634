"""Positions travel as text and come back unchanged."""

from __future__ import annotations

import pytest

from fast_channels.exceptions import InvalidPosition
from fast_channels.layers.position import Position, PositionedMessage, new_epoch, new_tag


@pytest.mark.parametrize("offset", [0, 1, 10**18 - 1])
def test_text_of_a_position_is_parsed(offset):
    """The text of any position can be parsed."""
    position = Position(new_epoch(), offset, new_tag())
    assert Position.parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "0123456789abcdef-1",
        "0123456789ABCDEF-1-1",
        "0123456789abcde-1-1",
        "0123456789abcdef-1-1\n",
        "0123456789abcdef--1-1",
        f"0123456789abcdef-{10**18}-1",
        "0123456789abcdef-\N{ARABIC-INDIC DIGIT ONE}-1",
        None,
        7,
        b"0123456789abcdef-1-1",
    ],
)
def test_other_values_are_refused(text):
    """The error keeps the value, which may come from a client."""
    with pytest.raises(InvalidPosition) as caught:
        Position.parse(text)
    assert caught.value.value == text


def test_epochs_and_tags_differ():
    """A tag is never 0, which stands for the position before the first message."""
    assert len({new_epoch() for _ in range(1000)}) == 1000
    tags = [new_tag() for _ in range(1000)]
    assert min(tags) > 0
    assert len(set(tags)) > 990


def test_positioned_message_is_a_message_with_a_position():
    """Handlers see an ordinary dict."""
    position = Position(new_epoch(), 1, 1)
    message = PositionedMessage({"type": "test"}, "room", position)
    assert message == {"type": "test"}
    assert (message.topic, message.position) == ("room", position)
