"""The pages and the steps fit together, and so do the commands of index.md and 1-preparation.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.tutorial import __main__ as command
from sandbox.tutorial.steps import all_steps, prepare
from tests.documents.support import all_blocks, block_with
from tests.tutorial.support import PAGES, PARTS, console, page, recipe

INDEX = PAGES / "index.md"
PREPARATION = PAGES / "1-preparation.md"


@pytest.mark.parametrize("part", PARTS)
def test_page_has_the_steps_of_its_part_each_once_and_in_order(part):
    """Each step has its file above its code. docs/listings.py keeps the code equal to the file."""
    lead_and_mark = re.compile(
        r"^Step (\S+), in `(\S+)`:\n\n<!-- from step (\S+) -->$", re.MULTILINE
    )
    shown = lead_and_mark.findall(page(part).read_text())
    steps = [step for step in all_steps().values() if step.part == part]
    assert shown == [(step.number, f"sandbox/{step.path}", step.number) for step in steps]


def test_example_of_a_step_is_one():
    """The index shows the first TODO as it is in its file."""
    assert all_steps()["1.1"].todo == block_with(INDEX, "TODO").strip()


def test_command_for_lost_readers_solves_a_part(tmp_path, monkeypatch):
    """The command runs in the folder of the repository, and changes the folder of make tutorial."""
    python, dash_m, module, folder, *options = console(INDEX, ".venv/bin/python")
    assert (python, dash_m, module) == (".venv/bin/python", "-m", "sandbox.tutorial")
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path / folder)
    monkeypatch.setattr(sys, "argv", [module, folder, *options])
    assert command.main() == 0
    main = (tmp_path / folder / "sandbox" / "main.py").read_text()
    assert "TODO 2." not in main
    assert "TODO 3." in main


def test_folder_of_the_tutorial_is_made_by_make():
    """Make knows the target, and runs the module that makes the folder."""
    assert "-m sandbox.tutorial tutorial\n" in recipe(PREPARATION)


def test_environment_has_the_programs_that_pages_name(tmp_path):
    """The activated environment has every program of every page, except make and curl."""
    prepare(tmp_path / "tutorial")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    programs = {
        line.split()[0]
        for part in PARTS
        for block in all_blocks(page(part))
        if block.language == "console"
        for line in block.text.splitlines()
        if line and not line.startswith((" ", "source ", "cd ", "make", "curl"))
    }
    assert "uvicorn" in programs
    script = block_with(PREPARATION, "activate", "console") + (
        f"type -P {' '.join(programs)}; python -c 'import sandbox; print(sandbox.__file__)'"
    )
    done = subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *found, package = done.stdout.splitlines()
    assert len(found) == len(programs)
    bin_folder = Path(sys.prefix, "bin").resolve()
    assert {Path(path).parent.resolve() for path in found} == {bin_folder}
    assert package == str(tmp_path / "tutorial" / "sandbox" / "__init__.py")
