"""The folder of a reader after a part of the tutorial, with its running programs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import traceback
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Self

import pytest
from starlette.routing import Router

from fast_channels.exceptions import ChannelLayerError
from fast_channels.testing.server import ValkeyServer, free_port
from sandbox.tutorial.steps import TEMPLATES, prepare, solve
from tests.documents.support import blocks
from tests.showcase.support import ROOT, AnalyticsWorker, WebServer, Worker

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Locator, Page

PAGES = ROOT / "docs" / "tutorial"
SOLUTIONS = TEMPLATES / "solutions"

PARTS = (1, 2, 3, 4, 5)

# The first parts with a broker, the RQ worker, and the analytics worker.
BROKER_SINCE, WORKER_SINCE, ANALYTICS_SINCE = 3, 4, 5

# Limits of a picture in a page: pixels and bytes.
LARGEST_WIDTH, LARGEST_PICTURE = 1_000, 150_000

# The variable also names the folder for the picture of the whole showcase.
PICTURES_WANTED = bool(os.environ.get("SHOWCASE_SCREENSHOT"))


class Stage:
    """
    A reader who has done the first parts and started their programs.

    `server` is uvicorn on its own port; `broker`, `worker` and `analytics_worker` are None in
    parts without them.
    """

    def __init__(self, folder: Path, part: int, *, running: bool = True) -> None:
        self.part = part
        self.folder = folder / "tutorial"
        prepare(self.folder)
        solve(self.folder, part)
        self.logs = folder
        self.running = running
        self.broker: ValkeyServer | None = None
        self.worker: Worker | None = None
        self.analytics_worker: AnalyticsWorker | None = None
        # Without a broker, an address where no server listens.
        self.redis_url = f"redis://127.0.0.1:{free_port()}"
        self._processes = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as processes:
            if self.part >= BROKER_SINCE:
                self.broker = processes.enter_context(ValkeyServer())
                self.redis_url = self.broker.url
            if self.part >= WORKER_SINCE:
                worker = Worker(self.logs / "worker.log", self.redis_url, self.folder)
                self.worker = processes.enter_context(worker)
            if self.part >= ANALYTICS_SINCE:
                log = self.logs / "analytics.log"
                analytics_worker = AnalyticsWorker(log, self.redis_url, self.folder)
                self.analytics_worker = processes.enter_context(analytics_worker)
            self.server = self.web_server()
            if self.running:
                processes.enter_context(self.server)
            self._processes = processes.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._processes.close()

    @property
    def url(self) -> str:
        return self.server.url

    def web_server(self, *options: str, app: str = "sandbox.main:app") -> WebServer:
        """Make one more uvicorn in this folder, without starting it."""
        log = self.logs / f"server-{len(list(self.logs.glob('server-*')))}.log"
        log.touch()
        return WebServer(log, self.redis_url, app, *options, folder=self.folder)

    @cached_property
    def second_server(self) -> WebServer:
        """
        Run another uvicorn in this folder, as part 3 does on port 8081.

        Its application has the solutions of the exercises of parts 1 and 3, too.
        """
        for solution in ("part_1.py", "part_3.py"):
            self.write(solution, (SOLUTIONS / solution).read_text())
        self.write("exercises.py", "from sandbox.part_1 import app\nimport sandbox.part_3\n")
        server = self.web_server(app="sandbox.exercises:app")
        return self._processes.enter_context(server)

    def write(self, path: str, text: str) -> None:
        """Change a file below `sandbox/`, like a reader who types."""
        (self.folder / "sandbox" / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.folder / "sandbox" / path).read_text()


def page(part: int) -> Path:
    """Return the page of a part."""
    (found,) = PAGES.glob(f"{part}-*.md")
    return found


def console(document: Path, program: str) -> list[str]:
    """Return the one command of a page that begins with a program, as a list of words."""
    (found,) = [
        line
        for block in blocks(document, "console")
        for line in block.splitlines()
        if line.startswith(program)
    ]
    return shlex.split(found)


def recipe(document: Path) -> str:
    """Return the command that the one make target of a page runs."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *console(document, "make")[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def assert_printed(quote: str, output: str) -> None:
    """Check that each line of the quote is in the output, in order; `…` matches any text."""
    start = 0
    for line in quote.strip().splitlines():
        pattern = r"[^\n]*".join(map(re.escape, line.strip().split("…")))
        found = re.compile(pattern).search(output, start)
        assert found, f"{line!r} was not printed after the lines before it in:\n{output}"
        start = found.end()


async def refusal(registry, *routes) -> str:
    """Return the output of a server that refuses to start with these routes."""
    with pytest.raises(ChannelLayerError) as raised:
        async with registry.lifespan(Router(routes=routes)):
            pass
    return "".join(traceback.format_exception(raised.value))


def register(registry, layer_table) -> None:
    """Register the layers of a table, with a broker that does not answer."""
    for alias, entry in layer_table(nowhere()).items():
        registry.register(alias, entry["layer"])


def nowhere() -> str:
    return f"redis://localhost:{free_port()}"


async def take_picture(name: str, shown: Page | Locator) -> None:
    """Save a picture of a page or of a part of it, if pictures are wanted."""
    if not PICTURES_WANTED:
        return
    page = getattr(shown, "page", shown)
    await page.evaluate("document.activeElement.blur()")
    await page.bring_to_front()
    picture = await shown.screenshot()
    width = int.from_bytes(picture[16:20])
    assert width <= LARGEST_WIDTH, f"{name} is {width} pixels wide"
    assert len(picture) <= LARGEST_PICTURE, f"{name} has {len(picture)} bytes"
    (PAGES / "images" / name).write_bytes(picture)
