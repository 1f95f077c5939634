"""
The narrow interface between a layer and whatever carries its payloads.

A backend fills in `Broker`: five methods, bytes and topics. What only some
brokers can do is a second, smaller form. To write a backend, see
docs/backend.md; to check one, subclass `fast_channels.testing.contract`.
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
    """When it began: Unix time in seconds."""

    until: float
    """When the broker was in order again: Unix time in seconds."""

    recovered: Collection[str] = ()
    """Topics of which every payload that was published meanwhile has arrived after all."""

    lost: Collection[str] = ()
    """Topics of which payloads may be missing."""

    reconnected: bool = True
    """False if payloads are missing although no connection was lost."""


class Deliver(Protocol):
    """What a broker calls with what has arrived."""

    def __call__(self, topic: str, /, *payloads: bytes, positions: Sequence[Position] = ()) -> int:
        """
        Hand payloads of a topic to its members; returns how many were taken.

        Several at once, if they have arrived together, cost less than one by one.
        A broker that keeps a log gives the position of each.
        """
        ...


class Broker(Protocol):
    """
    Moves payloads between processes. Knows topics and bytes, nothing else.

    A broker never decodes a payload, never sees a consumer, and calls
    `deliver` and `report_outage` only on the loop that called `start`.
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
        """Let go of everything. Idempotent; nothing is delivered after it returns."""
        ...

    async def publish(self, topic: str, payload: bytes) -> int:
        """
        Return once the payload is accepted: how many receivers refused it, being full.

        Concurrent calls are fine; those for one topic are delivered in the
        order of the calls. Gives the loop at least one turn, so that receivers
        run while a sender sends in a loop. Raises LayerUnavailable if the
        broker does not answer.
        """
        ...

    async def subscribe(self, topic: str) -> None:
        """Return once anything published later will arrive here."""
        ...

    async def unsubscribe(self, topic: str) -> None:
        """Undo `subscribe`. What was under way may still arrive."""
        ...


class Popped(NamedTuple):
    """A payload that was taken from a shared name, and what it takes to put it back."""

    payload: bytes
    # Known to the broker alone.
    handle: Any


@runtime_checkable
class Queue(Protocol):
    """
    Plain names shared by processes: each payload goes to one receiver.

    A group may have such names as members; those memberships live at the
    broker, because no single process owns them.
    """

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        """Append a payload, unless `capacity` of them wait: then False."""
        ...

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        """
        Append payloads until `capacity` of them wait; return how many were appended.

        A name with `!` is a channel of another process, whose own bound counts.
        """
        ...

    async def add_member(self, topic: str, name: str) -> None:
        """Let everything published to `topic` also be sent to the channel `name`."""
        ...

    async def remove_member(self, topic: str, name: str) -> None:
        """Undo `add_member`; a name that is no member is fine."""
        ...


@runtime_checkable
class PopQueue(Protocol):
    """A queue that a payload has left once it was taken. See work.py for the other kind."""

    async def pop(self, name: str) -> Popped:
        """Wait for the oldest payload and remove it. Cancelling loses nothing."""
        ...

    def put_back(self, name: str, popped: Popped) -> None:
        """
        Take back what nobody wants any more: the next pop here returns it.

        It goes before everything that waits. Another process may have taken
        what came behind it by then.
        """
        ...


class Lease(NamedTuple):
    """A payload that this process may work on until the visibility timeout."""

    payload: bytes

    deliveries: int
    """How often the payload was leased, this time included. A released lease does not count."""

    handle: Any
    """What the broker knows the lease by."""


class DeadPayload(NamedTuple):
    """A payload that is not leased any more."""

    payload: bytes
    reason: str
    deliveries: int


