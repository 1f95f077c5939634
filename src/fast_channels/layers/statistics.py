"""Counters of a layer in this process."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Statistics:
    """Counters of a layer in this process since the layer was made, and its present size."""

    published: int
    """Messages that the broker has accepted, or that were put into a channel of this process."""

    delivered: int
    """Messages put into mailboxes: one broadcast to ten members counts ten."""

    dropped: int
    """Messages that full mailboxes have lost."""

    undecodable: int
    """Payloads from the broker that were not messages."""

    unknown_type: int
    """Messages for which the receiving consumer had no handler."""

    unclaimed: int
    """Payloads for a channel or group that has no member in this process any more."""

    refused: int
    """Sends to a channel at capacity."""

    sent_after_close: int
    """Frames sent to a client that had left."""

    frames_dropped: int
    """
    Frames from clients that were not handled: more than `rate_limit` allows, or received after
    a frame that closes the connection.
    """

    reconnects: int
    """Connections to the broker that were lost and made again."""

    gaps: int
    """Interruptions of delivery that members were told about."""

    channels: int = 0
    """Open channels of this process."""

    waiting: int = 0
    """Messages that wait in these channels."""

    groups: int = 0
    """Groups with a member in this process."""

    members: int = 0
    """Memberships of channels in these groups."""

    subscriptions: int = 0
    """Subscriptions that the broker has confirmed."""


@dataclass
class Counters:
    """Mutable counters of a layer; Statistics explains each of them."""

    published: int = 0
    delivered: int = 0
    # Only in mailboxes that are closed by now: open mailboxes count for themselves.
    dropped: int = 0
    undecodable: int = 0
    unknown_type: int = 0
    unclaimed: int = 0
    refused: int = 0
    sent_after_close: int = 0
    frames_dropped: int = 0
    reconnects: int = 0
    gaps: int = 0

    def frozen(self, *, dropped: int = 0, **sizes: int) -> Statistics:
        """Return the present Statistics; `dropped` is the number of losses in open mailboxes."""
        counters = asdict(self)
        counters["dropped"] += dropped
        return Statistics(**counters, **sizes)
