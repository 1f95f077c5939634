"""Dead processes are removed by others, and living ones never. Covers _inbox.py."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import warnings

import pytest

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis import _inbox, _reader
from fast_channels.testing import inspect
from tests.layers.redis.support import outages
from tests.layers.support import arrives, becomes, turns

MESSAGE = {"type": "test"}
LEASE = 0.6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


@pytest.fixture
async def opened(redis_url):
    """Makes layers, and closes them after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(**options):
            layer = RedisChannelLayer([redis_url], **{"lease": LEASE, **options})
            return await stack.enter_async_context(layer)

        yield make


async def die(layer):
    """Let a layer's connections end without a farewell, as a killed process does."""
    broker = inspect.broker(layer)
    for inbox in broker.inboxes:
        await inbox.tracker.reader.stop()
        # Nothing that stop() would do is done.
        inbox.inboxes = []
    for server in broker.servers:
        await server.close()


async def reads(layer):
    """Return once a layer's reader has found everything in order."""
    (inbox,) = inspect.broker(layer).inboxes
    await becomes(lambda: inbox.tracker.reader.is_connected)
    return inbox


def left_by(client, layer):
    """Return the keys that a process left, except for short-lived ones."""
    keys = {key.decode() for key in client.keys(f"*{layer.process}*")}
    return {key for key in keys if ":batch:" not in key and ":heartbeat:" not in key}


def members(client, group="room"):
    return {name.decode() for name in client.zrange(f"asgi:group:{group}", 0, -1)}


async def test_dead_process_is_removed_by_one_that_lives(opened, client):
    """The inbox and all memberships go, although no process sends to them."""
    # Not so soon that it is removed before it is looked at.
    dying, living = await opened(lease=3), await opened()
    mine, other = await dying.open_channel(), await living.open_channel()
    for group in ("room", "hall"):
        await dying.group_add(group, mine.name)
    await living.group_add("room", other.name)
    await die(dying)
    await living.send(mine.name, MESSAGE)
    assert len(members(client)) == 2
    await becomes(lambda: not left_by(client, dying))
    assert len(members(client)) == 1
    assert members(client, "hall") == set()
    await living.group_send("room", MESSAGE)
    assert await arrives(other) == MESSAGE


async def test_sender_removes_dead_processes_before_it_sends(opened, redis_url, client):
    """The sender need not receive anything or hold a lease."""
    dying = await opened()
    inbox = await dying.open_channel()
    await dying.group_add("room", inbox.name)
    await die(dying)
    await becomes(lambda: client.zcount("asgi:leases", "-inf", now(client)) == 1)
    async with RedisChannelLayer([redis_url]) as sender:
        await sender.group_send("room", MESSAGE)
    assert members(client) == left_by(client, dying) == set()
    assert client.zcard("asgi:leases") == 0


async def test_member_that_another_process_added_is_removed_too(opened, client):
    """The full name of the member says which process has the channel."""
    dying, living = await opened(), await opened()
    inbox = await dying.open_channel()
    await living.open_channel()
    await living.group_add("room", inbox.name)
    assert members(client) == {inbox.name}
    await die(dying)
    await becomes(lambda: not members(client))


async def test_member_of_a_peer_is_left_alone(opened, client):
    """Django processes hold no lease, and expire as they always did."""
    layer = await opened()
    await layer.open_channel()
    await layer.group_add("room", "specific.0123456789abcdef!local")
    await becomes(lambda: client.zcard("asgi:leases") == 1)
    renewed = client.zscore("asgi:leases", layer.process)
    await becomes(lambda: client.zscore("asgi:leases", layer.process) > renewed + LEASE)
    assert members(client) == {"specific.0123456789abcdef!local"}


async def test_process_that_lives_keeps_its_lease(opened, client, caplog):
    """However long it is idle."""
    # A process that stands still for as long as that has lost something.
    layer = await opened(lease=6, group_expiry=6, expiry=6)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    ends = client.zscore("asgi:leases", layer.process)
    await becomes(lambda: client.zscore("asgi:leases", layer.process) > ends + 3)
    await layer.group_send("room", MESSAGE)
    assert await arrives(inbox) == MESSAGE
    assert outages(caplog) == []


