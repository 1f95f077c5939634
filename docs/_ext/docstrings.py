"""
Makes Sphinx read docstrings as this repository writes them.

- The comment before an attribute is its description.
- An indented block is code.
- Signatures stay as they are written: `ChannelMessage`, and not the type that it stands for.
- A name that can be imported from several modules is described once, and says so.
"""

from __future__ import annotations

import builtins
import collections.abc
import importlib
import inspect
import re
import typing
from typing import TYPE_CHECKING, Any

import sphinx.pycode.parser
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Packages that name in `__all__` what others define.
PACKAGES = (
    "fast_channels",
    "fast_channels.consumer",
    "fast_channels.layers",
    "fast_channels.layers.redis",
    "fast_channels.middleware",
    "fast_channels.testing",
)

# What an annotation can lead to.
KINDS = ("class", "exception", "data")

# Names in annotations that are of Python, redis, uvicorn and websockets.
FOREIGN = {
    *(name for module in (builtins, typing, collections.abc) for name in dir(module)),
    *("asyncio", "Event", "Future", "Queue", "Task", "deque", "Pattern", "SplitResult"),
    *("ConnectionPool", "Redis", "Config", "ServerState", "ClientConnection"),
    # A type variable: whatever consumer class it is called on.
    "ConsumerT",
}

# Sphinx takes `#: text` only. What is meant for a linter or a type checker is no description.
sphinx.pycode.parser.comment_re = re.compile(
    r"^\s*#(?!:?\s*(?:noqa|type:|pyright|--)):? ?(.*)\r?\n?$"
)

CODE = re.compile(r"^ {4,}\S")


def code_in_blocks(lines: list[str]) -> list[str]:
    """Return the lines with `::` before each indented block."""
    marked: list[str] = []
    within = False
    for number, line in enumerate(lines):
        if CODE.match(line):
            if not within and number and not lines[number - 1].strip():
                marked += ["::", ""]
            within = True
        elif line.strip():
            within = False
        marked.append(line)
    return marked


def places_of(name: str, thing: object) -> list[str]:
    """Return the packages that something can be imported from, but for the one it is named by."""
    module, _, short = name.rpartition(".")
    return [
        package
        for package in PACKAGES
        if package != module
        and short in getattr(importlib.import_module(package), "__all__", ())
        and getattr(importlib.import_module(package), short) is thing
    ]


def docstring_read(
    _app: Sphinx, kind: str, name: str, thing: object, _options: object, lines: list[str]
) -> None:
    lines[:] = code_in_blocks(lines)
    if kind in ("class", "function", "data") and (places := places_of(name, thing)):
        packages = " and ".join(f"`{package}`" for package in places)
        lines += ["", f"Also to be imported from {packages}."]


def signature_read(
    _app: Sphinx,
    kind: str,
    _name: str,
    thing: Any,
    _options: object,
    _arguments: str | None,
    _result: str | None,
) -> tuple[str, str] | None:
    """Return the signature as it is written, without looking up what its names mean."""
    if kind not in ("class", "exception", "function", "method"):
        return None
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    if kind == "method" and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    signature = signature.replace(parameters=parameters)
    if kind in ("class", "exception"):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    arguments, arrow, result = stringify_signature(signature).rpartition(") -> ")
    return (f"{arguments})", result) if arrow else (result, "")


class AnnotationLinks(SphinxPostTransform):
    """
    Links the names in signatures: `Position` leads to `fast_channels.layers.log.Position`.

    What belongs to Python or to a library stays text: its documentation is not here, and
    nothing is fetched. A name that is neither is left to Sphinx, which complains of it.
    """

    # Before Sphinx resolves references, and takes `bytes` for an attribute of that name.
    default_priority = 5

    def run(self, **_: Any) -> None:
        for reference in list(self.document.findall(addnodes.pending_xref)):
            # One that is written as a role, and not made of an annotation, has a `refexplicit`.
            if reference.get("refdomain") == "py" and "refexplicit" not in reference:
                self._resolve(reference)

    def _resolve(self, reference: addnodes.pending_xref) -> None:
        target = reference["reftarget"]
        if (found := self._described(target)) is not None:
            name, entry = found
            page, text = self.env.current_document.docname, reference[0]
            reference.replace_self(
                make_refnode(self.app.builder, page, entry.docname, entry.node_id, text, name)
            )
        elif target.rpartition(".")[2] in FOREIGN:
            reference.replace_self(reference.children)

    def _described(self, target: str) -> tuple[str, Any] | None:
        for name, entry in self.env.domains["py"].objects.items():
            if entry.objtype in KINDS and not entry.aliased and f".{name}".endswith(f".{target}"):
                return name, entry
        return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", docstring_read)
    app.connect("autodoc-process-signature", signature_read)
    app.add_post_transform(AnnotationLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
