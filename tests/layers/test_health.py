"""The health of a layer is the worst health of its servers."""

from __future__ import annotations

import pytest

from fast_channels.layers.health import Health, combined

READY = Health("ready", 1.0)
LOST = Health("degraded", 2.0, "connection reset")


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (["ready"], "ready"),
        (["ready", "degraded", "connecting"], "degraded"),
        (["ready", "connecting"], "connecting"),
        (["closed", "ready"], "ready"),
    ],
)
def test_worst_state_counts(states, worst):
    """A lost connection is worse than one that was never made."""
    servers = {str(n): Health(state, float(n)) for n, state in enumerate(states)}
    whole = combined(servers)
    assert (whole.state, whole.since) == (worst, float(states.index(worst)))
    assert whole.servers == servers


def test_error_of_the_worst_server_comes_first():
    """The error of another server is shown if the worst one has none."""
    assert combined({"a": READY, "b": LOST}).error == "connection reset"
    recovered = Health("ready", 3.0, "timed out")
    assert combined({"a": Health("connecting", 1.0), "b": recovered}).error == "timed out"
    assert combined({"a": recovered, "b": LOST}).error == "connection reset"
    assert combined({"a": READY}).error is None