async def test_process_that_closes_leaves_nothing(opened, client, monkeypatch):
    """The lease ends at once, and all its keys are removed."""
    monkeypatch.setattr(_inbox, "CLOSE_TIMEOUT_SECONDS", 15)
    layer = await opened()
    inbox = await layer.open_channel()
    for group in ("room", "hall"):
        await layer.group_add(group, inbox.name)
    await layer.close()
    assert left_by(client, layer) == members(client) == members(client, "hall") == set()
    assert client.zcard("asgi:leases") == 0


async def test_process_that_was_removed_though_it_lives_returns(opened, client, caplog):
    """The process joins its groups again, and tells that messages may be missing."""
    # It is back in a third of that, and not before it was looked at.
    layer, other = await opened(lease=9), await opened()
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await reads(layer)
    client.zadd("asgi:leases", {layer.process: 0})
    await other.group_send("room", MESSAGE)
    assert members(client) == set()
    await becomes(lambda: members(client))
    gap = await arrives(inbox)
    assert (gap["type"], gap["groups"], gap["recovered"]) == ("layer.gap", ["room"], False)
    await other.group_send("room", MESSAGE)
    assert await arrives(inbox) == MESSAGE
    assert next(level for level, _ in outages(caplog)) == "WARNING"


async def test_gap_of_a_process_that_was_removed_begins_when_it_last_was_sure(opened, client):
    """The connection worked all the time, but messages in between were lost."""
    layer, other = await opened(lease=9, heartbeat_interval=0.5), await opened()
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    reader = (await reads(layer)).tracker.reader
    client.zadd("asgi:leases", {layer.process: 0})
    await other.group_send("room", MESSAGE)
    lost_at, tick = time.time(), time.monotonic()
    await becomes(lambda: reader.heard_at > tick)
    gap = await arrives(inbox)
    assert gap["recovered"] is False
    assert gap["since"] <= lost_at <= gap["until"]


async def test_removal_is_told_also_if_a_new_inbox_comes_first(opened, client):
    """Checking access for the new inbox finds the removal, and must not hide it."""
    layer, other = await opened(lease=30), await opened()
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await reads(layer)
    client.zadd("asgi:leases", {layer.process: 0})
    await other.group_send("room", MESSAGE)
    assert members(client) == set()
    await layer.new_channel("another")
    gap = await arrives(inbox)
    assert (gap["type"], gap["recovered"]) == ("layer.gap", False)
    assert members(client)


@pytest.mark.parametrize("moment", ["asleep", "awake"])
async def test_process_that_stood_still_for_longer_than_expiry_tells_so(
    opened, monkeypatch, moment
):
    """The process kept its lease, but senders have removed expired messages."""
    layer = await opened(expiry=0.6, lease=60)
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    reader = await reads(layer)
    go_on = reader._leave_late

    async def stand_still():
        monkeypatch.setattr(reader, "_leave_late", go_on)
        # The circumstance under test: the loop stands still, as the process would.
        time.sleep(1)  # noqa: ASYNC251 - longer than its expiry, and no await would stop the loop

    if moment == "asleep":
        # It waits for the next renewal by now.
        await stand_still()
    else:
        # One of the things that it does after a renewal.
        monkeypatch.setattr(reader, "_leave_late", stand_still)
    gap = await arrives(inbox)
    assert (gap["type"], gap["recovered"]) == ("layer.gap", False)


async def test_group_that_is_joined_while_others_are_left_stays(opened, client, monkeypatch):
    """Groups left in an outage are left later, unless they were joined again by then."""
    monkeypatch.setattr(_inbox, "MAX_RENEWED_AT_ONCE", 1)
    layer = await opened(lease=30)
    mine = await layer.open_channel()
    inbox = await reads(layer)
    leave, leaving, goes_on = inbox._leave, [], asyncio.Event()

    async def leave_slowly(topic):
        leaving.append(topic)
        await goes_on.wait()
        await leave(topic)

    monkeypatch.setattr(inbox, "_leave", leave_slowly)
    inbox.left |= {"hall", "room"}
    restoring = asyncio.create_task(inbox._restore())
    await becomes(lambda: leaving)
    joined = ({"hall", "room"} - set(leaving)).pop()
    await layer.group_add(joined, mine.name)
    goes_on.set()
    await restoring
    assert len(members(client, joined)) == 1


