"""The Valkey server that tests start, and the ports that they use."""

from __future__ import annotations

import pytest

from fast_channels.exceptions import ServerDidNotStart
from fast_channels.testing.server import ValkeyServer, answers, free_port


def test_free_ports_differ():
    """What was given away is not given again, although nobody listens there yet."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(answers(port) for port in ports)


def test_port_on_which_somebody_listens_is_not_free(valkey):
    """However often one is asked for."""
    assert valkey.port not in [free_port() for _ in range(50)]


def test_server_of_somebody_else_is_not_taken_for_ours(valkey):
    """Two would share it otherwise, and one empties it for the other."""
    with pytest.raises(ServerDidNotStart, match="another server answers there already"):
        ValkeyServer(valkey.port).start()
    assert answers(valkey.port)


def test_server_that_ends_says_why():
    """In its own words."""
    with pytest.raises(ServerDidNotStart, match="Bad directive"):
        ValkeyServer(options=("--no-such-option", "yes")).start()
