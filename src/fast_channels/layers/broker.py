"""
The narrow interface between a layer and whatever carries its payloads.

A backend fills in `Broker`: five methods, bytes and topics. What only some
brokers can do is a second, smaller form. To write a backend, see
docs/backend.md; to check one, subclass `fast_channels.testing.contract`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

from fast_channels.exceptions import MissingCapability

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .log import Position


class Interrupted(Protocol):
    """What a broker calls after an interruption."""

    def __call__(
        self,
        topics: Iterable[str],
        since: float,
        until: float,
        recovered: bool,
        /,
        *,
        lost: Iterable[str] = (),
    ) -> None:
        """
        Tell the members of topics, since and until when: Unix times in seconds.

        `recovered` is whether everything published meanwhile has arrived after all,
        except in the topics of `lost`. Without `topics`, no connection was lost.
        """
        ...


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
    `deliver` and `interrupted` only on the loop that called `start`.
    """

    async def start(self, deliver: Deliver, interrupted: Interrupted) -> None:
        """
        Get ready; from now on `deliver(topic, *payloads)` in arrival order.

        Raises LayerUnavailable if nobody answers at the configured address.
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
    # The broker's own business.
    place: Any


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
class Popping(Protocol):
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


def pops(broker: object) -> TypeGuard[Popping]:
    """The same as isinstance, for those who ask with each message."""
    # mypy takes the type itself for what its instances are: not to be hashed.
    return _pops(type(broker))  # type: ignore[arg-type]


@functools.cache
def _pops(kind: type) -> bool:
    return issubclass(kind, Popping)


@runtime_checkable
class Batching(Protocol):
    """A broker to which several payloads can travel together."""

    async def publish_many(self, topic: str, payloads: Sequence[bytes]) -> int:
        """Do what `publish` does for each of them, in this order; return the sum."""
        ...


@runtime_checkable
class Unasked(Protocol):
    """A broker that may deliver every topic, subscribed or not: then it is not asked to."""

    # Whether it does.
    delivers_everything: bool


@runtime_checkable
class Flushable(Protocol):
    """A broker that keeps something, and can forget it."""

    async def flush(self) -> None:
        """Delete all that is stored under this layer's prefix, for every process."""
        ...


def no_queue(broker: Broker, wanted: str) -> MissingCapability:
    """Return the error that says where to find a Queue."""
    return MissingCapability(
        broker,
        wanted,
        "use a channel of this process, made by new_channel(), or a layer that keeps "
        "messages: RedisChannelLayer, InMemoryChannelLayer",
    )
