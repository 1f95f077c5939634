"""The hub's tables of channels and groups, and its delivery of payloads."""

from __future__ import annotations

import inspect
import logging
import random

import msgspec
import pytest

from fast_channels.layers import names
from fast_channels.layers.codecs import JSONCodec, MsgPackCodec
from fast_channels.layers.hub import Hub
from fast_channels.layers.mailbox import Mailbox
from fast_channels.layers.names import ADDRESS_KEY
from tests.layers.support import RecordingKind, RecordingReader

INBOX = "specific.abc!"


def packed(**message):
    return msgspec.msgpack.encode({"type": "test", **message})


def addressed(to, **message):
    return packed(**{ADDRESS_KEY: to}, **message)


@pytest.fixture
def hub():
    return Hub(MsgPackCodec().decode)


def opened(hub, *channels, capacity=10, overflow="drop_oldest"):
    mailboxes = [Mailbox(channel, capacity, overflow) for channel in channels]
    for mailbox in mailboxes:
        hub.open(mailbox)
    return mailboxes


def taken(mailbox):
    return [mailbox.take() for _ in range(len(mailbox))]


# -- channels and groups -------------------------------------------------------


def test_first_join_makes_a_topic_and_last_leave_ends_it(hub):
    """A topic without members is absent."""
    opened(hub, "a", "b")
    assert hub.join("room", "a")
    assert hub.join("room", "b")
    assert list(hub.members) == ["room"]
    assert not hub.leave("room", "a")
    assert hub.leave("room", "b")
    assert not hub.members


def test_joining_twice_is_one_membership(hub):
    """The second join returns False, and one leave ends the membership."""
    opened(hub, "a")
    assert hub.join("room", "a")
    assert not hub.join("room", "a")
    assert hub.leave("room", "a")
    assert not hub.leave("room", "a")


def test_leaving_a_topic_never_joined_is_nothing(hub):
    """The call has no effect even if the topic has other members."""
    opened(hub, "a", "b")
    hub.join("room", "a")
    assert not hub.leave("room", "b")
    assert not hub.leave("elsewhere", "a")
    assert list(hub.members["room"]) == ["a"]


def test_closing_a_channel_returns_the_topics_that_end_with_it(hub):
    """Topics with other members stay."""
    opened(hub, "a", "b")
    for topic in ("mine", "ours", "mine-too"):
        hub.join(topic, "a")
    hub.join("ours", "b")
    assert sorted(hub.close("a")) == ["mine", "mine-too"]
    assert list(hub.members) == ["ours"]
    assert list(hub.mailboxes) == ["b"]
    assert hub.close("a") == []


def test_losses_of_a_closed_mailbox_stay_counted(hub):
    """The hub's counter takes them over once."""
    (mailbox,) = opened(hub, "a", capacity=1)
    for _ in range(3):
        hub.deliver_to("a", {"type": "test"})
    assert mailbox.dropped == 2
    hub.close("a")
    hub.close("a")
    assert hub.counters.dropped == 2


def test_channels_in_lists_members_with_their_topics(hub):
    """Channels in none of them are absent."""
    opened(hub, "a", "b", "c")
    for topic, channel in [("x", "a"), ("y", "a"), ("x", "b"), ("z", "c")]:
        hub.join(topic, channel)
    assert hub.channels_in(["x", "y", "unknown"]) == {"a": ["x", "y"], "b": ["x"]}


def test_clear_forgets_everybody(hub):
    """The losses stay counted."""
    opened(hub, "a", "b", capacity=1)
    hub.join("room", "a")
    hub.deliver_to("b", {"type": "test"})
    hub.deliver_to("b", {"type": "test"})
    hub.clear()
    assert (hub.mailboxes, hub.members, hub._joined) == ({}, {}, {})
    assert hub.counters.dropped == 1


def test_tables_are_empty_after_churn(hub):
    """Nothing remains of channels that joined, left and closed in any order."""
    chance = random.Random(1)
    live = []
    for n in range(5000):
        action = chance.randrange(5)
        if action == 0 or not live:
            live.append(f"c{n}")
            opened(hub, live[-1])
        elif action == 1:
            hub.close(live.pop(chance.randrange(len(live))))
        elif action == 2:
            hub.leave(f"t{chance.randrange(20)}", chance.choice(live))
        else:
            hub.join(f"t{chance.randrange(20)}", chance.choice(live))
        assert all(hub.members.values()), "a topic without members is absent"
    for channel in live:
        hub.close(channel)
    assert (hub.mailboxes, hub.members, hub._joined) == ({}, {}, {})


