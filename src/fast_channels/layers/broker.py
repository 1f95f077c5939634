"""
The interface between a layer and its broker.

A backend implements `Broker`: five methods for bytes and topics. Features that only some
brokers have are smaller forms of their own. docs/backend.md explains how to write a backend,
and `fast_channels.testing.contract` checks one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from fast_channels.exceptions import MissingCapability

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence

    from .health import Health
    from .position import Position


@dataclass(frozen=True)
class Outage:
    """
    A time in which a broker may have missed payloads, reported once it is over.

    Every channel that is a member of one of the topics is told with one `layer.gap`. A channel
    with a topic in `lost` is told of the lost topics only.
    """

    since: float
    """Begin of the outage: Unix time in seconds."""

    until: float
    """End of the outage: Unix time in seconds."""

    recovered: Collection[str] = ()
    """Topics for which every payload published meanwhile has arrived after all."""

    lost: Collection[str] = ()
    """Topics for which payloads may be missing."""

    reconnected: bool = True
    """False if payloads are missing although no connection was lost."""


class Deliver(Protocol):
    """The function that a broker calls with received payloads."""

    def __call__(self, topic: str, /, *payloads: bytes, positions: Sequence[Position] = ()) -> int:
        """
        Deliver payloads of a topic to its members; return how many mailboxes took them.

        Passing payloads that arrived together in one call is faster than one call for each. A
        broker with a log passes the position of each payload.
        """
        ...


class Broker(Protocol):
    """
    Moves payloads between processes by topic.

    A broker never decodes a payload and never sees a consumer. It calls `deliver` and
    `report_outage` only on the loop that called `start`.
    """

    async def start(self, deliver: Deliver, report_outage: Callable[[Outage], None]) -> None:
        """
        Connect; from now on call `deliver(topic, *payloads)` in the order of arrival.

        Call `report_outage` after each outage, once all subscriptions are in order again and
        before anything newer is delivered. Raises LayerUnavailable if no server answers at the
        configured address.
        """
        ...

    async def stop(self) -> None:
        """Disconnect. Stopping twice is fine; nothing is delivered after it returns."""
        ...

    async def publish(self, topic: str, payload: bytes) -> int:
        """
        Publish a payload; return how many full receivers refused it.

        Returns once the broker has accepted the payload. Calls may be concurrent; payloads of
        one topic are delivered in the order of the calls. Each call gives the loop at least one
        turn, so that receivers run while a sender sends in a loop. Raises LayerUnavailable if
        the broker does not answer.
        """
        ...

    async def subscribe(self, topic: str) -> None:
        """Subscribe to a topic; return once every payload published later will arrive here."""
        ...

    async def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`. Payloads in transit may still arrive."""
        ...


class Popped(NamedTuple):
    """A payload taken from a shared name, with a handle to put it back."""

    payload: bytes
    """The payload."""

    handle: Any
    """A value that only the broker understands."""


@runtime_checkable
class Queue(Protocol):
    """
    Plain names that processes share: each payload goes to one receiver.

    A group may have such names as members. The broker stores these memberships, because no
    process owns them.
    """

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        """Append a payload; return False if `capacity` payloads wait already."""
        ...

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        """
        Append payloads until `capacity` of them wait; return how many were appended.

        A name with `!` is a channel of another process; the capacity of its inbox counts.
        """
        ...

    async def add_member(self, topic: str, name: str) -> None:
        """Make `name` a member: it also gets every payload published to `topic`."""
        ...

    async def remove_member(self, topic: str, name: str) -> None:
        """Undo `add_member`; a name that is not a member is fine."""
        ...


@runtime_checkable
class PopQueue(Protocol):
    """A queue that deletes a payload when it is taken, unlike a `WorkQueue`."""

    async def pop(self, name: str) -> Popped:
        """Wait for the oldest payload and remove it. Cancelling loses nothing."""
        ...

    def put_back(self, name: str, popped: Popped) -> None:
        """
        Put a payload back that no caller wants any more; the next `pop` here returns it.

        The payload goes before all waiting payloads. Another process may have taken later
        payloads meanwhile.
        """
        ...


class Lease(NamedTuple):
    """A payload that this process may work on until the visibility timeout."""

    payload: bytes
    """The payload."""

    deliveries: int
    """Number of leases of this payload, including this one. A released lease does not count."""

    handle: Any
    """A value by which the broker identifies the lease."""


