"""Which names and capacities a layer admits, asked in the words of Django Channels."""

from __future__ import annotations

import fnmatch
import re
from typing import TYPE_CHECKING, ClassVar

from fast_channels.exceptions import InvalidName

from . import names

if TYPE_CHECKING:
    from fast_channels.type_defs import ChannelCapacityDict, CompiledChannelCapacities


# Payloads delivered in one go, unless mailboxes are small.
MOST_PER_TURN = 16


class NameRules:
    """The part of a layer that needs no broker."""

    # Names are shorter than that.
    MAX_NAME_LENGTH: ClassVar[int] = names.MAX_NAME_LENGTH
    # What a channel may be called.
    channel_name_regex = names.CHANNEL_NAME
    # What a group may be called.
    group_name_regex = names.GROUP_NAME
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
        names.check("channel", name)
        if receive and isinstance(name, str) and names.inbox_of(name) != name:
            raise InvalidName("channel", name, "a process receives on the part up to '!'")
        return True

    def require_valid_group_name(self, name: object) -> bool:
        """Return True, or raise InvalidName."""
        names.check("group", name)
        return True

    def non_local_name(self, name: str) -> str:
        """Return a channel's name up to and including `!`."""
        return names.inbox_of(name)

    def _turn(self) -> int:
        """
        Return how many payloads a reader may deliver before consumers run.

        Half of what the smallest mailbox holds: one that is emptied at every
        turn never overflows.
        """
        smallest = min([self.capacity, *(capacity for _, capacity in self.channel_capacity)])
        return max(1, min(MOST_PER_TURN, smallest // 2))
