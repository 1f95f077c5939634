"""docs/recipes/index.md, and rules for all pages next to it."""

from __future__ import annotations

import ast
import re
import sys

import pytest

from tests.recipes.support import EXAMPLES, PAGES, command_of

INDEX = (PAGES / "index.md").read_text()
RECIPES = sorted(page.stem for page in PAGES.glob("*.md") if page.stem != "index")

# Packages that are installed under another name than they are imported by, or with another one.
INSTALLED_AS = {
    "fast_channels": "fast-channels",
    "jwt": "pyjwt",
    "msgspec": "fast-channels",
    "redis": "fast-channels",
    "starlette": "fastapi",
}


def imported():
    """Return the top-level names of the modules that the examples import."""
    for path in EXAMPLES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield node.module.partition(".")[0]
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


def test_what_the_recipes_import_is_installed_as_the_index_says():
    """The one command has all packages, and no others."""
    (line,) = re.findall(r"^pip install (.*)$", INDEX, re.MULTILINE)
    said = {re.sub(r"\[.*?\]", "", word.strip("'")) for word in line.split()}
    own = {path.stem for path in EXAMPLES.rglob("*.py")}
    foreign = set(imported()) - own - sys.stdlib_module_names
    assert {INSTALLED_AS.get(name, name) for name in foreign} | {"uvicorn"} == said


def test_every_recipe_is_in_the_index():
    """The table and the contents of the site have them in the same order."""
    linked = re.findall(r"^\| \[[^]]+\]\((\S+)\.md\)", INDEX, re.MULTILINE)
    assert sorted(linked) == RECIPES
    (contents,) = re.findall(r"^<!-- toctree\n(.*?)^-->", INDEX, re.DOTALL | re.MULTILINE)
    assert contents.split() == linked


@pytest.mark.parametrize("page", RECIPES)
def test_every_recipe_can_be_started(page):
    """Each page has one command, and its folder has that module."""
    folder, module, _ = command_of(page)
    assert (folder / f"{module}.py").exists()


@pytest.mark.parametrize("page", RECIPES)
def test_every_recipe_says_what_can_go_wrong(page):
    """Every page ends with notes and a table of symptoms."""
    text = (PAGES / f"{page}.md").read_text()
    assert "\n## Notes\n" in text
    assert "\n## Troubleshooting\n" in text


def test_every_example_is_shown():
    """Each file of an example is shown as a whole on a page."""
    pages = "".join((PAGES / f"{page}.md").read_text() for page in RECIPES)
    shown = set(re.findall(r"<!-- from docs/examples/recipes/(\S+) -->", pages))
    files = {
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.rglob("*.*")
        if path.is_file() and not {"node_modules", "__pycache__"} & set(path.parts)
    }
    assert files - shown == {"clients/package.json"}
