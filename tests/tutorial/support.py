"""What the tests of the tutorial share: the reader's folder after a part, with what runs then."""

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
SOLUTIONS = TEMPLATES.parent / "solutions"

PARTS = (1, 2, 3, 4, 5)

# The parts whose page first asks for a broker, the RQ worker, and the analytics worker.
BROKER_SINCE, WORKER_SINCE, ANALYTICS_SINCE = 3, 4, 5

# Of a picture in a page: pixels, and bytes.
LARGEST_WIDTH, LARGEST_PICTURE = 1_000, 150_000

# The same variable says where the picture of the whole showcase goes.
PICTURES_WANTED = bool(os.environ.get("SHOWCASE_SCREENSHOT"))


class Stage:
    """
    A reader who has done the first parts, and started what their pages ask for.

    `server` is uvicorn, on a port of its own; `broker`, `worker` and `analytics_worker` are
    None in parts that do without.
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
        # Without a broker, an address at which nobody answers.
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
        """One more uvicorn in this folder, not yet started."""
        log = self.logs / f"server-{len(list(self.logs.glob('server-*')))}.log"
        log.touch()
        return WebServer(log, self.redis_url, app, *options, folder=self.folder)

    @cached_property
    def second_server(self) -> WebServer:
        """
        Another uvicorn in this folder, running; the page of part 3 starts one at port 8081.

        Its application has the solutions of the exercises of parts 1 and 3, too.
        """
        for solution in ("part_1.py", "part_3.py"):
            self.write(solution, (SOLUTIONS / solution).read_text())
        self.write("exercises.py", "from sandbox.part_1 import app\nimport sandbox.part_3\n")
        server = self.web_server(app="sandbox.exercises:app")
        return self._processes.enter_context(server)

    def write(self, path: str, text: str) -> None:
        """Change a file below `sandbox/`, as a reader who types."""
        (self.folder / "sandbox" / path).write_text(text)

    def read(self, path: str) -> str:
        return (self.folder / "sandbox" / path).read_text()


def page(part: int) -> Path:
    """The page of a part."""
    (found,) = PAGES.glob(f"{part}-*.md")
    return found


def console(document: Path, program: str) -> list[str]:
    """The one command of a page that begins with a program, in words."""
    (found,) = [
        line
        for block in blocks(document, "console")
        for line in block.splitlines()
        if line.startswith(program)
    ]
    return shlex.split(found)


def recipe(document: Path) -> str:
    """What stands behind the one make command of a page."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *console(document, "make")[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def assert_printed(quote: str, output: str) -> None:
    """Each line of the quote is in the output, in this order; `…` stands for anything on a line."""
    start = 0
    for line in quote.strip().splitlines():
        pattern = r"[^\n]*".join(map(re.escape, line.strip().split("…")))
        found = re.compile(pattern).search(output, start)
        assert found, f"{line!r} was not printed after the lines before it in:\n{output}"
        start = found.end()


async def refusal(registry, *routes) -> str:
    """What a server prints when an application with these routes does not start."""
    with pytest.raises(ChannelLayerError) as raised:
        async with registry.lifespan(Router(routes=routes)):
            pass
    return "".join(traceback.format_exception(raised.value))


def nowhere() -> str:
    return f"redis://localhost:{free_port()}"


async def take_picture(name: str, shown: Page | Locator) -> None:
    """Keep what a page or a part of it looks like, if pictures are wanted."""
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
