"""Check the direction of imports and keep waiting out of the hot path."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import fast_channels

PACKAGE = Path(fast_channels.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# From the inside out. A module imports modules of its own rank and of lower ranks, without cycles.
# An entry stands for a module and for the modules below it. CONTRIBUTING.md shows the same ranks.
RANKS = [
    {"exceptions", "type_defs", "utils"},
    {
        *("layers.addressing", "layers.broker", "layers.codecs", "layers.health"),
        *("layers.mailbox", "layers.names", "layers.options", "layers.position"),
        *("layers.statistics", "layers.waiters", "layers.work"),
    },
    {"layers.hub", "layers.membership", "layers.session", "layers.loops"},
    {"layers.base", "layers.registry", "drain", "lifespan"},
    {
        *("layers.in_memory", "layers.memory_log", "layers.memory_work", "layers.redis"),
        *("layers.sync", "consumer", "middleware", "servers"),
    },
    {"", "__main__", "cli", "client", "layers", "routing", "testing", "worker"},
]
RANK = {module: rank for rank, modules in enumerate(RANKS) for module in modules}

# Libraries that not everybody has, and the only place that may import them.
OPTIONAL = {
    "redis": "layers.redis",
    "hiredis": "layers.redis",
    "cryptography": "layers.redis",
    "pytest": ("testing.contract", "testing.history_contract", "testing.work_contract"),
    "uvicorn": "servers.uvicorn",
    "websockets": ("servers.uvicorn", "client"),
}
REQUIRED = {"msgspec"}


def dotted(path):
    """The name of a module without the name of the library: "" for the library itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name):
    path = PACKAGE.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def only_for_types(node):
    """Return whether a statement is `if TYPE_CHECKING:`; its imports happen only in checkers."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(path, *, at_run_time=False):
    """Every module that a file imports, under its full name."""
    package = ["fast_channels", *path.relative_to(PACKAGE).parts[:-1]]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if at_run_time:
        tree.body = [node for node in tree.body if not only_for_types(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            inside = module.removeprefix("fast_channels").removeprefix(".")
            for alias in node.names:
                # `from . import names` imports the module, not its package.
                name = f"{inside}.{alias.name}".removeprefix(".")
                ours = module.split(".")[0] == "fast_channels"
                yield f"fast_channels.{name}" if ours and is_module(name) else module


def own(path, *, at_run_time=False):
    """The modules of the library among the imports of a file, without its name."""
    for name in imported(path, at_run_time=at_run_time):
        if name.split(".")[0] == "fast_channels":
            yield name.removeprefix("fast_channels").removeprefix(".")


def rank(module):
    """The rank of a module, or of the closest package that has one."""
    while module not in RANK:
        assert "." in module, f"{module} has no rank; give it one in RANKS"
        module = module.rpartition(".")[0]
    return RANK[module]


@pytest.mark.parametrize("path", FILES, ids=lambda path: dotted(path) or "fast_channels")
def test_imports_point_inward(path):
    """A module imports from its own rank and from lower ranks."""
    here = dotted(path)
    for module in own(path):
        assert rank(module) <= rank(here), f"{here} must not import {module}"


def test_imports_form_no_cycle():
    """Modules of one rank are in an order, too; imports for annotations do not count."""
    graph = {dotted(path): set(own(path, at_run_time=True)) for path in FILES}
    order = tuple(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == set(graph)


def test_backends_never_import_consumers_and_consumers_never_a_backend():
    """They meet in the layer, and nowhere else."""
    backends = ("layers.in_memory", "layers.redis", "layers.sync")
    consumers = ("consumer", "middleware")
    for path in FILES:
        for module in own(path):
            if dotted(path).startswith(backends):
                assert not module.startswith(consumers)
            if dotted(path).startswith(consumers):
                assert not module.startswith(backends)


def test_every_module_has_a_rank():
    """A new file in the layers room is given one on purpose, not by its package."""
    for path in FILES:
        module = dotted(path)
        if module.startswith("layers.") and not module.startswith("layers.redis"):
            assert module in RANK


@pytest.mark.parametrize("path", FILES, ids=lambda path: dotted(path) or "fast_channels")
def test_libraries_of_others_are_imported_in_their_place(path):
    """Each optional one in a single room, and no undeclared one at all."""
    for name in imported(path):
        library = name.split(".")[0]
        if library in OPTIONAL:
            assert dotted(path).startswith(OPTIONAL[library])
        else:
            assert library in {"fast_channels", *REQUIRED, *sys.stdlib_module_names}


def test_optional_libraries_are_imported_when_they_are_needed():
    """Importing the library, its consumers and communicators needs none, and starts no thread."""
    script = """
