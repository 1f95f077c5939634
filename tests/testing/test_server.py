"""The Valkey server for tests, and the ports that tests use."""

from __future__ import annotations

import pytest

from fast_channels.exceptions import ServerDidNotStart
from fast_channels.testing.server import ValkeyServer, answers, free_port


def test_free_ports_differ():
    """A port is given out once, even if no server listens on it yet."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert not any(answers(port) for port in ports)


def test_port_on_which_somebody_listens_is_not_free(valkey):
    """A port in use is never given out, however often a test asks."""
    assert valkey.port not in [free_port() for _ in range(50)]


def test_server_of_somebody_else_is_not_taken_for_ours(valkey):
    """Two tests would share it otherwise, and one would empty it for the other."""
    with pytest.raises(ServerDidNotStart, match="another server answers there already"):
        ValkeyServer(valkey.port).start()
    assert answers(valkey.port)


def test_server_that_ends_says_why():
    """The error has the server's own words."""
    with pytest.raises(ServerDidNotStart, match="Bad directive"):
        ValkeyServer(options=("--no-such-option", "yes")).start()
