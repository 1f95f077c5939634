"""Import the examples of documents as modules."""

from __future__ import annotations

import importlib
import sys

import pytest

from fast_channels.layers import channel_layers
from tests.documents.support import ROOT


@pytest.fixture
def load_example(registry, monkeypatch):
    """Import a file of docs/examples with its folder on the path; remove the modules afterwards."""
    before = set(sys.modules)
    times = channel_layers.drain_timeout, channel_layers.drain_spread
    folders = set()

    def load(name, **environment):
        folder, _, module = name.rpartition("/")
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        folders.add(str(ROOT / "docs" / "examples" / folder))
        monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples" / folder))
        return importlib.import_module(module)

    yield load
    channel_layers.drain_timeout, channel_layers.drain_spread = times
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if any(file.startswith(folder) for folder in folders):
            del sys.modules[name]
