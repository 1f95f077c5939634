"""Counters of a layer in this process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Counters:
    """What has happened since the layer was made. Read through layer.statistics()."""

    # Explained in Statistics.
    published: int = 0
    delivered: int = 0
    # Lost in mailboxes that are closed by now; open ones count for themselves.
    dropped: int = 0
    undecodable: int = 0
    unknown_type: int = 0
    unclaimed: int = 0
    refused: int = 0
    sent_after_close: int = 0
    frames_dropped: int = 0
    reconnects: int = 0
    gaps: int = 0


@dataclass(frozen=True)
class Statistics:
    """What a layer has done in this process since it was made, and how it stands."""

    # Messages accepted by the broker, or put into a channel of this process.
    published: int
    # Messages put into mailboxes: one broadcast to ten members counts ten.
    delivered: int
    # Messages that mailboxes lost, being full.
    dropped: int
    # Payloads from the broker that were no message.
    undecodable: int
    # Messages that the receiving consumer had no handler for.
    unknown_type: int
    # Payloads for a channel or group that nobody here has (any more).
    unclaimed: int
    # Sends to a channel at capacity.
    refused: int
    # Frames sent to a client that had left.
    sent_after_close: int
    # Frames from clients that were not handled: more than `rate_limit` allows,
    # or behind one that closes the connection.
    frames_dropped: int
    # Connections to the broker made again after one was lost.
    reconnects: int
    # Interruptions of delivery that members were told about.
    gaps: int
    # Open channels of this process.
    channels: int
    # Messages that wait in them.
    waiting: int
    # Groups with a member in this process.
    groups: int
    # Their memberships.
    members: int
    # Subscriptions that the broker has confirmed.
    subscriptions: int
