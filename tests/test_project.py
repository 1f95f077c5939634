"""Files that describe the project to other tools agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import fast_channels

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINS = [ROOT / "constraints.txt", *sorted((ROOT / "requirements").glob("*.txt"))]


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def test_every_version_of_python_that_is_named_is_tested():
    """CI runs each version of the classifiers: the oldest with all checks, the rest with tests."""
    classifiers = re.findall(r"Python :: (3\.\d+)", "\n".join(project()["classifiers"]))
    jobs = workflow("ci.yml")["jobs"]
    (oldest,) = (
        step["with"]["python-version"]
        for step in jobs["all"]["steps"]
        if "with" in step
        if "python-version" in step["with"]
    )
    assert [oldest, *jobs["test"]["strategy"]["matrix"]["python"]] == classifiers
    assert project()["requires-python"] == f">={oldest}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_few_permissions_and_pinned_actions(path):
    """A workflow may read the repository; an action is named by the hash of a commit."""
    assert workflow(path.name)["permissions"] == {"contents": "read"}
    for action in re.findall(r"uses: (.*)", path.read_text()):
        assert action.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action)


def test_only_the_job_that_publishes_may_prove_its_identity():
    """The package index trusts the identity of the workflow, so no step before it has one."""
    jobs = workflow("release.yml")["jobs"]
    assert {name: job.get("permissions") for name, job in jobs.items()} == {
        "check": None,
        "build": None,
        "publish": {"id-token": "write"},
    }
    assert jobs["publish"]["needs"] == ["check", "build"]


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.name)
def test_pinned_versions_name_no_address(path):
    """Packages are names with versions; each installation chooses its package index."""
    for line in path.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+(\[\w+\])?(==[\w.]+)?", line), line


def test_hooks_before_a_commit_are_local_commands():
    """Every hook is a make target of this repository, so nothing is downloaded for it."""
    makefile = (ROOT / "Makefile").read_text()
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        command, target = hook["entry"].split()
        assert (command, hook["language"]) == ("make", "system")
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_newest_entry_of_the_changelog_is_this_version():
    """A release needs an entry with its version."""
    headings = re.findall(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == fast_channels.__version__


@pytest.mark.parametrize("name", ["Makefile", ".ci/run"])
def test_scripts_that_commands_run_exist(name):
    """A script that was renamed is renamed where it is run, too."""
    scripts = re.findall(
        r"(?<![\w./])(?:\.ci|sandbox|docs|tests)/[\w./]+\.(?:py|c)\b", (ROOT / name).read_text()
    )
    assert scripts
    assert [script for script in scripts if not (ROOT / script).exists()] == []