import sys, threading
import fast_channels, fast_channels.layers.sync, fast_channels.middleware, fast_channels.testing
import fast_channels.servers, fast_channels.testing.server
optional = {"redis", "hiredis", "cryptography", "pytest", "asgiref", "starlette", "uvicorn"}
print(*(optional & set(sys.modules)))
print(threading.active_count())
"""
    assert run(script) == ["", "1"]


@pytest.mark.parametrize(
    "statement",
    [
        "from fast_channels.layers import RedisChannelLayer",
        "from fast_channels.layers import RedisPubSubChannelLayer",
        "import fast_channels.layers.redis",
    ],
)
@pytest.mark.parametrize("library", ["redis", "hiredis"])
def test_missing_redis_names_the_extra(statement, library):
    """In the error of the import that needs it."""
    script = f"""
import sys
sys.modules["{library}"] = None
from fast_channels.exceptions import MissingExtra
try:
    {statement}
except MissingExtra as exc:
    print(exc)
"""
    expected = "a Redis channel layer needs an extra: pip install 'fast-channels[redis]'"
    assert run(script) == [expected]


# Test files of modules that have no test file of their own name, from tests/ on.
COVERED_BY = {
    "layers.broker": "contract/test_contract.py",
    "layers.session": "layers/test_base.py",
    "layers.statistics": "layers/test_hub.py",
    "layers.redis._inbox": "layers/redis/test_batches.py",
    "layers.redis._keys": "layers/redis/test_core.py",
    "layers.redis._log": "layers/redis/test_streams.py",
    "layers.redis._options": "layers/redis/test_leases.py",
    "layers.redis._scripts": "layers/redis/test_client.py",
    "layers.redis.type_defs": "layers/redis/test_hosts.py",
    "layers.redis.utils": "layers/redis/test_hosts.py",
    "consumer.handlers": "consumer/test_base.py",
    "consumer.runner": "consumer/test_base.py",
    "consumer.ws_state": "consumer/test_websocket.py",
    "consumer.resume.progress": "consumer/test_resume.py",
    "consumer.resume.protocol": "consumer/test_resume.py",
    "consumer.resume.resume": "consumer/test_resume.py",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: dotted(path) or "fast_channels")
def test_every_module_of_layers_and_consumers_has_tests(path):
    """The test file has the module's name, or the table names it."""
    module = dotted(path)
    if path.name == "__init__.py" or not module.startswith(("layers.", "consumer.")):
        return
    folder, _, name = module.rpartition(".")
    named = f"{folder.replace('.', '/')}/test_{name.removeprefix('_')}.py"
    assert (TESTS / COVERED_BY.get(module, named)).exists(), f"no test file covers {module}"


def test_table_of_covering_files_has_no_other_modules():
    """A module that was removed, or that got its own test file, leaves the table."""
    named = {dotted(path): path.stem.removeprefix("_") for path in FILES}
    assert set(COVERED_BY) <= set(named)
    for module, name in named.items():
        folder = module.rpartition(".")[0].replace(".", "/")
        own_file = TESTS / folder / f"test_{name}.py"
        assert module not in COVERED_BY or not own_file.exists(), f"{own_file} covers {module}"


def test_hot_path_does_not_wait():
    """From a payload to the mailboxes there is no await, so nothing can come between."""
    tree = ast.parse((PACKAGE / "layers" / "hub.py").read_text(encoding="utf-8"))
    waiting = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    assert not [node for node in ast.walk(tree) if isinstance(node, waiting)]


def test_broker_interface_is_narrow():
    """Five methods: what a backend has to fill in."""
    tree = ast.parse((PACKAGE / "layers" / "broker.py").read_text(encoding="utf-8"))
    (broker,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Broker")
    methods = [node.name for node in broker.body if isinstance(node, ast.AsyncFunctionDef)]
    assert methods == ["start", "stop", "publish", "subscribe", "unsubscribe"]


def run(script):
    """Return the lines that a script prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.splitlines()
