"""The templates become the showcase, step by step."""

from __future__ import annotations

import sys

import pytest

from sandbox.tutorial import __main__ as command
from sandbox.tutorial import steps
from sandbox.tutorial.steps import FINISHED, Template, all_steps, templates

PARTS = (1, 2, 3, 4, 5)


@pytest.mark.parametrize("template", templates(), ids=lambda template: str(template.path))
def test_solving_every_step_makes_the_finished_file(template):
    """Each template has one solution, and it is the file of the showcase."""
    assert template.steps
    assert template.solved(PARTS[-1]) == (FINISHED / template.path).read_text()


@pytest.mark.parametrize("part", [0, *PARTS])
def test_files_are_valid_python_after_every_part(part):
    """Unsolved steps are comments at places where Python allows one."""
    for template in templates():
        if template.path.suffix == ".py":
            compile(template.solved(part), str(template.path), "exec")


def test_steps_of_each_part_are_counted_from_one():
    """No number is missing or used twice."""
    found = {part: [] for part in PARTS}
    for step in all_steps().values():
        found[step.part].append(int(step.number.partition(".")[2]))
    for part, numbers in found.items():
        assert numbers == list(range(1, len(numbers) + 1)), part


class TestBadTemplate:
    """Each difference between templates and finished files is an error with a sentence."""

    @pytest.fixture
    def template(self, tmp_path, monkeypatch):
        def make(template, finished):
            for folder, text in (("templates", template), ("finished", finished)):
                (tmp_path / folder).mkdir()
                (tmp_path / folder / "app.py").write_text(text)
            monkeypatch.setattr(steps, "TEMPLATES", tmp_path / "templates")
            monkeypatch.setattr(steps, "FINISHED", tmp_path / "finished")
            return Template(steps.Path("app.py"))

        return make

    @pytest.mark.parametrize(
        ("before", "after", "complaint"),
        [
            ("a\n# TODO 1.1: b\nc\n", "a\nb\nd\n", "lacks the lines from 'c'"),
            ("a\n# TODO 1.1: b\nc\n", "a\nc\n", "nothing in the finished file solves '# TODO 1.1"),
            ("a\nc\n", "a\nb\nc\n", "lacks the lines from 'a'"),
            ("c\n# TODO 1.1: b\n", "a\nc\nb\n", "no TODO stands for 'a'"),
            ("# TODO 1.1: a\n# TODO 1.2: b\n", "a\nb\nc\n", "3 lines solve 2 TODOs"),
            (
                "# TODO 1.1: uncomment a\n# a\n",
                "b\n",
                "'# TODO 1.1: uncomment a.*' is not the code of the finished file",
            ),
        ],
    )
    def test_is_told(self, template, before, after, complaint):
        with pytest.raises(steps.BadTemplate, match=complaint):
            _ = template(before, after).steps

    def test_code_that_is_to_be_uncommented_may_follow_other_steps(self, template):
        """The lines of each TODO are its own, however many there are."""
        made = template(
            "# TODO 1.1: a\n# TODO 1.2: uncomment b\n# b(\n#     1,\n# )\n"
            "    # TODO 1.3: uncomment c\n    # c\n",
            "a\nb(\n    1,\n)\n    c\n",
        )
        assert [step.code for step in made.steps] == ["a", "b(\n    1,\n)", "    c"]
        assert made.solved(0) == "\n".join(made.lines) + "\n"
        assert made.solved(1) == "a\nb(\n    1,\n)\n    c\n"

    def test_number_that_two_steps_have_is_told(self, template):
        template("# TODO 1.1: a\nx\n# TODO 1.1: b\n", "a\nx\nb\n")
        with pytest.raises(steps.BadTemplate, match=r"TODO 1\.1 is also in app\.py"):
            all_steps()


class TestCommand:
    """The command `python -m sandbox.tutorial`."""

    def run(self, monkeypatch, *arguments):
        monkeypatch.setattr(sys, "argv", ["tutorial", *map(str, arguments)])
        return command.main()

    def test_folder_begins_unsolved_and_can_be_brought_to_any_part(self, tmp_path, monkeypatch):
        """A reader who got lost continues from there."""
        folder = tmp_path / "tutorial"
        main = folder / "sandbox" / "main.py"
        assert self.run(monkeypatch, folder) == 0
        assert "# TODO 1.1" in main.read_text()
        assert not (folder / "sandbox" / "tutorial").exists()
        assert (folder / "clients" / "js" / "fast-channels.js").exists()
        assert self.run(monkeypatch, folder, "--solve", 2) == 0
        assert "# TODO 2" not in main.read_text()
        assert "# TODO 3" in main.read_text()

    def test_folder_that_is_there_is_left_alone(self, tmp_path, monkeypatch, capsys):
        """The command overwrites no file."""
        folder = tmp_path / "tutorial"
        assert self.run(monkeypatch, folder) == 0
        (folder / "sandbox" / "main.py").write_text("mine")
        assert self.run(monkeypatch, folder) == 1
        assert (folder / "sandbox" / "main.py").read_text() == "mine"
        assert capsys.readouterr().err.startswith("tutorial: File exists: ")
