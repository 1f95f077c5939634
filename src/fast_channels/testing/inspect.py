"""
Look inside a layer, for tests of this library and of backends.

Applications read `layer.statistics()` and `layer.health()`. The functions here depend on
how layers are built and may change in any release.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.broker import Outage
    from fast_channels.layers.hub import Hub
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.layers.session import Session
    from fast_channels.type_defs import ChannelMessage

# -- where the layers keep these things: only the functions in this part read private attributes


def session(layer: BaseChannelLayer) -> Session:
    """Return the session of an open layer, with its hub, broker and memberships."""
    assert layer._session is not None, f"{layer} is closed"
    return layer._session


def hub(layer: BaseChannelLayer) -> Hub:
    """Return the tables of an open layer: `mailboxes` by channel and `members` by topic."""
    return session(layer).hub


def broker(layer: BaseChannelLayer) -> Any:
    """Return the broker of an open layer, or None."""
    return None if layer._session is None else layer._session.broker


def home_loop(layer: BaseChannelLayer) -> asyncio.AbstractEventLoop | None:
    """Return the event loop that the layer lives on, or None if it is closed."""
    home = layer._lifetime._home
    return None if home is None else home.loop


def encode(layer: BaseChannelLayer, message: ChannelMessage) -> bytes:
    """Check and encode a message as `send` and `group_send` do."""
    return layer._encode(message)


def report_outage(layer: BaseChannelLayer, outage: Outage) -> None:
    """Report an outage to the members of its topics, as a broker does."""
    session(layer).report_outage(outage)


def group_members(layer: BaseChannelLayer) -> dict[str, list[str]]:
    """Return the channels of this process by the group that they are in."""
    by_topic = hub(layer).members.items()
    group_of = layer._addressing.group_of
    by_name = ((group_of(topic), list(members)) for topic, members in by_topic)
    return {group: members for group, members in by_name if group is not None}


def table_sizes(layer: BaseChannelLayer) -> dict[str, int]:
    """
    Return how many entries each table of an open layer has, by the name of the table.

    All are empty once every channel is closed and every call has returned. Subscriptions that
    last as long as the layer do not count.
    """
    opened = session(layer)
    tables_of, subscriptions = opened.hub, opened.membership._subscriptions
    tables: dict[str, Any] = {
        "mailboxes": tables_of.mailboxes,
        "members": tables_of.members,
        "joined": tables_of._joined,
        "confirmed subscriptions": subscriptions._confirmed - tables_of._held.keys(),
        "subscription tasks": subscriptions._tasks,
        "opening channels": opened._opening,
        "unconfirmed memberships": opened.membership._unconfirmed,
    }
    return {name: len(table) for name, table in tables.items()}


def prefetched(layer: BaseChannelLayer, channel: str) -> int:
    """Return how many messages of a shared channel this process has taken in advance."""
    return sum(source.prefetched for source in _queue_sources(layer, channel))


def holds_messages(layer: BaseChannelLayer) -> bool:
    """Return whether this process holds messages of shared channels that no call has received."""
    return any(source.unsettled for source in _queue_sources(layer))


def _queue_sources(layer: BaseChannelLayer, channel: str | None = None) -> list[Any]:
    """Return the readers of shared channels in Redis, one per server; by default of all."""
    readers: dict[str, Any] = getattr(broker(layer), "queue_readers", {})
    return [
        s for name, reader in readers.items() if channel in (None, name) for s in reader.sources
    ]


# -- built on the functions above


def mailbox_of(layer: BaseChannelLayer, channel: str) -> Mailbox:
    """Return the mailbox of an open channel of this process."""
    return hub(layer).mailboxes[channel]


def deliver(layer: BaseChannelLayer, topic: str, *messages: ChannelMessage) -> int:
    """Deliver messages to the members of `topic` here, as if they had come from the broker."""
    return hub(layer).deliver(topic, *(encode(layer, message) for message in messages))
