"""Names of the queue's keys in Redis."""

from __future__ import annotations

from fast_channels.layers import names


class Keys:
    """
    The keys of one process. Channels and groups are where channels_redis has them.

    All other keys contain a colon. Names of channels cannot, so there are no collisions.
    """

    def __init__(self, prefix: str, process: str) -> None:
        self.prefix = prefix
        self.process = process
        self.inbox = names.process_inbox("specific", process)
        """The inbox for messages to groups that this process is a member of."""
        self.leases = f"{prefix}:leases"
        """The key of all processes, scored with the times at which their leases end."""
        self.belongings = f"{prefix}:process:"
        """The part of `of_process` before the name of a process."""

    def of_channel(self, channel: str) -> str:
        """Return the key of a plain channel, or of the inbox that a channel is in."""
        return self.prefix + names.inbox_of(channel)

    def of_group(self, group: str) -> str:
        return f"{self.prefix}:group:{group}"

    def of_process(self, process: str) -> str:
        """Return the key that lists the belongings of a process, to remove together with it."""
        return self.belongings + process

    def new_batch(self) -> str:
        """Return a new key for payloads that are being taken."""
        return f"{self.prefix}:batch:{self.process}:{names.unique()}"

    def of_prefetched(self, channel: str) -> str:
        """Return the key that lists prefetched batches of a plain channel, see prefetch.lua."""
        return f"{self.prefix}:prefetched:{channel}"

    def new_heartbeat(self) -> str:
        """Return a new key for the heartbeat of one reader."""
        return f"{self.prefix}:heartbeat:{self.process}:{names.unique()}"

    def address(self, group: str) -> str:
        """Return the name under which this process is a member of a group."""
        return names.group_address(self.inbox, group)


def inbox_belonging(key: str) -> bytes:
    """Return the entry by which reap.lua removes an inbox together with its process."""
    return f"inbox {key}".encode()


def member_belonging(channel: str, group_key: str) -> bytes:
    """Return the entry by which reap.lua removes a membership together with its process."""
    return f"member {channel} {group_key}".encode()
