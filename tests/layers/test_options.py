"""Options of histories and work are checked when a layer is made."""

from __future__ import annotations

import math

import pytest

from fast_channels.exceptions import InvalidChannelLayerError
from fast_channels.layers.options import HistoryOptions, WorkOptions, checked_seconds


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, 1e10, "5", None, True])
def test_time_that_makes_no_sense_is_refused(value):
    """The sentence has the name, the value and an example."""
    with pytest.raises(InvalidChannelLayerError, match=r"lease is .*above zero, such as 5\.0"):
        checked_seconds("lease", value)


@pytest.mark.parametrize("value", [1, 0.001, 1e9])
def test_time_is_returned_unchanged(value):
    """Whole numbers and fractions are accepted."""
    assert checked_seconds("lease", value) is value


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((0, 1.0, 1.0), "history_size is 0"),
        ((True, 1.0, 1.0), "history_size is True"),
        ((1.5, 1.0, 1.0), "history_size is 1.5"),
        ((1, 0, 1.0), "history_ttl is 0"),
        ((1, 1.0, math.inf), "idempotency_window is inf"),
    ],
)
def test_history_that_makes_no_sense_is_refused(options, sentence):
    """The sentence has the option of the layer, not the name of the field."""
    with pytest.raises(InvalidChannelLayerError, match=sentence):
        HistoryOptions(*options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"visibility_timeout": 0}, "visibility_timeout is 0"),
        ({"max_deliveries": 0}, "max_deliveries is 0"),
        ({"max_deliveries": 1.0}, "max_deliveries is 1.0"),
        ({"retry_backoff": 5}, "retry_backoff is 5"),
        ({"retry_backoff": (2.0, 1.0)}, "retry_backoff is"),
        ({"retry_backoff": (1.0, math.inf)}, "retry_backoff is"),
        ({"retry_backoff": (1.0, 2.0, 3.0)}, "retry_backoff is"),
    ],
)
def test_work_that_makes_no_sense_is_refused(options, sentence):
    """The sentence says which values are accepted."""
    with pytest.raises(InvalidChannelLayerError, match=sentence):
        WorkOptions(**options)


def test_pause_doubles_up_to_its_maximum():
    """A huge number of deliveries does not overflow."""
    options = WorkOptions(retry_backoff=(0.5, 10.0))
    assert [options.pause(n) for n in (1, 2, 3, 10, 10**6)] == [0.5, 1.0, 2.0, 10.0, 10.0]


def test_reason_without_an_acknowledgement_has_the_timeout():
    """A fraction of a second is shown as it is."""
    assert WorkOptions(visibility_timeout=0.5).no_answer.endswith("within 0.5 s")
    assert WorkOptions(visibility_timeout=30).no_answer.endswith("within 30 s")
