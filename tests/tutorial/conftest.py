"""The tutorial as readers have it: their folder, a real broker, real workers, a real server."""

from __future__ import annotations

import importlib.util

import pytest
import pytest_asyncio

from sandbox.tutorial.steps import Template, all_steps
from tests.showcase.support import launched_browser
from tests.tutorial.support import Stage


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """
    `stage(3)` is the running application after part 3, made when a test first asks for it.

    Tests share it, so they must not change its files; tests that do use `fresh_stage`.
    """
    stages = {}

    def get(part):
        if part not in stages:
            stages[part] = Stage(tmp_path_factory.mktemp(f"part-{part}"), part)
            stages[part].__enter__()
        return stages[part]

    yield get
    for running in stages.values():
        running.__exit__()


@pytest.fixture
def fresh_stage(tmp_path_factory):
    """A stage of one test alone, for changing files, or for a later start with `running=False`."""
    stages = []

    def make(part, *, running=True):
        made = Stage(tmp_path_factory.mktemp(f"fresh-{part}"), part, running=running)
        stages.append(made.__enter__())
        return made

    yield make
    for made in stages:
        made.__exit__()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser():
    async with launched_browser() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(browser):
    """Open tabs on a server; fail the test if a page reports an error."""
    complaints = []
    # Narrow enough to make panels as wide as pictures may be; finer than one pixel.
    window = await browser.new_context(
        viewport={"width": 660, "height": 900}, device_scale_factor=1.5
    )

    async def open_one(url):
        page = await window.new_page()
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(url)
        return page

    yield open_one
    await window.close()
    assert complaints == []


@pytest.fixture
def load(tmp_path):
    """Import a module as it is after a part, with one change."""

    def load_one(path, part, wrong, right):
        text = Template(path).solved(part)
        assert text.count(right) == 1
        (tmp_path / "mistaken.py").write_text(text.replace(right, wrong))
        spec = importlib.util.spec_from_file_location("mistaken", tmp_path / "mistaken.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load_one


@pytest.fixture
def without(load):
    """Import the module of a reader after skipping a step."""

    def load_one(number):
        step = all_steps()[number]
        return load(step.path, step.part, step.todo, step.code)

    return load_one
