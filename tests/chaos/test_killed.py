"""A killed process leaves no members behind in its groups."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from tests.chaos.receiver import STANDS_STILL
from tests.chaos.support import MARGIN, ROOM, listening, number, within
from tests.layers.support import arrives

LEASE = 4.0
# Seconds after which everything that has an expiry ends.
EXPIRY = 3.0
GROUPS = ["room", "hall", "attic"]


@pytest.fixture
def start_member():
    """Start processes that join GROUPS; give each with the name of its channel."""
    with contextlib.ExitStack() as stack:

        def start(kind, url):
            script = Path(__file__).with_name("member.py")
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, script, kind, url, str(LEASE), *GROUPS],
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(process.kill)
            return process, process.stdout.readline().strip()

        yield start


@pytest.fixture
def start_receiver():
    """Start a process that receives jobs and prints their numbers."""
    with contextlib.ExitStack() as stack:

        def start(url, lease):
            script = Path(__file__).with_name("receiver.py")
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, script, url, str(lease)], stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            return process

        yield start


async def test_process_that_was_killed_is_forgotten(server, make_layer, start_member):
    """Within one and a half leases its members and its inbox are gone; other members stay."""
    living = await make_layer("queue", [server.url], lease=LEASE)
    mailbox = await living.open_channel()
    await living.group_add("room", mailbox.name)
    with redis.Redis.from_url(server.url) as raw:
        killed, channel = start_member("queue", server.url)
        inbox = "asgi" + channel.partition("!")[0] + "!"
        await within(MARGIN, lambda: raw.zcard("asgi:group:room") == 2)
        killed.kill()
        killed.wait()
        died = time.monotonic()
        await living.group_send("room", number(1))
        await living.send(channel, number(2))
        assert raw.zcard(inbox) == 2
        await within(1.5 * LEASE + MARGIN, lambda: not raw.exists(inbox))
        assert time.monotonic() - died <= 1.5 * LEASE + MARGIN
        assert [raw.zcard(f"asgi:group:{group}") for group in GROUPS] == [1, 0, 0]
        # Senders do not write to it any more.
        await living.group_send("room", number(3))
        assert not raw.exists(inbox)
        assert [(await arrives(mailbox))["n"] for _ in range(2)] == [1, 3]


async def test_consumers_that_are_idle_longer_than_every_expiry_stay_members(
    server, make_layer, registry
):
    """Other processes may remove members that are gone, but never members that are alive."""
    short = {"lease": EXPIRY, "expiry": EXPIRY, "group_expiry": EXPIRY}
    layer, other = [await make_layer("queue", [server.url], **short) for _ in range(2)]
    registry.register("queue", layer)
    async with listening("queue") as seen:
        await asyncio.sleep(1.3 * EXPIRY)
        await other.group_send(ROOM, number(1))
        await within(MARGIN, lambda: all(each.numbers == [1] for each in seen))
    assert not any(each.gaps for each in seen)


async def test_messages_that_a_killed_process_had_taken_are_received_by_others(
    server, make_layer, start_receiver
):
    """Each message that the process had taken comes once, and none is lost."""
    layer = await make_layer("queue", [server.url], capacity=1000, lease=LEASE)
    await layer.send_many("jobs", [number(n) for n in range(600)])
    killed = start_receiver(server.url, LEASE)
    seen = [int(line) for line in iter(lambda: killed.stdout.readline().strip(), STANDS_STILL)]
    assert seen == list(range(len(seen)))
    with redis.Redis.from_url(server.url) as raw:
        # Some messages are neither in the channel nor received.
        assert raw.zcard("asgijobs") < 600 - len(seen)
        killed.kill()
        killed.wait()
        rest = [(await layer.receive("jobs"))["n"] for _ in range(raw.zcard("asgijobs"))]
        async with asyncio.timeout(1.5 * LEASE + MARGIN):
            while len(rest) < 600 - len(seen):
                rest.append((await layer.receive("jobs"))["n"])
    assert sorted(rest) == list(range(len(seen), 600))


async def test_subscriptions_of_a_process_that_was_killed_are_gone(server, start_member):
    """The server closes its connections, and nothing else existed."""
    with redis.Redis.from_url(server.url) as raw:
        killed, _ = start_member("pubsub", server.url)
        assert {f"asgi__group__{group}".encode() for group in GROUPS} < set(raw.pubsub_channels())
        killed.kill()
        killed.wait()
        await within(MARGIN, lambda: raw.pubsub_channels() == [])
        assert raw.keys("*") == []