@runtime_checkable
class WorkQueue(Protocol):
    """
    A queue that hands payloads out for a while, and again unless it hears that they are done.

    What ends a claim begins at once and is done whether or not anybody waits
    for it. It returns False if the payload was handed to somebody else
    meanwhile, who has it now, or if the broker could not be told, which is
    logged: then it comes again. None of these raises.
    """

    async def lease(self, name: str) -> Lease:
        """
        Wait for a payload and take it, for as long as the visibility timeout.

        Those whose pause is over come first, then what others have held for too
        long, then new ones, the oldest first. Cancelling loses nothing. Waits
        while the broker is away.
        """
        ...

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        """Forget a payload."""
        ...

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        """Hand it out again after a pause; to the dead letters after the last delivery."""
        ...

    def reject(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        """Move it to the dead letters."""
        ...

    def release(self, name: str, lease: Lease) -> None:
        """Hand it out to somebody else, now, as if it had not been handed out."""
        ...

    async def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        """Return dead letters, the oldest first."""
        ...

    async def requeue(self, name: str, limit: int, capacity: int) -> int:
        """Move dead letters back, behind all that waits, while there is room; return how many."""
        ...


class LogEntry(NamedTuple):
    """A payload in a log."""

    position: Position
    payload: bytes


class Appended(NamedTuple):
    """What came of appending a payload."""

    position: Position
    # How many receivers refused it, being full.
    refused: int


class LogSlice(NamedTuple):
    """A part of a log, and where the log stood when it was read."""

    # In order.
    entries: Sequence[LogEntry]
    # Behind the last entry of the log.
    end: Position
    # Whether nothing is missing between the position that was asked for and the first
    # of `entries`, or `end` if there is none.
    connected: bool


@runtime_checkable
class Log(Protocol):
    """
    A broker that keeps the last payloads of each topic, and numbers them.

    It delivers with positions, and delivers all entries of a topic in their order, each once.
    """

    async def append(self, topic: str, payload: bytes, *, once: str | None = None) -> Appended:
        """
        Add a payload to the log and publish it, in one step.

        If something was appended with the same `once` a while ago, this does
        nothing and returns the position of that. Otherwise as Broker.publish.
        """
        ...

    async def read(self, topic: str, after: Position | None, limit: int | None) -> LogSlice:
        """
        Return what came after a position, the oldest `limit` payloads of it.

        With None it returns the newest `limit` payloads of all that are kept.
        """
        ...

    def delivered(self, topic: str) -> Position:
        """Return up to where a topic that is subscribed has been delivered here."""
        ...

    async def catch_up(self, topic: str) -> None:
        """Return once everything has been delivered that was appended before the call."""
        ...


@runtime_checkable
class BatchPublisher(Protocol):
    """A broker to which several payloads can travel together."""

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        """Do what `publish` does for each of them, in this order; return the sum."""
        ...


@runtime_checkable
class Unfiltered(Protocol):
    """A broker that may deliver every topic, subscribed or not: then it is not asked to."""

    # Whether it does.
    delivers_everything: bool


@runtime_checkable
class Flushable(Protocol):
    """A broker that keeps something, and can forget it."""

    async def flush(self) -> None:
        """Delete all that is stored under this layer's prefix, for every process."""
        ...


@runtime_checkable
class Supervised(Protocol):
    """A broker that watches its connections."""

    def health(self) -> Mapping[str, Health]:
        """Return the health of each server by its address."""
        ...


def missing_queue(broker: Broker, wanted: str) -> MissingCapability:
    """Return the error that says where to find a Queue."""
    return MissingCapability(
        broker,
        wanted,
        "use a channel of this process, made by new_channel(), or a layer that keeps "
        "messages: RedisChannelLayer, InMemoryChannelLayer",
    )


def missing_work_queue(broker: Broker) -> MissingCapability:
    """Return the error that says where work can be acknowledged."""
    return MissingCapability(
        broker,
        "taking work that is acknowledged",
        "use RedisStreamsChannelLayer, or InMemoryChannelLayer within one process",
    )


def missing_log(broker: Broker, wanted: str) -> MissingCapability:
    """Return the error that says which layers keep history."""
    return MissingCapability(
        broker, wanted, "use RedisStreamsChannelLayer, or InMemoryChannelLayer(history_size=...)"
    )
