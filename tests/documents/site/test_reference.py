"""The API reference describes all public names and no others."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import typing
import zlib

import pytest
from sphinx.pycode import ModuleAnalyzer

from tests.test_exports import NAMES

# The first test builds the site, which takes a while on a busy machine.
pytestmark = pytest.mark.timeout(240)

# Classes of which the reference describes only the listed members.
PARTLY = {
    # Their methods are those of Addressing, which the reference describes once.
    "fast_channels.layers.addressing.InboxAddressing": set(),
    "fast_channels.layers.addressing.TopicAddressing": set(),
    "fast_channels.layers.mailbox.Mailbox": {
        *("capacity", "closed", "dropped", "get", "name", "overflow"),
    },
    "fast_channels.servers.uvicorn.CoalescingWebSocketProtocol": set(),
    "fast_channels.testing.contract.LayerContract": set(),
    "fast_channels.testing.history_contract.HistoryContract": set(),
    "fast_channels.testing.work_contract.WorkContract": set(),
}

# Methods that a layer overrides for a backend; see docs/backend.md.
FILLED_IN = "fast_channels.layers.base.BaseChannelLayer._"

# Text that a table describes.
LEFT_OUT = {("fast_channels", "__version__")}


@pytest.fixture(scope="module")
def described(site):
    """Return every name that the reference describes, with its kind."""
    with (site.folder / "objects.inv").open("rb") as file:
        for _ in range(4):
            file.readline()
        lines = zlib.decompress(file.read()).decode().splitlines()
    names = {}
    for line in lines:
        name, kind, priority, *_ = line.split(" ")
        # Sphinx gives the priority -1 to names that are only aliases.
        if kind.startswith("py:") and kind != "py:module" and priority != "-1":
            names[name] = kind.removeprefix("py:")
    return names


@pytest.fixture(scope="module")
def places(described):
    """Return the described objects outside of classes, by name."""
    members = ("method", "attribute", "property")
    return {name: found(name) for name, kind in described.items() if kind not in members}


def found(name):
    module, _, short = name.rpartition(".")
    return getattr(importlib.import_module(module), short)


def place_of(name, thing, places):
    """Return the name under which the reference describes an object, or None."""
    short = name.rpartition(".")[2]
    same = [place for place in places if place.rpartition(".")[2] == short]
    return next((place for place in same if places[place] is thing), None)


def exported():
    for module, names in NAMES.items():
        for name in names:
            if (module, name) not in LEFT_OUT:
                yield f"{module}.{name}"


def test_everything_public_is_described(places):
    """The reference describes each name of tests/test_exports.py under one of its modules."""
    assert [name for name in exported() if place_of(name, found(name), places) is None] == []


def test_everything_described_is_public(places):
    """Each name in the reference is in the table, with its module."""
    assert sorted(set(places) - set(exported())) == []


def test_each_name_is_described_once(places):
    """Other modules of an object only link to its description."""
    for name in exported():
        short, thing = name.rpartition(".")[2], found(name)
        same = [place for place in places if place.rpartition(".")[2] == short]
        assert len([place for place in same if places[place] is thing]) == 1, name


def is_ours(thing):
    return thing.__module__.startswith("fast_channels.")


def assigned(cls):
    """Return the public attributes that `__init__` sets, except its arguments."""
    if is_ours(cls) and "__init__" in vars(cls) and not hasattr(cls, "__dataclass_fields__"):
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls.__init__)))
        given = inspect.signature(cls.__init__).parameters
        stored = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        ]
        for node in stored:
            if ast.unparse(node.value) == "self" and node.attr not in given:
                yield node.attr


def public_members(cls):
    """Return the public attributes and methods of a class, except Python's own."""
    for base in cls.__mro__:
        if is_ours(base):
            names = {*vars(base), *inspect.get_annotations(base), *assigned(base)}
            yield from (name for name in names if not name.startswith("_"))


def test_all_members_of_public_classes_are_described(described, places):
    """A member is described in its class or in a base class."""
    missing = []
    for place, thing in places.items():
        if not isinstance(thing, type) or place in PARTLY:
            continue
        bases = [name for name, base in places.items() if base in thing.__mro__]
        missing += [
            f"{place}.{member}"
            for member in sorted(set(public_members(thing)))
            if not any(f"{name}.{member}" in described for name in bases)
        ]
    assert missing == []


@pytest.mark.parametrize("place", PARTLY)
def test_parts_of_classes_are_described_as_listed(place, described):
    """The described members of these classes are those of the table above."""
    names = {name for name in described if name.startswith(f"{place}.")}
    assert names == {f"{place}.{name}" for name in PARTLY[place]}


def test_errors_keep_their_data_under_the_names_of_their_parameters():
    """Attributes of an exception are its arguments, without a trailing underscore."""
    module = importlib.import_module("fast_channels.exceptions")
    for name in NAMES["fast_channels.exceptions"]:
        error = getattr(module, name)
        if "__init__" not in vars(error):
            continue
        parameters = inspect.signature(error).parameters
        made = error(**dict.fromkeys(parameters, "x"))
        assert {parameter.rstrip("_") for parameter in parameters} <= set(vars(made)), name


def owner_of(name, places):
    """Return the class of a member, or the module of anything else."""
    owner = name.rpartition(".")[0]
    try:
        return importlib.import_module(owner)
    except ModuleNotFoundError:
        return places.get(owner) or found(owner)


def attribute_docstrings(owner):
    """Return the names in a module, or in a class and its bases, that have a docstring below."""
    if inspect.ismodule(owner):
        analyzer = ModuleAnalyzer.for_module(owner.__name__)
        analyzer.analyze()
        return {name for group, name in analyzer.attr_docs if not group}
    names = set()
    for base in filter(is_ours, owner.__mro__):
        analyzer = ModuleAnalyzer.for_module(base.__module__)
        analyzer.analyze()
        names |= {name for group, name in analyzer.attr_docs if group == base.__qualname__}
    return names


def test_every_public_attribute_has_a_docstring(described, places):
    """A string below an attribute describes it, so that editors show it; ASGI events have none."""
    silent = []
    for name, kind in described.items():
        if kind in ("attribute", "type"):
            owner = owner_of(name, places)
            if not typing.is_typeddict(owner):
                short = name.rpartition(".")[2]
                if short not in attribute_docstrings(owner):
                    silent.append(name)
    assert silent == []


def test_nothing_public_is_without_a_word(described, places):
    """Every class, function and method has a docstring, except the events of ASGI."""
    silent = []
    for name, kind in described.items():
        if kind not in ("class", "exception", "function", "method", "property"):
            continue
        thing = places.get(name)
        if thing is None:
            owner, _, short = name.rpartition(".")
            thing = getattr(places.get(owner) or found(owner), short)
        if not inspect.getdoc(thing) and not typing.is_typeddict(thing):
            silent.append(name)
    assert silent == []
