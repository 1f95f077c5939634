"""`async_to_sync(layer.group_send)(...)` from threads: each call has a loop that ends with it."""

from __future__ import annotations

import asyncio
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync

from tests.compat.support import complaints
from tests.compat.thread_sender import MESSAGES, THREADS

SENDER = Path(__file__).with_name("thread_sender.py")

# Seconds until a test gives up on its messages.
PATIENCE = 20.0


@pytest.fixture
async def inbox(redis_layer):
    """A layer with one channel in one group: (layer, channel, group)."""
    async with redis_layer(capacity=1000) as receiving:
        group, channel = f"room.{uuid.uuid4().hex}", await receiving.new_channel()
        await receiving.group_add(group, channel)
        yield receiving, channel, group


async def counts(receiving, channel, total):
    """Return the numbers that arrived from each thread, in order of arrival."""
    arrived = {}
    async with asyncio.timeout(PATIENCE):
        for _ in range(total):
            message = await receiving.receive(channel)
            arrived.setdefault(message["thread"], []).append(message["number"])
    return arrived


def in_order(threads):
    return {thread: list(range(MESSAGES)) for thread in threads}


async def test_process_without_a_loop_sends_from_its_threads(kind, server, inbox):
    """Messages of a sync program arrive in another process, in each thread's order; no warning."""
    receiving, channel, group = inbox
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", SENDER, kind, server.url, group),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    arrived = await counts(receiving, channel, (1 + THREADS) * MESSAGES)
    _, errors = await program.communicate()
    assert arrived == in_order(["main", *range(THREADS)])
    assert (complaints(errors.decode()), program.returncode) == ([], 0)


async def test_one_thread_sends_again_and_again(inbox, redis_layer):
    """Every call arrives, although the loop of the previous call is gone."""
    receiving, channel, group = inbox
    sending = redis_layer()

    def send():
        for number in range(MESSAGES):
            message = {"type": "count", "thread": "one", "number": number}
            async_to_sync(sending.group_send)(group, message)

    await asyncio.to_thread(send)
    assert await counts(receiving, channel, MESSAGES) == in_order(["one"])
    await sending.close()


@pytest.mark.parametrize("shared", [True, False], ids=["receivers_layer", "layer_of_their_own"])
async def test_threads_send_through_one_layer_at_once(inbox, redis_layer, shared):
    """Eight threads share a layer object, open on another loop or on none; nothing is lost."""
    receiving, channel, group = inbox
    sending = receiving if shared else redis_layer()

    def send(thread):
        for number in range(MESSAGES):
            message = {"type": "count", "thread": thread, "number": number}
            async_to_sync(sending.group_send)(group, message)

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(THREADS) as pool:
        threads = [loop.run_in_executor(pool, send, thread) for thread in range(THREADS)]
        arrived = await counts(receiving, channel, THREADS * MESSAGES)
        await asyncio.gather(*threads)
    assert arrived == in_order(range(THREADS))
    if not shared:
        await sending.close()


async def test_threads_send_directly_to_a_channel(inbox, redis_layer):
    """`async_to_sync(layer.send)` to a channel of another layer works like group_send."""
    receiving, channel, _ = inbox
    sending = redis_layer()

    def send(thread):
        async_to_sync(sending.send)(channel, {"type": "count", "thread": thread, "number": 0})

    await asyncio.gather(*(asyncio.to_thread(send, thread) for thread in range(THREADS)))
    arrived = await counts(receiving, channel, THREADS)
    assert arrived == {thread: [0] for thread in range(THREADS)}
    await sending.close()
