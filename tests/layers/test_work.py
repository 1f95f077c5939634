"""Values of acknowledged work."""

from __future__ import annotations

from fast_channels.layers.work import MAX_REASON_LENGTH, Work, reason_of


class Silent(Exception):
    """An error without a text."""

    def __str__(self):
        raise RuntimeError


def test_reason_has_the_type_and_the_text_of_an_error():
    """An error whose own str() raises has a reason, too."""
    assert reason_of(ValueError("no such file")) == "ValueError: no such file"
    assert reason_of(Silent()) == "Silent: (without a text: its own str() raises)"


def test_reason_is_shortened():
    """The limit holds for errors and for rejections."""
    work = Work("jobs", {"type": "test"}, 1)
    work.reject("x" * 1000)
    for reason in (work.rejection, reason_of(ValueError("x" * 1000))):
        assert len(reason) == MAX_REASON_LENGTH
        assert reason.endswith("x...")


def test_short_reason_is_kept():
    """A reason of exactly the limit is not shortened."""
    work = Work("jobs", {"type": "test"}, 1)
    assert work.rejection is None
    work.reject("x" * MAX_REASON_LENGTH)
    assert work.rejection == "x" * MAX_REASON_LENGTH
