"""The machine and the versions with which the numbers were measured."""

from __future__ import annotations

import functools
import json
import platform
import re
import subprocess
from pathlib import Path

from fast_channels.testing.server import find_server

from .contenders import ENVIRONMENTS
from .processes import CORES

LIBRARIES = {
    "suite": ("uvicorn", "uvloop", "websockets", "redis", "hiredis", "picows"),
    "peers": (
        "fast-channels",
        "channels",
        "channels-redis",
        "Django",
        "litestar",
        "python-socketio",
        "uvicorn",
        "uvloop",
        "websockets",
        "redis",
        "hiredis",
    ),
}

SCRIPT = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@functools.cache
def describe() -> dict[str, str]:
    """Return processor, system and versions, for the document."""
    described = {
        "processor": f"{processor()}, {len(CORES)} cores",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "server": server_version(),
    }
    for environment, libraries in LIBRARIES.items():
        if found := versions(environment, libraries):
            described[environment] = ", ".join(f"{name} {found[name]}" for name in found)
    return described


def processor() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return names[0] if names else platform.machine()


def server_version() -> str:
    """Return name and version from output such as `Valkey server v=8.1.1 sha=...`."""
    command = [find_server(), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603
    return re.sub(r"^(\w+) server v=(\S+).*$", r"\1 \2", said.strip(), flags=re.DOTALL)


def versions(environment: str, libraries: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of libraries in an environment, or nothing if it does not exist."""
    python = ENVIRONMENTS[environment]
    if not Path(python).exists():
        return {}
    command = [python, "-c", SCRIPT, *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return dict(json.loads(done.stdout))
