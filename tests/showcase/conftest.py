"""The showcase as users run it: a real broker, a real worker, a real server."""

from __future__ import annotations

import pytest

from fast_channels.testing.server import ValkeyServer
from tests.showcase.support import AnalyticsWorker, WebServer, Worker


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    return tmp_path_factory.mktemp("showcase")


@pytest.fixture(scope="session")
def broker():
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def worker(broker, logs):
    with Worker(logs / "worker.log", broker.url) as running:
        yield running


@pytest.fixture(scope="session")
def analytics_worker(broker, logs):
    with AnalyticsWorker(logs / "analytics.log", broker.url) as running:
        yield running


@pytest.fixture(scope="session")
def showcase(broker, analytics_worker, logs):
    with WebServer(logs / "server.log", broker.url) as server:
        yield server


@pytest.fixture
def calm(showcase):
    """Fail a test during which the server printed a traceback or an error."""
    before = len(showcase.output)
    yield
    printed = showcase.output[before:]
    assert "Traceback" not in printed, printed
    assert "ERROR" not in printed, printed
