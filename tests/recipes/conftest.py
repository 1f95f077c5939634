"""The applications of docs/recipes, each served as its page says."""

from __future__ import annotations

import contextlib
import sys

import pytest

from tests.recipes.support import EXAMPLES, Server, command_of, load


@pytest.fixture
def at_home(registry, redis_url, monkeypatch):
    """
    Load a module of an example as if this process had been started in its folder.

    Its layers are registered in an empty registry, and find an empty server.
    """
    monkeypatch.setenv("REDIS_URL", redis_url)
    before = set(sys.modules)

    def load_one(folder, name):
        monkeypatch.syspath_prepend(folder)
        return load(folder, name)

    yield load_one
    for name in set(sys.modules) - before:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
async def serve(at_home):
    """Serve the application of a page with the command on the page."""
    async with contextlib.AsyncExitStack() as stack:

        async def serve_one(page):
            folder, module, application = command_of(page)
            return await stack.enter_async_context(Server(at_home(folder, module), application))

        yield serve_one


@pytest.fixture
def load_recipe(at_home):
    """Load the module of a page without serving it."""

    def load_one(page):
        folder, module, _ = command_of(page)
        return at_home(folder, module)

    return load_one
