"""Whether this process is one of several that serve the same application."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

# The first worker has nothing to say, the second one says it for all.
PLACES = 2


@contextlib.contextmanager
def place_among_workers() -> Generator[int]:
    """
    Take a place for this process: 0 for the first worker, 1 for the second, 2 for any other.

    Workers are processes of the same parent, command line and directory that
    serve at the same time. A process that is no server, or cannot lock files,
    has place 0. The place is free again when this ends, or the process does.
    """
    place = 0
    with contextlib.ExitStack() as locks:
        if _serves():
            # Where locks cannot be had, nothing is said.
            with contextlib.suppress(OSError):
                while place < PLACES and not _take(place, locks):
                    place += 1
        yield place


def _serves() -> bool:
    """Whether a server runs here, rather than a script or a test of the application."""
    if threading.current_thread() is not threading.main_thread():
        return False
    # Hypercorn's workers leave SIGTERM alone, but are children of its process.
    handled = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    return handled or multiprocessing.parent_process() is not None


if sys.platform == "win32":

    def _take(place: int, locks: contextlib.ExitStack) -> bool:  # noqa: ARG001
        """There are no such locks, so everybody is the first."""
        return True

else:
    import fcntl

    def _take(place: int, locks: contextlib.ExitStack) -> bool:
        """Hold a place until `locks` are closed; False if another process has it."""
        path = _path(place)
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, mode=0o600)
            locks.callback(os.close, file)
            try:
                # Of this kind a process has a lock, not a file: a second lifespan
                # within the process takes the same place.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                return False
            # Whoever had it before may have deleted it since we opened it.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                locks.callback(path.unlink, missing_ok=True)
                return True

    def _path(place: int) -> Path:
        same = (os.getuid(), os.getppid(), sys.argv, os.getcwd())  # noqa: PTH109 - as text
        digest = hashlib.sha256(repr(same).encode(errors="replace")).hexdigest()[:32]
        return Path(tempfile.gettempdir(), f"fast-channels-{digest}-{place}.lock")