async def test_group_that_could_not_be_left_is_left_soon(opened, client):
    """The next renewal of memberships, hours later, would be too late."""
    layer = await opened()
    mine = await layer.open_channel()
    await layer.group_add("room", mine.name)
    inbox = await reads(layer)
    inbox.joined.discard("room")
    inbox.left.add("room")
    await becomes(lambda: not inbox.left)
    assert members(client) == set()


async def test_group_that_is_joined_during_a_flush_stays(opened, client):
    """Only memberships from before the flush are deleted."""
    layer = await opened(lease=30)
    mine = await layer.open_channel()
    await layer.group_add("room", mine.name)
    inbox = await reads(layer)
    client.flushdb()
    await inbox.begin_anew()
    assert len(members(client)) == 1


async def test_member_that_another_process_removed_is_forgotten_entirely(opened, client):
    """The belongings of its process do not list it any more."""
    living, other = await opened(), await opened()
    inbox = await living.open_channel()
    things = f"asgi:process:{living.process}"
    await becomes(lambda: client.exists(things))
    before = client.smembers(things)
    await other.group_add("room", inbox.name)
    assert client.smembers(things) != before
    await other.group_discard("room", inbox.name)
    assert client.smembers(things) == before


async def test_flush_of_ones_own_is_no_outage(opened, client, caplog):
    """The process takes a new lease at once, even if its reader renews it meanwhile."""
    layer = await opened(lease=9)
    await layer.open_channel()
    reader = await reads(layer)
    for _ in range(10):
        flushing = asyncio.create_task(layer.flush())
        await turns(2)
        while not flushing.done():
            await reader.renew_lease()
        await flushing
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    ends = client.zscore("asgi:leases", layer.process)
    await becomes(lambda: client.zscore("asgi:leases", layer.process) > ends)
    assert outages(caplog) == []
    assert len(inbox) == 0


async def test_many_dead_processes_are_removed(opened, client):
    """In steps, so that no step takes long."""
    living = await opened()
    await living.open_channel()
    for number in range(25):
        member = f"specific.{number:032x}!group.room"
        client.zadd("asgi:leases", {f"{number:032x}": 1})
        client.zadd("asgi:group:room", {member: 1e11})
        client.sadd(f"asgi:process:{number:032x}", f"member {member} asgi:group:room")
    await living.group_send("room", MESSAGE)
    assert client.exists("asgi:group:room") == 0
    assert client.zcard("asgi:leases") == 1


def now(client):
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


@pytest.mark.parametrize("value", [0, -1, "5", None, True])
@pytest.mark.parametrize(
    "name", ["lease", "send_timeout", "heartbeat_interval", "expiry", "group_expiry"]
)
def test_option_that_is_no_time_is_refused_at_once(name, value):
    """With its name and value."""
    with pytest.raises(ValueError, match=rf"{name} is {value!r}; .* seconds"):
        RedisChannelLayer(**{name: value})


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["there", "here"])
async def test_messages_sent_together_keep_their_order_while_processes_are_removed(
    opened, client, keys
):
    """A call that removes processes does not send first."""
    options = {"lease": 30, "symmetric_encryption_keys": keys}
    layer, other = await opened(**options), await opened(**options)
    mailbox = await other.open_channel()
    await other.group_add("room", mailbox.name)
    for again in range(3):
        # More than one call removes.
        client.zadd("asgi:leases", {f"{number:032x}": 1 for number in range(45)})
        await layer.group_send_many("room", [{"type": "test", "n": n} for n in range(10)])
        seen = [(await arrives(mailbox))["n"] for _ in range(10)]
        assert (again, seen) == (again, list(range(10)))
        assert client.zcard("asgi:leases") == 1


async def test_member_that_cannot_be_added_leaves_no_warning(opened):
    """Later commands of the same call are not begun."""
    layer = await opened()
    await inspect.broker(layer).servers[0].control.close()
    # Objects of other tests must not be found here.
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(LayerUnavailable):
            await layer.group_add("room", "specific.other!abc")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