def test_no_method_waits():
    """Therefore no join or leave can come between two members of one delivery."""
    for name, method in inspect.getmembers(Hub, inspect.isfunction):
        assert not inspect.iscoroutinefunction(method), name
        assert not inspect.isasyncgenfunction(method), name


# -- deliver -------------------------------------------------------------------


def test_deliver_puts_the_message_into_each_member(hub):
    """Each member gets the decoded message in its own dict; other channels get nothing."""
    first, second, other = opened(hub, "a", "b", "c")
    for channel in ("a", "b"):
        hub.join("room", channel)
    assert hub.deliver("room", packed(list=[1])) == 2
    (one,), (two,) = taken(first), taken(second)
    assert one == two == {"type": "test", "list": [1]}
    assert one is not two
    assert len(other) == 0
    assert hub.counters.delivered == 2


def test_deliver_decodes_once(hub):
    """The number of members does not matter."""
    decoded = []

    def decode(payload):
        decoded.append(payload)
        return msgspec.msgpack.decode(payload)

    hub = Hub(decode)
    opened(hub, *map(str, range(50)))
    for channel in list(hub.mailboxes):
        hub.join("room", channel)
    assert hub.deliver("room", packed()) == 50
    assert len(decoded) == 1


def with_kinds(hub, kinds, *, idle=False):
    """Return mailboxes of members of "room", with a reader of each kind that has a name."""
    mailboxes = opened(hub, *(f"c{number}" for number in range(len(kinds))))
    known = {name: RecordingKind(name) for name in kinds if name}
    for mailbox, name in zip(mailboxes, kinds, strict=True):
        hub.join("room", mailbox.name)
        if name:
            mailbox.listen(RecordingReader(mailbox, idle=idle), known[name].prepare)
    return mailboxes


def prepared(mailbox):
    """The messages that the reader's kind was asked to prepare."""
    return mailbox.prepare.__self__.prepared


def test_message_is_prepared_once_for_each_kind(hub):
    """Readers of a kind share the event; a mailbox without a kind gets the message."""
    mailboxes = with_kinds(hub, ["a", "b", "a", None, "b"])
    assert hub.deliver("room", packed(n=1)) == 5
    got = [mailbox.take() for mailbox in mailboxes]
    assert [event.get("by") for event in got] == ["a", "b", "a", None, "b"]
    assert got[0] is got[2]
    assert got[1] is got[4]
    assert got[3] == {"type": "test", "n": 1}
    assert [len(prepared(mailboxes[number])) for number in (0, 1)] == [1, 1]
    assert hub.counters.delivered == 5


def test_idle_readers_run_within_the_delivery(hub):
    """A busy reader finds the event in its mailbox; no idle one is woken."""
    mailboxes = with_kinds(hub, ["a", "b", "a", "a"], idle=True)
    readers = [mailbox.eager_reader for mailbox in mailboxes]
    readers[3].idle = False
    assert hub.deliver("room", packed(n=1)) == 4
    assert hub.deliver("room", packed(n=2)) == 4
    got = [[event["by"] for (event,) in reader.taken] for reader in readers]
    assert got == [["a", "a"], ["b", "b"], ["a", "a"], []]
    assert [len(mailbox) for mailbox in mailboxes] == [0, 0, 0, 2]
    assert [reader.woken for reader in readers] == [0, 0, 0, 0]
    assert hub.counters.delivered == 8


def test_payloads_that_came_together_reach_a_reader_together(hub):
    """In order, each prepared once; payloads without a message are left out."""
    idle, busy, plain = with_kinds(hub, ["a", "a", None], idle=True)
    busy.eager_reader.idle = False
    payloads = [packed(n=1), b"\xc1 no message", packed(n=2), msgspec.msgpack.encode({"n": 3})]
    assert hub.deliver("room", *payloads) == 9
    wanted = [{"type": "made", "by": "a"}] * 2 + [{"n": 3}]
    assert idle.eager_reader.taken == [wanted]
    assert taken(busy) == wanted
    assert [message["n"] for message in taken(plain)] == [1, 2, 3]
    assert [message["n"] for message in prepared(idle)] == [1, 2]
    assert (hub.counters.delivered, hub.counters.undecodable) == (9, 1)


def test_busy_readers_have_their_messages_before_any_reader_runs(hub):
    """A reader that leaves its group, or closes, changes nothing for this delivery."""
    idle, busy = with_kinds(hub, ["a", "a"], idle=True)
    busy.eager_reader.idle = False
    seen = []
    idle.eager_reader.run = lambda messages: seen.append((len(messages), len(busy)))
    assert hub.deliver("room", packed()) == 2
    assert seen == [(1, 1)]


