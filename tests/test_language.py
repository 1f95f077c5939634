"""
Keep the prose of the code, the pages and the tests in plain English.

`python -m tests.language FILE` shows the lines of a file that are to be looked at.
"""

from __future__ import annotations

import pytest

from tests import language

# Top-level names that mean the same wherever they are, and so may be in several modules.
COMMON_NAMES = {"SUBPROTOCOL", "T", "__all__", "__getattr__", "logger"}


@pytest.mark.parametrize("kind", language.WORDS)
@pytest.mark.parametrize("area", language.AREAS)
def test_nouns_are_named(area, kind):
    """Prose has few words that stand for a noun, a caller or a client that it does not name."""
    limit, _ = language.WORDS[kind]
    assert language.counted(area).rate(kind) < limit


@pytest.mark.parametrize("area", ["src", "examples", "benchmarks", "tests"])
def test_docstrings_stand_alone(area):
    """A docstring begins with its subject or an imperative, so it makes sense in a hover box."""
    found = [
        f"{path.relative_to(language.ROOT)}:{text.line} {text.owner}: {text.text[:60]}"
        for path in language.files(area)
        for text in language.unfit_docstrings(path)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("area", ["src", "examples", "benchmarks"])
def test_messages_of_errors_are_written_alike(area):
    """They begin in lower case, unless with a name, and end without a full stop."""
    found = [
        f"{path.relative_to(language.ROOT)}:{text.line} {text.text}"
        for path in language.files(area)
        for text in language.unfit_messages(path)
    ]
    assert not found, "\n".join(found)


def test_one_name_has_one_meaning():
    """No two modules of the library define the same name, which a reader would mix up."""
    shared = language.shared_names()
    assert {n: m for n, m in shared.items() if n not in COMMON_NAMES} == {}


@pytest.mark.parametrize(
    ("docstring", "fit"),
    [
        ("Return the layer.", True),
        ("The layer of an alias.", True),
        ("Items that wait.", True),
        ("The same for a group.", False),
        ("It is gone.", False),
        ("Whether the client has left.", False),
        ("Of one channel.", False),
    ],
)
def test_beginnings_are_judged(tmp_path, docstring, fit):
    """By the first word, and not by a word that only begins like it."""
    path = tmp_path / "module.py"
    path.write_text(f'"""{docstring}"""\n')
    assert (language.unfit_docstrings(path) == []) is fit


@pytest.mark.parametrize(
    ("message", "fit"),
    [
        ("capacity is 0; use at least 1", True),
        ("AsyncConsumer() has no layer", True),
        ("Redis does not answer", True),
        ("Capacity is 0", False),
        ("capacity is 0.", False),
    ],
)
def test_messages_are_judged(tmp_path, message, fit):
    """By their first letter and their last."""
    path = tmp_path / "module.py"
    path.write_text(f"raise ValueError({message!r})\n")
    assert (language.unfit_messages(path) == []) is fit


def test_prose_is_counted_without_code_and_directives(tmp_path):
    """Docstrings of modules, classes, functions and attributes, and comments."""
    path = tmp_path / "module.py"
    path.write_text(
        '"""What this is:\n\n    what = code\n\nNext.\n"""\n'
        "import os  # noqa: F401 - whoever reads\n"
        "class A:\n"
        '    """`what` is code."""\n'
        "    a = 1\n"
        '    """Those of the attribute."""\n'
        "# Plain words.\n"
    )
    counted = language.count([path])
    assert counted == (14, {"what": 1, "who": 1, "nobody": 1})
