"""
Adapt Sphinx to the docstrings of this repository.

- An indented block is code.
- Signatures stay as they are written: `ChannelMessage`, and not the type behind this alias.
- A name that several modules export is described once, with the other modules.
"""

from __future__ import annotations

import ast
import builtins
import collections.abc
import importlib
import inspect
import re
import typing
from typing import TYPE_CHECKING, Any

from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.pycode import ModuleAnalyzer
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

# Packages whose `__all__` has names from other modules.
PACKAGES = (
    "fast_channels",
    "fast_channels.consumer",
    "fast_channels.layers",
    "fast_channels.layers.redis",
    "fast_channels.middleware",
    "fast_channels.testing",
)

# Kinds of objects that an annotation can name.
KINDS = ("class", "exception", "data", "type")

# Names in annotations that belong to Python, redis, uvicorn and websockets.
FOREIGN = {
    *(name for module in (builtins, typing, collections.abc) for name in dir(module)),
    *("AbstractAsyncContextManager", "asyncio", "Event", "Future", "Queue", "Task"),
    *("deque", "Pattern", "SplitResult"),
    *("ConnectionPool", "Redis", "Config", "ServerState", "ClientConnection"),
    # A type variable for the class of a consumer, and a mapping or pairs of bytes.
    *("ConsumerT", "Headers"),
}

# Beginnings of docstrings that Python makes.
OF_PYTHON = ("Alias for field number", "Call self as a function")

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
    """Return the packages that also export an object, besides the module in its name."""
    module, _, short = name.rpartition(".")
    return [
        package
        for package in PACKAGES
        if package != module
        and short in getattr(importlib.import_module(package), "__all__", ())
        and getattr(importlib.import_module(package), short) is thing
    ]


class AliasDirective(SphinxDirective):
    """
    Describe a type alias with its docstring and its value as it is written.

    Sphinx's own directive writes out the names in the value, which is long.
    """

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module, _, short = self.arguments[0].rpartition(".")
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        self.env.note_dependency(analyzer.srcname)
        (value,) = (
            ast.unparse(node.value)
            for node in ast.parse(analyzer.code).body
            if isinstance(node, ast.AnnAssign | ast.Assign) and node.value is not None
            if short in map(ast.unparse, getattr(node, "targets", [getattr(node, "target", None)]))
        )
        lines = [f".. py:type:: {short}", f"   :module: {module}"]
        lines += [f"   :canonical: {value}", ""]
        lines += [f"   {line}" for line in analyzer.attr_docs["", short]]
        content = StringList(lines, analyzer.srcname)
        return self.parse_text_to_nodes(content)


def docstring_read(
    _app: Sphinx, kind: str, name: str, thing: object, _options: object, lines: list[str]
) -> None:
    lines[:] = code_in_blocks(lines)
    if lines and lines[0].startswith(OF_PYTHON):
        # Python made this docstring.
        lines.clear()
    if kind in ("class", "function", "data") and (places := places_of(name, thing)):
        packages = " and ".join(f"`{package}`" for package in places)
        lines += ["", f"Also importable from {packages}."]


def without_factory(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter with a readable default, even if a dataclass calls a factory for it."""
    made = repr(parameter.default) == "<factory>"
    return parameter.replace(default=...) if made else parameter


def signature_read(
    _app: Sphinx,
    kind: str,
    _name: str,
    thing: Any,
    _options: object,
    _arguments: str | None,
    _result: str | None,
) -> tuple[str, str] | None:
    """Return the signature as it is written, with its names unresolved."""
    if kind not in ("class", "exception", "function", "method"):
        return None
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    if getattr(thing, "_is_protocol", False):
        # A protocol is not called.
        return ("", "")
    parameters = [without_factory(each) for each in signature.parameters.values()]
    if kind == "method" and parameters and parameters[0].name in ("self", "cls"):
        parameters = parameters[1:]
    signature = signature.replace(parameters=parameters)
    if kind in ("class", "exception"):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    arguments, arrow, result = stringify_signature(signature).rpartition(") -> ")
    return (f"{arguments})", result) if arrow else (result, "")


class AnnotationLinks(SphinxPostTransform):
    """
    Link the names in signatures: `Position` leads to `fast_channels.layers.position.Position`.

    Names of Python and of libraries stay text, because their documentation is not on this site,
    and nothing is fetched. Sphinx warns about all other names.
    """

    # Run before Sphinx resolves references and mistakes `bytes` for an attribute of that name.
    default_priority = 5

    def run(self, **_: Any) -> None:
        for reference in list(self.document.findall(addnodes.pending_xref)):
            # A reference that is written as a role, unlike one in an annotation, has `refexplicit`.
            if reference.get("refdomain") == "py" and "refexplicit" not in reference:
                self._resolve(reference)

    def _resolve(self, reference: addnodes.pending_xref) -> None:
        target, page = reference["reftarget"], self.env.current_document.docname
        if (found := self._described(target, page)) is not None:
            name, entry = found
            text = reference[0]
            reference.replace_self(
                make_refnode(self.app.builder, page, entry.docname, entry.node_id, text, name)
            )
        elif target.rpartition(".")[2] in FOREIGN:
            reference.replace_self(reference.children)

    def _described(self, target: str, page: str) -> tuple[str, Any] | None:
        """Return the description of a name, from this page if there are several."""
        found = [
            (name, entry)
            for name, entry in self.env.domains["py"].objects.items()
            if entry.objtype in KINDS and not entry.aliased and f".{name}".endswith(f".{target}")
        ]
        here = [(name, entry) for name, entry in found if entry.docname == page]
        return next(iter(here or found), None)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", docstring_read)
    app.connect("autodoc-process-signature", signature_read)
    app.add_directive("alias", AliasDirective)
    app.add_post_transform(AnnotationLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
