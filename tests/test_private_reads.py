"""Keep tests away from private attributes, so that the code behind them can be rewritten."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Reads of private attributes that each folder may have. Lower a number when you remove some;
# `fast_channels.testing.inspect` and `layer.statistics()` answer most questions of a test.
ALLOWED = {
    "layers/redis": 35,
    "consumer": 2,
    "layers": 12,
    "clients": 1,
    "servers": 1,
}

# Public names with an underscore: the ones of named tuples, and os._exit.
PUBLIC = {"_asdict", "_exit", "_field_defaults", "_fields", "_make", "_replace"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_reads(source):
    """Yield the private names that a test uses of objects other than its own `self` and `cls`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not own:
                yield node.attr
        elif isinstance(node, ast.Call) and named(node.func) in ("setattr", "getattr", "delattr"):
            strings = (arg.value for arg in node.args if isinstance(arg, ast.Constant))
            yield from (name for name in strings if isinstance(name, str) and is_private(name))


def named(function):
    """Return the last part of the name of a called function."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def counted():
    found = Counter()
    for path in TESTS.rglob("*.py"):
        folder = path.parent.relative_to(TESTS).as_posix()
        found[folder] += sum(1 for _ in private_reads(path.read_text(encoding="utf-8")))
    return found


def test_private_reads_only_become_fewer():
    """No folder has more than its number in the table."""
    assert {f: n for f, n in counted().items() if n > ALLOWED.get(f, 0)} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("layer._hub.mailboxes", ["_hub"]),
        ("self._own = cls._too", []),
        ("monkeypatch.setattr(layer, '_broker', None)", ["_broker"]),
        ("position._replace(offset=1)", []),
        ("client.__class__", []),
    ],
)
def test_private_reads_are_found(source, expected):
    """Through a dot, and through `setattr` and its like."""
    assert list(private_reads(source)) == expected