def test_delivery_within_a_delivery_wakes_readers_and_runs_none(hub):
    """Handlers that send to one another would stack up."""
    first, second = with_kinds(hub, ["a", "a"], idle=True)
    second.eager_reader.run = lambda messages: hub.deliver_to(first.name, {"type": "test"})
    assert hub.deliver("room", packed()) == 2
    assert len(first.eager_reader.taken) == 1
    assert first.eager_reader.woken == 1
    assert len(first) == 1


def test_message_that_cannot_be_prepared_is_a_message(hub):
    """The kind is asked once; each member gets its own dict."""
    mailboxes = with_kinds(hub, ["a", "a"])
    assert hub.deliver("room", packed(bad=True)) == 2
    first, second = [mailbox.take() for mailbox in mailboxes]
    assert first == second == {"type": "test", "bad": True}
    assert first is not second
    assert len(prepared(mailboxes[0])) == 1


@pytest.mark.parametrize("type_", ["other", "", None, 5, 1.5, True, ["test"], {"test": 1}])
def test_message_of_another_type_is_not_prepared(hub, type_):
    """The type does not matter."""
    (mailbox,) = with_kinds(hub, ["a"])
    assert hub.deliver("room", msgspec.msgpack.encode({"type": type_})) == 1
    assert hub.deliver("room", msgspec.msgpack.encode({"n": 1})) == 1
    assert taken(mailbox) == [{"type": type_}, {"n": 1}]
    assert prepared(mailbox) == []


def test_event_that_a_full_mailbox_refuses_is_not_counted_as_delivered(hub):
    """The rule is the same for messages."""
    first, second = with_kinds(hub, ["a", "a"])
    first.overflow, first.capacity = "drop_newest", 0
    assert hub.deliver("room", packed()) == 1
    assert len(second) == hub.counters.delivered == first.dropped == 1


def test_topic_without_members_is_unclaimed(hub):
    """The payload is not even decoded."""
    assert hub.deliver("room", b"\xc1 no message") == 0
    assert (hub.counters.unclaimed, hub.counters.undecodable) == (1, 0)


def test_full_mailbox_that_refuses_is_not_counted_as_delivered(hub):
    """The neighbours' messages are counted."""
    full, _ = (*opened(hub, "a", capacity=1, overflow="drop_newest"), *opened(hub, "b"))
    for channel in ("a", "b"):
        hub.join("room", channel)
    assert hub.deliver("room", packed()) == 2
    assert hub.deliver("room", packed()) == 1
    assert (hub.counters.delivered, full.dropped) == (3, 1)


def random_bytes():
    chance = random.Random(9)
    return [chance.randbytes(chance.randrange(1, 40)) for _ in range(300)]


@pytest.mark.parametrize("codec", [MsgPackCodec(), JSONCodec()], ids=["msgpack", "json"])
def test_random_bytes_are_counted_and_skipped(codec, caplog):
    """None raises or is delivered unless it decodes to a mapping, and the log stays short."""
    hub = Hub(codec.decode)
    (mailbox,) = opened(hub, "a", capacity=1000)
    hub.join("room", "a")
    payloads = random_bytes()
    with caplog.at_level(logging.WARNING, "fast_channels.layers"):
        for payload in payloads:
            hub.deliver("room", payload)
            hub.deliver_addressed(INBOX, payload)
    logged = [record for record in caplog.records if record.name == "fast_channels.layers"]
    assert hub.counters.undecodable > 500
    # The 1st, 2nd, 4th, and so on.
    assert len(logged) == hub.counters.undecodable.bit_length()
    assert all(isinstance(message, dict) for message in taken(mailbox))


@pytest.mark.parametrize(
    "payload",
    [b"", *map(msgspec.msgpack.encode, [None, 5, "text", [], [1], b"bytes", True, 1.5])],
    ids=repr,
)
@pytest.mark.parametrize("way", ["deliver", "deliver_addressed"])
def test_payload_that_is_no_mapping_is_counted_and_skipped(hub, caplog, payload, way):
    """The log has the reason without a traceback, and later payloads are delivered."""
    (mailbox,) = opened(hub, "a")
    hub.join("a", "a")
    assert getattr(hub, way)("a", payload) == 0
    assert hub.counters.undecodable == 1
    (record,) = caplog.records
    assert f"skipped a payload of {len(payload)} bytes" in record.getMessage()
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert getattr(hub, way)("a", packed()) == 1
    assert taken(mailbox) == [{"type": "test"}]


def test_codec_that_raises_anything_is_survived(caplog):
    """Decoders of third parties may raise any exception."""

    def decode(payload):
        raise ZeroDivisionError("of all things")

    hub = Hub(decode)
    opened(hub, "a")
    hub.join("room", "a")
    assert hub.deliver("room", b"x") == 0
    assert "ZeroDivisionError: of all things" in caplog.text


