"""
Make, check and split names of channels and groups.

The name `prefix.<process>!<local>` is a channel of one process; a plain name without `!` is a
queue that processes share. Only this module knows the meaning of `!`.
"""

from __future__ import annotations

import fnmatch
import re
import uuid
from typing import TYPE_CHECKING, Literal

from fast_channels.exceptions import InvalidName

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelCapacityDict, CompiledChannelCapacities

# Names must be shorter than this.
MAX_NAME_LENGTH = 100

# Key of a message on the wire with the full names of its receivers: a string or a list of
# strings. channels_redis uses the same key.
ADDRESS_KEY = "__asgi_channel__"

# re.ASCII: without it \d and \w admit digits and letters of every script.
CHANNEL_NAME = re.compile(r"^[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?$", re.ASCII)
GROUP_NAME = re.compile(r"^[a-zA-Z\d\-_.]+$", re.ASCII)

# Largest number of payloads that a reader delivers before consumers run.
MAX_DELIVERY_BATCH = 16

# Beginning of the local part of an address for all members of a group in a process. The local
# part of a channel has no period (see unique()), so the two never collide.
_GROUP_ADDRESS = "group."


def unique() -> str:
    """Return 32 hex digits that never repeat; they do not depend on the `random` module."""
    return uuid.uuid4().hex


def check(kind: Literal["channel", "group"], name: object) -> None:
    """Raise InvalidName unless `name` may be used as a name of this kind."""
    if not isinstance(name, str):
        raise InvalidName(kind, name, f"it is of type {type(name).__name__}")
    if not 0 < len(name) < MAX_NAME_LENGTH:
        raise InvalidName(kind, name, f"it has {len(name)} characters")
    pattern = CHANNEL_NAME if kind == "channel" else GROUP_NAME
    # fullmatch: "$" alone would let a trailing line break pass.
    if not pattern.fullmatch(name):
        raise InvalidName(kind, name, "it has other characters")


def process_inbox(prefix: str, process: str) -> str:
    """Return the name of the inbox that all channels with `prefix` in `process` share."""
    return f"{prefix}.{process}!"


def is_local(channel: str) -> bool:
    """Return whether a channel belongs to one process, unlike a shared queue."""
    return "!" in channel


def inbox_of(channel: str) -> str:
    """Return the part up to and including `!`, or the whole name of a plain channel."""
    inbox, mark, _ = channel.partition("!")
    return inbox + mark


def process_of(channel: str) -> str | None:
    """Return the process that a channel belongs to; None for a shared queue."""
    return inbox_of(channel)[:-1].rpartition(".")[2] if is_local(channel) else None


def belongs_to(channel: str, process: str) -> bool:
    """Return whether a channel belongs to `process`."""
    return inbox_of(channel).endswith(f".{process}!")


def group_address(inbox: str, group: str) -> str:
    """Return the name under which the owner of `inbox` is a member of `group`."""
    return f"{inbox}{_GROUP_ADDRESS}{group}"


def group_of_address(channel: str) -> str | None:
    """Return the group of an address for all of its members here; None for a channel's name."""
    _, _, local = channel.partition("!")
    return local.removeprefix(_GROUP_ADDRESS) if local.startswith(_GROUP_ADDRESS) else None


def compile_capacities(channel_capacity: ChannelCapacityDict) -> CompiledChannelCapacities:
    """Return pairs of a compiled pattern and its capacity, in order."""
    for pattern, capacity in channel_capacity.items():
        if capacity < 1:
            raise ValueError(
                f"channel_capacity of {pattern!r} is {capacity!r}; "
                "a channel must hold at least 1 message"
            )
    return [
        (re.compile(fnmatch.translate(p)) if isinstance(p, str) else p, capacity)
        for p, capacity in channel_capacity.items()
    ]


def delivery_batch(capacity: int, channel_capacity: CompiledChannelCapacities) -> int:
    """
    Return how many payloads a reader may deliver before consumers run.

    The number is half of the smallest capacity, so a mailbox that is emptied in every turn of
    the event loop never overflows.
    """
    smallest = min([capacity, *(by_name for _, by_name in channel_capacity)])
    return max(1, min(MAX_DELIVERY_BATCH, smallest // 2))
