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
                place = _take_place(locks)
        yield place


def _serves() -> bool:
    """Whether a server runs here, rather than a script or a test of the application."""
    if threading.current_thread() is not threading.main_thread():
        return False
    # Hypercorn's workers leave SIGTERM alone, but are children of its process.
    handled = signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN, None)
    return handled or multiprocessing.parent_process() is not None


if sys.platform == "win32":

    def _take_place(locks: contextlib.ExitStack) -> int:  # noqa: ARG001
        """There are no such locks, so everybody is the first."""
        return 0

else:
    import fcntl

    def _take_place(locks: contextlib.ExitStack) -> int:
        """Hold the first free place until `locks` are closed."""
        # One file for all applications of a user: a place is one byte of it,
        # and nothing has to be deleted when a worker is killed.
        path = Path(tempfile.gettempdir(), f"fast-channels-{os.getuid()}.lock")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, mode=0o600)
        locks.callback(os.close, file)
        first = _fingerprint() * PLACES
        return next((n for n in range(PLACES) if _locked(file, first + n)), PLACES)

    def _locked(file: int, byte: int) -> bool:
        # A lock of this kind is the process's, not the file's: a second
        # lifespan within the process takes the same place.
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        return True


def _fingerprint() -> int:
    """Return a number of 56 bits that workers of one server have in common."""
    same = (os.getppid(), sys.argv, os.getcwd())  # noqa: PTH109 - as text
    digest = hashlib.sha256(repr(same).encode(errors="replace")).digest()
    return int.from_bytes(digest[:7])