# -- deliver_addressed ---------------------------------------------------------


def test_string_addresses_one_channel(hub):
    """The receiver does not see the address."""
    first, second = opened(hub, f"{INBOX}a", f"{INBOX}b")
    assert hub.deliver_addressed(INBOX, addressed(f"{INBOX}a", n=1)) == 1
    assert taken(first) == [{"type": "test", "n": 1}]
    assert len(second) == 0


def test_list_addresses_several_channels(hub):
    """Each channel gets its own dict."""
    first, second, other = opened(hub, f"{INBOX}a", f"{INBOX}b", f"{INBOX}c")
    assert hub.deliver_addressed(INBOX, addressed([f"{INBOX}a", f"{INBOX}b"])) == 2
    (one,), (two,) = taken(first), taken(second)
    assert one == two == {"type": "test"}
    assert one is not two
    assert len(other) == 0


def test_channel_that_is_listed_twice_receives_once(hub):
    """A peer may have stored one member twice."""
    (mailbox,) = opened(hub, f"{INBOX}a")
    assert hub.deliver_addressed(INBOX, addressed([f"{INBOX}a"] * 3)) == 1
    assert len(mailbox) == 1


def test_group_address_means_every_member_here(hub):
    """Members of other groups get nothing."""
    first, second, other = opened(hub, f"{INBOX}a", f"{INBOX}b", f"{INBOX}c")
    for topic, local in [("room", "a"), ("room", "b"), ("elsewhere", "c")]:
        hub.join(topic, INBOX + local)
    to = [names.group_address(INBOX, "room")]
    assert hub.deliver_addressed(INBOX, addressed(to)) == 2
    assert (len(first), len(second), len(other)) == (1, 1, 0)


def test_channel_meant_by_name_and_as_a_member_receives_once(hub):
    """Another process added the channel by name, and it joined by itself."""
    first, second, third = opened(hub, f"{INBOX}a", f"{INBOX}b", f"{INBOX}c")
    for local in ("a", "b"):
        hub.join("room", INBOX + local)
    address = names.group_address(INBOX, "room")
    to = [f"{INBOX}a", address, f"{INBOX}c", address]
    assert hub.deliver_addressed(INBOX, addressed(to)) == 3
    assert (len(first), len(second), len(third)) == (1, 1, 1)


def test_payload_without_address_is_for_the_topic_itself(hub):
    """The payload is unclaimed if no channel here has that name."""
    (mailbox,) = opened(hub, "plain")
    assert hub.deliver_addressed("plain", packed()) == 1
    assert len(mailbox) == 1
    assert hub.deliver_addressed(INBOX, packed()) == 0
    assert hub.counters.unclaimed == 1


def test_unknown_receivers_are_unclaimed(hub):
    """Each unknown one is counted, and the known ones receive the message."""
    opened(hub, f"{INBOX}a")
    assert hub.deliver_addressed(INBOX, addressed([f"{INBOX}{c}" for c in "abc"])) == 1
    assert (hub.counters.unclaimed, hub.counters.delivered) == (2, 1)


@pytest.mark.parametrize("to", ["", [], "no!body", ["group.", "!", "!group.x"]])
def test_address_of_nobody_delivers_nothing(hub, to):
    """An empty list is a valid address."""
    opened(hub, f"{INBOX}a")
    assert hub.deliver_addressed(INBOX, addressed(to)) == 0
    assert hub.counters.undecodable == 0


@pytest.mark.parametrize(
    "to",
    [5, None, True, 1.5, b"bytes", {"a": 1}, [1, 2], ["a", 1], [["a"]], [None], [{"a": 1}]],
    ids=repr,
)
def test_malformed_address_is_counted_and_skipped(hub, caplog, to):
    """No channel receives a message with any malformed address."""
    (mailbox,) = opened(hub, f"{INBOX}a")
    assert hub.deliver_addressed(INBOX, addressed(to)) == 0
    assert (len(mailbox), hub.counters.undecodable) == (0, 1)
    assert f"{ADDRESS_KEY} is neither a name nor a list of names" in caplog.text


# -- deliver_to ----------------------------------------------------------------


def test_deliver_to_a_channel_of_this_process(hub):
    """A message for an absent channel is unclaimed."""
    (mailbox,) = opened(hub, "a")
    assert hub.deliver_to("a", {"type": "test"}) == 1
    assert hub.deliver_to("b", {"type": "test"}) == 0
    assert taken(mailbox) == [{"type": "test"}]
    assert (hub.counters.delivered, hub.counters.unclaimed) == (1, 1)
