"""Names of the queue's keys in Redis."""

from __future__ import annotations

import re

from fast_channels.layers import names


class Keys:
    """
    The keys of one process. Channels and groups are where channels_redis has them.

    A colon stands in no channel's name, so the others collide with none.
    """

    def __init__(self, prefix: str, process: str) -> None:
        self.prefix = prefix
        self.process = process
        # Where everything for a group of this process arrives.
        self.inbox = names.process_inbox("specific", process)
        # Processes, scored with the time their lease ends.
        self.leases = f"{prefix}:leases"
        # What is to be removed with a process, without the process.
        self.belongings = f"{prefix}:process:"

    def of_channel(self, channel: str) -> str:
        """Return the key of a plain channel, or of the inbox that a channel is in."""
        return self.prefix + names.inbox_of(channel)

    def of_group(self, group: str) -> str:
        return f"{self.prefix}:group:{group}"

    def of_process(self, process: str) -> str:
        """Return the key of what is to be removed with a process."""
        return self.belongings + process

    def new_batch(self) -> str:
        """Return a key for payloads that are being taken, never used before."""
        return f"{self.prefix}:batch:{self.process}:{names.unique()}"

    def of_drawn(self, channel: str) -> str:
        """Return the key that lists batches of a plain channel, see prefetch.lua."""
        return f"{self.prefix}:drawn:{channel}"

    def new_heartbeat(self) -> str:
        """Return a key for one reader's heartbeat."""
        return f"{self.prefix}:heartbeat:{self.process}:{names.unique()}"

    def address(self, group: str) -> str:
        """Return the name under which this process is a member of a group."""
        return names.group_address(self.inbox, group)


def inbox_thing(key: str) -> bytes:
    """Return how reap.lua writes an inbox that is to be removed with its process."""
    return f"inbox {key}".encode()


def member_thing(channel: str, group_key: str) -> bytes:
    """Return how reap.lua writes a membership that is to be removed with its process."""
    return f"member {channel} {group_key}".encode()


def glob(prefix: str) -> str:
    """Return the pattern of all keys with a prefix."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", prefix) + "*"
