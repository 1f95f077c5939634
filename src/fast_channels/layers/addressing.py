"""
How channels and groups map to the topics of a broker.

`InboxAddressing` is for brokers with queues: all channels of a process share one topic, its
inbox. `TopicAddressing` is for publish and subscribe: every channel is a topic.
"""

from __future__ import annotations

import sys
from typing import Protocol

from . import names


class Addressing(Protocol):
    """The mapping from names to topics. It has no state, so layers can share one."""

    def new_channel(self, prefix: str, process: str) -> str:
        """Return a name for a new channel of `process` that no other channel ever has."""
        ...

    def check_channel(self, channel: object) -> None:
        """Raise InvalidName unless `channel` may be the name of a channel."""
        ...

    def may_open(self, channel: str, process: str) -> bool:
        """Return whether `process` may open this channel in order to receive from it."""
        ...

    def is_kept(self, channel: str) -> bool:
        """Return whether messages for a channel that is not open here wait at the broker."""
        ...

    def channel_topic(self, channel: str) -> str | None:
        """
        Return the topic that brings messages for a channel to its process.

        None if messages for a channel of another process never arrive by a topic.
        """
        ...

    def group_topic(self, group: str) -> str:
        """Return the topic that messages for a group are published to."""
        ...

    def group_of(self, topic: str) -> str | None:
        """Undo `group_topic`; return None for a topic that is not the topic of a group."""
        ...

    def is_inbox(self, topic: str) -> bool:
        """Return whether payloads of a topic carry the names of the channels they are for."""
        ...


class InboxAddressing:
    """
    All channels of a process with one prefix share an inbox; a group is the topic of its name.

    A name without `!` is a queue that processes share. With `keeps_every_name`, a name with `!`
    that belongs to no process is one too. `inboxes_are_topics` is for brokers that deliver the
    messages of other processes for a channel of this process.
    """

    def __init__(self, *, inboxes_are_topics: bool = False, keeps_every_name: bool = False) -> None:
        self._inboxes_are_topics = inboxes_are_topics
        self._keeps_every_name = keeps_every_name

    def new_channel(self, prefix: str, process: str) -> str:
        return names.process_inbox(prefix, process) + names.unique()

    def check_channel(self, channel: object) -> None:
        names.check("channel", channel)

    def may_open(self, channel: str, process: str) -> bool:
        return names.belongs_to(channel, process)

    def is_kept(self, channel: str) -> bool:
        return self._keeps_every_name or not names.is_local(channel)

    def channel_topic(self, channel: str) -> str | None:
        return names.inbox_of(channel) if self._inboxes_are_topics else None

    def group_topic(self, group: str) -> str:
        # One string for all members: the hub keeps the topics of every channel.
        return sys.intern(group)

    def group_of(self, topic: str) -> str | None:
        return None if names.is_local(topic) else topic

    def is_inbox(self, topic: str) -> bool:
        return names.is_local(topic)


class TopicAddressing:
    """
    Every channel is a topic of its own, and every group a topic that begins with `group_prefix`.

    Any process may open any channel, and then receives all messages that are published to it.
    The names of new channels begin with `prefix`.
    """

    def __init__(self, prefix: str = "", group_prefix: str = "__group__") -> None:
        self._prefix = prefix
        self._group_prefix = group_prefix

    def new_channel(self, prefix: str, process: str) -> str:  # noqa: ARG002 - part of the form
        return f"{self._prefix}{prefix.removesuffix('.')}.{names.unique()}"

    def check_channel(self, channel: object) -> None:
        # The prefix stands in the names of channels, and may be any string.
        name = channel.removeprefix(self._prefix) if isinstance(channel, str) else channel
        names.check("channel", name)

    def may_open(self, channel: str, process: str) -> bool:  # noqa: ARG002 - part of the form
        return True

    def is_kept(self, channel: str) -> bool:  # noqa: ARG002 - part of the form
        return False

    def channel_topic(self, channel: str) -> str | None:
        return channel

    def group_topic(self, group: str) -> str:
        # One string for all members: the hub keeps the topics of every channel.
        return sys.intern(self._group_prefix + group)

    def group_of(self, topic: str) -> str | None:
        group = topic.removeprefix(self._group_prefix)
        return None if group == topic else group

    def is_inbox(self, topic: str) -> bool:  # noqa: ARG002 - part of the form
        return False
