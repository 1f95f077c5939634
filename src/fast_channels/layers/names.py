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
from typing import TYPE_CHECKING, ClassVar, Literal

from fast_channels.exceptions import InvalidName

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelCapacityDict, CompiledChannelCapacities

# Names are shorter than this.
MAX_NAME_LENGTH = 100

# re.ASCII: without it \d and \w admit digits and letters of every script.
CHANNEL_NAME = re.compile(r"^[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?$", re.ASCII)
GROUP_NAME = re.compile(r"^[a-zA-Z\d\-_.]+$", re.ASCII)

# Payloads delivered in one go, unless mailboxes are small.
MAX_PAYLOADS_PER_TURN = 16

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


class NameRules:
    """The part of a layer that needs no broker."""

    # Names are shorter than that.
    MAX_NAME_LENGTH: ClassVar[int] = MAX_NAME_LENGTH
    # What a channel may be called.
    channel_name_regex = CHANNEL_NAME
    # What a group may be called.
    group_name_regex = GROUP_NAME
    # A sentence to be formatted with "Channel" or "Group".
    invalid_name_error = (
        "{} name must be a string of 1 to 99 ASCII letters, digits, hyphens, underscores or periods"
    )

    def __init__(self, capacity: int, channel_capacity: ChannelCapacityDict | None) -> None:
        self.capacity = capacity
        self.channel_capacity = self.compile_capacities(channel_capacity or {})

    def compile_capacities(
        self, channel_capacity: ChannelCapacityDict
    ) -> CompiledChannelCapacities:
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

    def get_capacity(self, channel: str) -> int:
        """Return how many messages may wait in `channel`."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    def match_type_and_length(self, name: object) -> bool:
        """Whether it is a string of a length that names may have."""
        return isinstance(name, str) and 0 < len(name) < self.MAX_NAME_LENGTH

    def require_valid_channel_name(self, name: object, receive: bool = False) -> bool:
        """Return True, or raise InvalidName; to receive, `!` must end a local name."""
        check("channel", name)
        if receive and isinstance(name, str) and inbox_of(name) != name:
            raise InvalidName("channel", name, "a process receives on the part up to '!'")
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """Return True, or raise InvalidName."""
        check("group", name)
        return True

    def non_local_name(self, name: str) -> str:
        """Return a channel's name up to and including `!`."""
        return inbox_of(name)

    def _turn(self) -> int:
        """
        Return how many payloads a reader may deliver before consumers run.

        Half of what the smallest mailbox holds: one that is emptied at every
        turn never overflows.
        """
        smallest = min([self.capacity, *(capacity for _, capacity in self.channel_capacity)])
        return max(1, min(MAX_PAYLOADS_PER_TURN, smallest // 2))
