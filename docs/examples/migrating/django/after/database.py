"""A replacement of channels.db, for code outside of Django's request cycle."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")


def database_sync_to_async(function: Callable[P, T]) -> Callable[P, Coroutine[None, None, T]]:
    """Run a function that uses the ORM in a thread, on a fresh connection."""

    @functools.wraps(function)
    def with_fresh_connection(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return sync_to_async(with_fresh_connection)
