"""Layers for code without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures

import pytest
import redis

from fast_channels.exceptions import (
    ChannelFull,
    InvalidMessage,
    InvalidName,
    LayerUnavailable,
    UnknownLayer,
)
from fast_channels.layers import InMemoryChannelLayer, RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.loops import background_loop
from fast_channels.layers.sync import SyncChannelLayer
from fast_channels.testing.server import free_port
from tests.layers.support import RecordingLayer, arrives, comes_true, printed, received

MESSAGE = {"type": "test"}
LAYERS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def layer():
    return RecordingLayer()


@pytest.fixture
def sync(layer):
    facade = SyncChannelLayer(layer)
    yield facade
    facade.close()


def test_facade_finds_its_layer_by_alias(registry, layer):
    """The lookup happens when the facade is made, by default for the alias `default`."""
    registry.register("default", layer)
    registry.register("chat", layer)
    for facade in (SyncChannelLayer(), SyncChannelLayer("chat"), SyncChannelLayer(layer)):
        facade.group_send("room", MESSAGE)
    assert layer.broker.count("publish", "room") == 3
    facade.close()


def test_unknown_alias_is_an_error_at_once(registry, layer):
    """The error has the known aliases."""
    registry.register("chat", layer)
    with pytest.raises(UnknownLayer, match="'default'; registered: 'chat'"):
        SyncChannelLayer()


def test_several_messages_travel_together():
    """The messages go to a channel and to a group."""
    layer = InMemoryChannelLayer()
    facade = SyncChannelLayer(layer)
    facade.group_add("room", "shared")
    facade.send_many("shared", ({"type": "test", "n": n} for n in range(3)))
    facade.group_send_many("room", [{"type": "test", "n": 3}])
    facade.close()
    assert [asyncio.run(received(layer, "shared"))["n"] for _ in range(4)] == [0, 1, 2, 3]


def test_script_that_repeats_itself_sends_once():
    """With a key, the second call returns the position, and the history after it can be read."""
    facade = SyncChannelLayer(InMemoryChannelLayer(history_size=10))
    sent = [facade.group_send("room", MESSAGE, idempotency_key="report-7") for _ in range(2)]
    assert sent[0] == sent[1]
    later = facade.group_send("room", MESSAGE)
    missed = facade.history("room", since=sent[0])
    facade.close()
    assert [kept.position for kept in missed.messages] == [later]


def test_every_method_reaches_the_layer():
    """Plain channels receive messages, alone and as members of groups."""
    layer = InMemoryChannelLayer()
    facade = SyncChannelLayer(layer)
    facade.group_add("room", "shared")
    facade.group_send("room", {"type": "test", "n": 1})
    facade.send("shared", {"type": "test", "n": 2})
    facade.group_discard("room", "shared")
    facade.group_send("room", {"type": "test", "n": 3})
    facade.close()
    assert [asyncio.run(received(layer, "shared"))["n"] for _ in range(2)] == [1, 2]
    assert layer.channels == {}


def test_errors_of_the_layer_are_raised_to_the_caller(registry):
    """The caller gets the same exceptions."""
    facade = SyncChannelLayer(InMemoryChannelLayer(capacity=1))
    facade.send("shared", MESSAGE)
    with pytest.raises(ChannelFull):
        facade.send("shared", MESSAGE)
    with pytest.raises(InvalidName):
        facade.group_send("two words", MESSAGE)
    with pytest.raises(InvalidMessage):
        facade.group_send("room", {5: 5})
    facade.close()


@pytest.mark.parametrize("kind", LAYERS)
def test_server_that_does_not_answer_is_an_error(kind):
    """Each call raises within a limited time."""
    facade = SyncChannelLayer(LAYERS[kind]([f"redis://127.0.0.1:{free_port()}"]))
    for _ in range(2):
        with pytest.raises(LayerUnavailable):
            facade.group_send("room", MESSAGE)


def test_closed_facade_works_again_on_the_next_call(sync, layer):
    """Closing twice is fine, and so is closing an unused facade."""
    sync.close()
    for _ in range(2):
        sync.group_send("room", MESSAGE)
        sync.close()
        sync.close()
    assert [broker.calls[-1] for broker in layer.brokers] == [("stop",)] * 2


@pytest.mark.parametrize("name", ["send", "group_send", "group_add", "group_discard", "close"])
async def test_call_on_a_running_loop_is_refused(name):
    """The call would block the loop; the sentence shows the replacement."""
    layer = RecordingLayer()
    facade = SyncChannelLayer(layer)
    arguments = {
        "send": ("specific.a!b", MESSAGE),
        "group_send": ("room", MESSAGE),
        "group_add": ("room", "a"),
        "group_discard": ("room", "a"),
        "close": (),
    }
    with pytest.raises(RuntimeError, match=f"await layer.{name}"):
        getattr(facade, name)(*arguments[name])
    assert layer.brokers == []


async def test_thread_of_an_application_may_use_the_facade(memory):
    """While the application's loop runs, the message arrives there."""
    inbox = await memory.open_channel()
    await memory.group_add("room", inbox.name)
    await asyncio.to_thread(SyncChannelLayer(memory).group_send, "room", MESSAGE)
    assert await arrives(inbox) == MESSAGE