class DeadPayload(NamedTuple):
    """A payload that is not delivered any more, with the reason."""

    payload: bytes
    """The payload as it was sent."""
    reason: str
    """The reason of the last failure or of the rejection."""
    deliveries: int
    """How often the payload was delivered."""


@runtime_checkable
class WorkQueue(Protocol):
    """
    A queue that leases payloads, and redelivers them unless they are acknowledged.

    The calls that end a lease begin at once and complete even if their result is not awaited.
    The result is False if the payload was redelivered meanwhile, or if the broker could not be
    told. In the second case the failure is logged and the payload will be redelivered. These
    calls never raise.
    """

    async def lease(self, name: str) -> Lease:
        """
        Wait for a payload and lease it until the visibility timeout.

        Retries come first once their pause is over, then payloads with an expired lease, then new
        ones, each oldest first. Cancelling loses nothing. The call waits while the broker is
        away.
        """
        ...

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        """Delete a leased payload."""
        ...

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        """Redeliver the payload after a pause, or make it a dead letter after its last delivery."""
        ...

    def reject(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        """Move the payload to the dead letters."""
        ...

    def release(self, name: str, lease: Lease) -> None:
        """Requeue the payload at once, without counting the delivery."""
        ...

    async def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        """Return dead letters, the oldest first."""
        ...

    async def requeue(self, name: str, limit: int, capacity: int) -> int:
        """Move dead letters behind the waiting payloads as capacity allows; return how many."""
        ...


class LogEntry(NamedTuple):
    """A payload in a log."""

    position: Position
    """The position of the payload in its log."""
    payload: bytes
    """The payload as it was sent."""


class Appended(NamedTuple):
    """The result of appending a payload."""

    position: Position
    """The position of the payload in the log."""

    refused: int
    """Number of full receivers that refused the payload."""


class LogSlice(NamedTuple):
    """A part of a log, and the end of the log at that time."""

    entries: Sequence[LogEntry]
    """The entries in order."""

    end: Position
    """The position after the last entry of the log."""

    connected: bool
    """True if no entry is missing between the given position and the first entry or `end`."""


@runtime_checkable
class Log(Protocol):
    """
    A broker that keeps the last payloads of each topic, and numbers them.

    Such a broker delivers payloads with positions, and all entries of a topic in order, once.
    """

    async def append(self, topic: str, payload: bytes, *, once: str | None = None) -> Appended:
        """
        Add a payload to the log and publish it in one step, like `Broker.publish`.

        If a payload was appended recently with the same `once`, the call does nothing and
        returns the position of that payload.
        """
        ...

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        """
        Return the payloads after a position: the oldest `limit` of them.

        Without a position, return the newest `limit` payloads.
        """
        ...

    def delivered(self, topic: str) -> Position:
        """Return the position up to which a subscribed topic has been delivered here."""
        ...

    async def catch_up(self, topic: str) -> None:
        """Return once all payloads appended before the call have been delivered."""
        ...


@runtime_checkable
class BatchPublisher(Protocol):
    """A broker that accepts several payloads in one request."""

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        """Publish payloads in order; return how often full receivers refused one."""
        ...


@runtime_checkable
class Unfiltered(Protocol):
    """A broker that may deliver every topic without subscriptions."""

    delivers_everything: bool
    """True if the broker delivers every topic; the layer then does not subscribe."""


@runtime_checkable
class Flushable(Protocol):
    """A broker that stores data, and can delete it."""

    async def flush(self) -> None:
        """Delete all data under this layer's prefix, for every process."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """A broker that watches its connections."""

    def health(self) -> Mapping[str, Health]:
        """Return the health of each server by its address."""
        ...


def missing_queue(broker: Broker, wanted: str) -> MissingCapability:
    """Return the error for a missing Queue; it names layers that have one."""
    return MissingCapability(
        broker,
        wanted,
        "use a channel of this process, made by new_channel(), or a layer that keeps "
        "messages: RedisChannelLayer, InMemoryChannelLayer",
    )


def missing_work_queue(broker: Broker) -> MissingCapability:
    """Return the error for a missing WorkQueue; it names layers that have one."""
    return MissingCapability(
        broker,
        "taking work that is acknowledged",
        "use RedisStreamsChannelLayer, or InMemoryChannelLayer within one process",
    )


def missing_log(broker: Broker, wanted: str) -> MissingCapability:
    """Return the error for a missing Log; it names layers that have one."""
    return MissingCapability(
        broker, wanted, "use RedisStreamsChannelLayer, or InMemoryChannelLayer(history_size=...)"
    )
