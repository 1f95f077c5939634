"""Which method of a consumer handles a message."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelMessage


def get_handler_name(message: ChannelMessage) -> str:
    """
    Return the method that handles a message: its type, with dots as underscores.

    Raises ValueError for a type that is missing, or that would name a private method.
    """
    type_ = message.get("type")
    if not isinstance(type_, str) or not type_:
        raise ValueError(f"message type is {type_!r}; every message needs a string as its type")
    name = type_.replace(".", "_")
    if name.startswith("_"):
        raise ValueError(f"message type {type_!r} begins with an underscore; use another")
    return name


def is_handler(method: Any) -> bool:
    # Asked of the class: a property must not run because somebody sent its name.
    if not callable(method) or not inspect.iscoroutinefunction(inspect.unwrap(method)):
        return False
    try:
        inspect.signature(method).bind("self", "message")
    except TypeError:
        return False
    return True


def defined_by(owner: type, name: str) -> type:
    """Return the class that an attribute of `owner` comes from."""
    return next(base for base in owner.__mro__ if name in vars(base))