def test_many_threads_share_one_session(threads, sync, layer):
    """Eight threads send fifty messages each: none is lost, and each thread's order is kept."""
    delivered = []

    def send(thread):
        for n in range(50):
            sync.group_send(f"room-{thread}", {"type": "test", "n": n})
            delivered.append((thread, n))

    concurrent.futures.wait([threads.submit(send, thread) for thread in range(8)])
    assert len(layer.brokers) == 1
    for thread in range(8):
        assert layer.broker.count("publish", f"room-{thread}") == 50
        assert [n for t, n in delivered if t == thread] == list(range(50))


@pytest.mark.parametrize("kind", LAYERS)
def test_messages_of_many_threads_arrive_over_one_connection(threads, redis_url, kind):
    """The server sees one publishing connection, no matter how many threads send."""
    layer = LAYERS[kind]([{"address": redis_url, "client_name": "sender"}])
    facade = SyncChannelLayer(layer)
    receiver = LAYERS[kind]([redis_url], capacity=1000)

    def send(thread):
        for n in range(50):
            facade.group_send("room", {"type": "test", "thread": thread, "n": n})

    async def main():
        async with receiver:
            inbox = await receiver.open_channel()
            await receiver.group_add("room", inbox.name)
            loop = asyncio.get_running_loop()
            sending = [loop.run_in_executor(threads, send, thread) for thread in range(8)]
            messages = [await arrives(inbox) for _ in range(400)]
            await asyncio.gather(*sending)
            return messages

    messages = asyncio.run(main())
    for thread in range(8):
        assert [m["n"] for m in messages if m["thread"] == thread] == list(range(50))
    with redis.Redis.from_url(redis_url) as client:
        assert [c["name"] for c in client.client_list()].count("sender") == 1
        facade.close()
        # The server notices the end a little later.
        comes_true(lambda: "sender" not in [c["name"] for c in client.client_list()])


@pytest.mark.parametrize("kind", LAYERS)
def test_async_to_sync_from_threads_uses_one_connection(threads, redis_url, kind):
    """Each call has its own loop, but none has its own connection."""
    asgiref_sync = pytest.importorskip("asgiref.sync")
    layer = LAYERS[kind]([{"address": redis_url, "client_name": "sender"}])

    def send(_):
        for _ in range(10):
            asgiref_sync.async_to_sync(layer.group_send)("room", MESSAGE)

    list(threads.map(send, range(8)))
    with redis.Redis.from_url(redis_url) as client:
        assert [c["name"] for c in client.client_list()].count("sender") == 1
    assert layer.statistics().published == 80
    SyncChannelLayer(layer).close()


def test_background_loop_is_one_per_process(threads):
    """Many threads may ask for it at the same time."""
    assert len({id(loop) for loop in threads.map(lambda _: background_loop(), range(50))}) == 1
    assert background_loop().is_running()


@pytest.mark.parametrize("kind", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
@pytest.mark.parametrize("ending", ["", "layer.close()", "raise SystemExit(0)"])
def test_script_ends_without_a_word(redis_url, kind, ending):
    """Connections are closed properly, whether or not the script closes its layer."""
    script = f"""
import sys, threading
from fast_channels.layers import {kind}
from fast_channels.layers.sync import SyncChannelLayer

layer = SyncChannelLayer({kind}([sys.argv[1]]))
threads = [
    threading.Thread(target=layer.group_send, args=("room", {{"type": "test"}})) for _ in range(4)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("sent")
{ending}
"""
    assert printed(script, redis_url) == "sent"


def test_script_whose_server_is_gone_ends_with_one_error():
    """The script prints nothing else to standard error."""
    script = """
import sys
from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.sync import SyncChannelLayer

try:
    SyncChannelLayer(RedisChannelLayer([sys.argv[1]])).group_send("room", {"type": "test"})
except LayerUnavailable as exc:
    print(exc)
"""
    port = free_port()
    seen = printed(script, f"redis://127.0.0.1:{port}")
    assert seen.startswith(f"redis://127.0.0.1:{port} does not answer")
    assert seen.endswith("is the server running, and is the address right?")
