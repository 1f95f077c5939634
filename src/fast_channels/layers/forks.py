"""
What a child of fork has of its parent's, and must leave alone.

Parent and child share the kernel's side of an event loop. A connection that is
closed in the child, if only by the garbage collector or at the end of the
interpreter, is no longer watched in the parent, which then waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# What lives on an event loop of this process.
_ours: weakref.WeakSet[Any] = weakref.WeakSet()

# Adds a reference that nobody has; None until there is something to keep.
_add_reference: Callable[[Any], None] | None = None


def keep_in_children(thing: Any) -> None:
    """See to it that in a child of fork `thing`, and all that it refers to, is never destroyed."""
    global _add_reference  # noqa: PLW0603 - hooks of the process are registered once
    if _add_reference is None and sys.platform != "win32":
        _add_reference = _find_add_reference()
        os.register_at_fork(after_in_child=_keep_all)
    _ours.add(thing)


def _keep_all() -> None:
    for thing in list(_ours):
        if _add_reference is not None:
            _add_reference(thing)
    # Children of this child have them too; they are kept for ever already.
    _ours.clear()


def _find_add_reference() -> Callable[[Any], None]:
    # Imported before the fork, since a child should do as little as possible,
    # and not with the library, since few processes need it.
    with contextlib.suppress(ImportError):
        import ctypes  # noqa: PLC0415

        # A reference of Python's own would end with its modules.
        return lambda thing: ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    # As good until the interpreter ends.
    kept: list[Any] = []
    return kept.append
