"""
The channels of this process, their topics, and deliver(): the hot path.

Every message for a channel of this process passes through `deliver`, `deliver_addressed` or
`deliver_to`. No method waits, so none can be interrupted half-way and none needs a lock.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

from . import names
from .addressing import InboxAddressing
from .position import PositionedMessage
from .statistics import Counters, Statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence

    from fast_channels.type_defs import ChannelMessage

    from .addressing import Addressing
    from .mailbox import Mailbox, Prepare
    from .position import Position

logger = logging.getLogger("fast_channels.layers")

# Topics of one channel that are kept in a tuple, which takes a quarter of the memory of a set.
TUPLE_LIMIT = 4


class Hub:
    """
    The channels of this process, and the groups they are in.

    `members` and `mailboxes` are for reading; only the methods here change them.
    """

    def __init__(
        self,
        decode: Callable[[bytes], Any],
        addressing: Addressing | None = None,
        counters: Counters | None = None,
    ) -> None:
        self.counters = counters or Counters()
        """Counters of this and of earlier sessions of the layer."""
        self.mailboxes: dict[str, Mailbox] = {}
        """The mailbox of every open channel of this process."""
        # A topic without members is absent, so presence here equals wanting a subscription at
        # the broker. The inner dict is an ordered set.
        self.members: dict[str, dict[str, None]] = {}
        """The channels in each topic, in the order in which they joined and receive."""
        # Topics per channel, to leave them all without a search.
        self._joined: dict[str, tuple[str, ...] | set[str]] = {}
        # Topics that are wanted even without a member, and by how many callers.
        self._held = Counter[str]()
        self._decode = decode
        self._addressing = addressing or InboxAddressing()
        # True while readers handle messages within a delivery.
        self._running_readers = False

    # -- channels and topics ------------------------------------------------

    def open(self, mailbox: Mailbox) -> None:
        self.mailboxes[mailbox.name] = mailbox

    def close(self, channel: str) -> list[str]:
        """Forget a channel; return the topics that have no member left."""
        mailbox = self.mailboxes.pop(channel, None)
        if mailbox is not None:
            mailbox.close()
            self.counters.dropped += mailbox.dropped
        return [topic for topic in self._joined.pop(channel, ()) if self._remove(topic, channel)]

    def join(self, topic: str, channel: str) -> bool:
        """Make `channel` a member; return False if it was one."""
        members = self.members.setdefault(topic, {})
        if channel in members:
            return False
        members[channel] = None
        joined = self._joined.get(channel, ())
        if isinstance(joined, set):
            joined.add(topic)
        else:
            self._joined[channel] = (
                (*joined, topic) if len(joined) < TUPLE_LIMIT else {*joined, topic}
            )
        return True

    def leave(self, topic: str, channel: str) -> bool:
        """End a membership if there is one; return True if it was the last of the topic."""
        joined = self._joined.get(channel)
        if joined is None or topic not in joined:
            return False
        if isinstance(joined, set):
            joined.remove(topic)
        else:
            joined = self._joined[channel] = tuple(other for other in joined if other != topic)
        if not joined:
            del self._joined[channel]
        return self._remove(topic, channel)

    def channels_in(self, topics: Iterable[str]) -> dict[str, list[str]]:
        """
        Return which of `topics` each channel is a member of; channels in none are absent.

        An inbox is for all channels, each of which may have been sent something.
        """
        topics = list(topics)
        found: dict[str, list[str]] = {}
        if any(map(self._addressing.is_inbox, topics)):
            found = {channel: [] for channel in self.mailboxes}
        for topic in topics:
            for channel in self.members.get(topic, ()):
                found.setdefault(channel, []).append(topic)
        return found

    def __contains__(self, topic: object) -> bool:
        """Return whether a topic is wanted: it has members, or is held."""
        return topic in self.members or topic in self._held

    def want(self, topic: str) -> None:
        """Want a topic, with or without members, until `let_go`."""
        self._held[topic] += 1

    def let_go(self, topic: str) -> None:
        self._held[topic] -= 1
        if self._held[topic] <= 0:
            del self._held[topic]

    @contextlib.contextmanager
    def hold(self, topic: str) -> Generator[None]:
        """Keep `topic` wanted inside the block, even without members."""
        self.want(topic)
        try:
            yield
        finally:
            self.let_go(topic)

    def clear(self) -> None:
        for channel in list(self.mailboxes):
            self.close(channel)
        self.members.clear()
        self._joined.clear()
        self._held.clear()

    def _remove(self, topic: str, channel: str) -> bool:
        members = self.members[topic]
        del members[channel]
        if members:
            return False
        del self.members[topic]
        return True

    def statistics(self, subscriptions: int) -> Statistics:
        """Return the counters as they stand, and the sizes of the tables."""
        is_group = self._addressing.group_of
        groups = [members for topic, members in self.members.items() if is_group(topic) is not None]
        return self.counters.frozen(
            dropped=sum(mailbox.dropped for mailbox in self.mailboxes.values()),
            channels=len(self.mailboxes),
            waiting=sum(map(len, self.mailboxes.values())),
            groups=len(groups),
            members=sum(map(len, groups)),
            subscriptions=subscriptions,
        )

    # -- deliver ------------------------------------------------------------

    def deliver(self, topic: str, *payloads: bytes, positions: Sequence[Position] = ()) -> int:
        """
        Put the messages of payloads into the mailbox of every member of `topic`.

        Returns how many messages the mailboxes have taken. Each member gets its own dict for each
        message, and shares the values inside it. `positions` are given for payloads of a log, one
        for each.
        """
        members = self.members.get(topic)
        if members is None:
            if self._addressing.is_inbox(topic):
                return self.deliver_addressed(topic, *payloads)
            # The payloads were under way when the last member left.
            self.counters.unclaimed += len(payloads)
            return 0
        decoded = map(self.decoded, payloads)
        if positions:
            found = zip(decoded, positions, strict=True)
            placed = [(message, position) for message, position in found if message is not None]
            return self._put(
                members,
                [message for message, _ in placed],
                [(topic, position) for _, position in placed],
            )
        return self._put(members, [message for message in decoded if message is not None])

    def deliver_addressed(self, topic: str, *payloads: bytes) -> int:
        """Like `deliver`, for payloads that carry the names of the channels they are for."""
        addressed = (self._addressed(topic, payload) for payload in payloads)
        delivered = 0
        for to, run in groupby(filter(None, addressed), key=itemgetter(0)):
            messages = [message for _, message in run]
            # A dict, because a channel may be addressed twice: by its own name and as a member of
            # a group that this process joined.
            channels: dict[str, None] = {}
            for name in to:
                group = names.group_of_address(name)
                channels |= {name: None} if group is None else self.members.get(group, {})
            if not channels:
                # The address has no names, or the last member of the group has left.
                self.counters.unclaimed += len(messages)
            delivered += self._put(channels, messages)
        return delivered

    def deliver_to(self, channel: str, message: ChannelMessage) -> int:
        """Deliver a message that never left this process to one channel."""
        return self._put((channel,), [message])

    def _put(
        self,
        channels: Iterable[str],
        messages: Sequence[ChannelMessage],
        places: Sequence[tuple[str, Position]] = (),
    ) -> int:
        """Put messages into mailboxes, and let idle readers handle theirs at once."""
        delivery, number = _Delivery(messages, places), len(messages)
        # Not within a delivery that a handler causes: handlers would stack up.
        run_readers = not self._running_readers
        idle: list[Mailbox] = []
        delivered = 0
        for channel in channels:
            mailbox = self.mailboxes.get(channel)
            if mailbox is None:
                self.counters.unclaimed += number
                continue
            reader = mailbox.eager_reader
            if reader is not None and reader.idle and run_readers:
                reader.idle = False
                idle.append(mailbox)
            else:
                delivered += sum(map(mailbox.put, delivery.copies(mailbox)))
        delivered += number * len(idle)
        self.counters.delivered += delivered
        if idle and (reader := idle[0].eager_reader) is not None:
            # Last, so that no membership changes half-way.
            self._running_readers = True
            try:
                reader.run_all(idle, delivery.copies)
            finally:
                self._running_readers = False
        return delivered

    def _addressed(self, topic: str, payload: bytes) -> tuple[list[str], ChannelMessage] | None:
        """Return the names that a payload is addressed to, and its message; None for garbage."""
        message = self.decoded(payload)
        if message is None:
            return None
        to = _addressed_to(message.pop(names.ADDRESS_KEY, topic))
        if to is None:
            self._undecodable(payload, f"{names.ADDRESS_KEY} is neither a name nor a list of names")
            return None
        return to, message

    def decoded(self, payload: bytes) -> dict[str, Any] | None:
        """Return the message in a payload. Count and log other payloads, and return None."""
        try:
            message = self._decode(payload)
        except Exception as exc:  # noqa: BLE001 - any codec, any bytes; the reader must go on
            self._undecodable(payload, f"{type(exc).__name__}: {exc}")
            return None
        if not isinstance(message, dict):
            self._undecodable(payload, f"it is a {type(message).__name__}, not a mapping")
            return None
        return cast("dict[str, Any]", message)

    def _undecodable(self, payload: bytes, reason: str) -> None:
        self.counters.undecodable += 1
        count = self.counters.undecodable
        # The 1st, 2nd, 4th, 8th ...: one peer with a wrong key must not fill the log.
        if count & (count - 1) == 0:
            logger.warning(
                "skipped a payload of %d bytes (%d so far): %s", len(payload), count, reason
            )


class _Delivery:
    """The messages of one delivery, in the form that each member gets."""

    __slots__ = ("_messages", "_places", "_prepared")

    def __init__(
        self, messages: Sequence[ChannelMessage], places: Sequence[tuple[str, Position]]
    ) -> None:
        self._messages = messages
        # The topic and the position of each message, if they are of a log.
        self._places = places
        # What mailboxes with the same `prepare` share: an event for each message, or None where
        # each mailbox gets a copy of the message; and how many events there are.
        self._prepared: dict[Prepare, tuple[list[Any], int]] = {}

    def copies(self, mailbox: Mailbox) -> Sequence[ChannelMessage]:
        """Return the messages for a mailbox: copies, positioned messages or shared events."""
        messages, prepare = self._messages, mailbox.prepare
        if self._places and mailbox.positioned:
            return list(map(PositionedMessage, messages, *zip(*self._places, strict=True)))
        if prepare is not None:
            events, number = self._prepared.get(prepare) or self._prepare(prepare)
            if number == len(messages):
                return events
            if number:
                return [
                    event or {**message} for event, message in zip(events, messages, strict=True)
                ]
        return [{**message} for message in messages]

    def _prepare(self, prepare: Prepare) -> tuple[list[Any], int]:
        events = list(map(prepare, self._messages))
        prepared = self._prepared[prepare] = events, len(events) - events.count(None)
        return prepared


def _addressed_to(address: Any) -> list[str] | None:
    """Return the names in an address, or None for anything else: any peer may have sent it."""
    if isinstance(address, str):
        return [address]
    if isinstance(address, list):
        listed: list[Any] = address
        return listed if all(isinstance(name, str) for name in listed) else None
    return None
