"""
Names of channels and groups: make, check, split.

A channel name is `prefix.<process>!<local>` for an inbox that lives in one
process, or a plain name without `!` for a queue that processes share. This is
the only file that knows what `!` means.
"""

from __future__ import annotations

import fnmatch
import re
import uuid
from typing import TYPE_CHECKING, Literal

from fast_channels.exceptions import InvalidName

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelCapacityDict, CompiledChannelCapacities

# Names are shorter than this.
MAX_NAME_LENGTH = 100

# The key of a message on the wire that holds the full names it is meant for: a string or a list
# of them. Shared with channels_redis.
ADDRESS_KEY = "__asgi_channel__"

# re.ASCII: without it \d and \w admit digits and letters of every script.
CHANNEL_NAME = re.compile(r"^[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?$", re.ASCII)
GROUP_NAME = re.compile(r"^[a-zA-Z\d\-_.]+$", re.ASCII)

# Payloads delivered before consumers run; fewer if mailboxes are small.
MAX_DELIVERY_BATCH = 16

# Local part of the address under which a process receives for a whole group.
# The local part of a channel is unique(), without a period: they never collide.
_GROUP_ADDRESS = "group."


def unique() -> str:
    """32 hex digits that never repeat: from the system's entropy, not from `random`."""
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
    """Name of the inbox that all channels with `prefix` in `process` share."""
    return f"{prefix}.{process}!"


def is_local(channel: str) -> bool:
    """Whether the channel lives in one process, as opposed to a shared queue."""
    return "!" in channel


def inbox_of(channel: str) -> str:
    """Return the part up to and including `!`, or the whole name of a plain channel."""
    inbox, mark, _ = channel.partition("!")
    return inbox + mark


def process_of(channel: str) -> str | None:
    """Return the process that a channel lives in; None for a shared queue."""
    return inbox_of(channel)[:-1].rpartition(".")[2] if is_local(channel) else None


def belongs_to(channel: str, process: str) -> bool:
    return inbox_of(channel).endswith(f".{process}!")


def group_address(inbox: str, group: str) -> str:
    """Full name under which the owner of `inbox` is a member of `group`."""
    return f"{inbox}{_GROUP_ADDRESS}{group}"


def group_of_address(channel: str) -> str | None:
    """Return the group whose members in this process are meant, None for one channel's name."""
    _, _, local = channel.partition("!")
    return local.removeprefix(_GROUP_ADDRESS) if local.startswith(_GROUP_ADDRESS) else None


def compile_capacities(channel_capacity: ChannelCapacityDict) -> CompiledChannelCapacities:
    """Return patterns with capacities; globs become patterns."""
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

    Half of what the smallest mailbox holds: a mailbox that is emptied in every turn of the
    event loop never overflows.
    """
    smallest = min([capacity, *(by_name for _, by_name in channel_capacity)])
    return max(1, min(MAX_DELIVERY_BATCH, smallest // 2))
