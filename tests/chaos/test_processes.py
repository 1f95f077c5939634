"""Several workers, threads, forks, and one event loop after another."""

from __future__ import annotations

import asyncio
import gc
import sys
from asyncio.subprocess import PIPE

import pytest
import redis

from fast_channels.layers import InMemoryChannelLayer, RedisChannelLayer, RedisPubSubChannelLayer
from tests.chaos.web import WebProcess
from tests.layers.support import FORK_IS_MEANT, arrives

REDIS_LAYERS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}
KINDS = ["memory", *REDIS_LAYERS]
NAMES = {"queue": "RedisChannelLayer", "pubsub": "RedisPubSubChannelLayer"}

# Granian's workers may miss a signal that comes soon after their start.
GRANIAN = "granian --interface asgi --port {port} --workers 2 --workers-kill-timeout 1"

COMMANDS = {
    "uvicorn": "uvicorn --port {port} --workers 2 rolling:app",
    "granian": f"{GRANIAN} rolling:app",
    "hypercorn": "hypercorn --bind 127.0.0.1:{port} --workers 2 rolling:app",
}
RELOADING = "uvicorn --port {port} --reload rolling:app"
WARNING = "several workers serve this application"


# -- workers -------------------------------------------------------------------


@pytest.fixture
def start(tmp_path):
    servers = []

    def start(command, **environment):
        log = tmp_path / f"server-{len(servers)}.log"
        servers.append(WebProcess(log, command=command, **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize("server", COMMANDS)
async def test_workers_with_an_in_memory_layer_are_warned_of_once(start, server):
    """One line names the layer, the problem and the remedy."""
    process = start(COMMANDS[server])
    await process.says("started", 2)
    await process.says(WARNING)
    (line,) = (line for line in process.output.splitlines() if WARNING in line)
    assert "InMemoryChannelLayer 'chat'" in line
    assert "register a RedisPubSubChannelLayer or RedisChannelLayer" in line


async def test_what_is_no_group_of_workers_is_not_warned_of(start, redis_url):
    """
    Workers on a Redis layer, a reloading worker, and two servers of one shell give no warning.
    """
    shared = start(COMMANDS["uvicorn"], LAYER="pubsub", REDIS_URL=redis_url)
    alone = [start(RELOADING), start(RELOADING)]
    await shared.says("started", 2)
    for process in alone:
        await process.says("started")
    assert [WARNING in process.output for process in (shared, *alone)] == [False] * 3


# -- threads and forks -----------------------------------------------------------

SENDERS = """
import os, sys, threading
from fast_channels.layers import {name}
from fast_channels.layers.sync import SyncChannelLayer

layer = SyncChannelLayer({name}([{{"address": sys.argv[1], "client_name": "sender"}}]))


def send(who, count=100):
    for n in range(count):
        layer.group_send("room", {{"type": "count", "who": who, "n": n}})


def pause(word):
    # The test looks at the server, and lets this go on.
    print(word, flush=True)
    sys.stdin.readline()


def in_threads(who):
    threads = [threading.Thread(target=send, args=(f"{{who}} {{n}}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


send("main")
pause("one thread")
in_threads("parent")
pause("eight threads")
pid = os.fork()
if pid == 0:
    send("child")
    in_threads("child")
    pause("child")
    # Not os._exit: what is done at the exit of a process is done here, too.
    sys.exit()
assert os.waitpid(pid, 0)[1] == 0
send("parent again")
pause("parent again")
"""


@pytest.mark.parametrize("kind", REDIS_LAYERS)
async def test_sync_senders_use_one_connection_per_process(redis_url, kind):
    """From one thread, eight threads and a fork, messages arrive in order and nothing is logged."""
    async with REDIS_LAYERS[kind]([redis_url], capacity=5000) as receiver:
        inbox = await receiver.open_channel()
        await receiver.group_add("room", inbox.name)
        script = SENDERS.format(name=NAMES[kind])
        connections = await watched(script, redis_url, lambda: senders(redis_url))
        messages = [await arrives(inbox) for _ in range(100 * 19)]
    by_sender = {}
    for message in messages:
        by_sender.setdefault(message["who"], []).append(message["n"])
    assert len(by_sender) == 19
    assert all(numbers == list(range(100)) for numbers in by_sender.values())
    assert connections == {"one thread": 1, "eight threads": 1, "child": 2, "parent again": 1}
    assert senders(redis_url) == 0


async def watched(script, redis_url, look):
    """Run a script and check at each of its pauses; fail if it fails or prints a complaint."""
    process = await asyncio.create_subprocess_exec(
        # Not in development mode, which slows asyncio down.
        *(sys.executable, "-W", "always::ResourceWarning", "-W", FORK_IS_MEANT),
        *("-c", script, redis_url),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    seen = {}
    while word := (await process.stdout.readline()).decode().strip():
        seen[word] = look()
        process.stdin.write(b"\n")
    _, complaints = await process.communicate()
    assert (process.returncode, complaints.decode()) == (0, "")
    return seen


def senders(redis_url):
    """Return the connections of the sending processes, as the server lists them."""
    with redis.Redis.from_url(redis_url) as client:
        return [one["name"] for one in client.client_list()].count("sender")


PUBLISHER = """
import asyncio, sys
from fast_channels.layers import {name}
from fast_channels.layers.sync import SyncChannelLayer

layer = {name}([sys.argv[1]])


def pause(word):
    print(word, flush=True)
    sys.stdin.readline()


async def main():
    async with layer:
        for n in range(10):
            await layer.group_send("room", {{"type": "test"}})
        pause("async")


asyncio.run(main())
sync = SyncChannelLayer(layer)
for n in range(10):
    sync.group_send("room", {{"type": "test"}})
pause("sync")
"""


@pytest.mark.parametrize("kind", REDIS_LAYERS)
async def test_process_that_only_publishes_subscribes_to_nothing(redis_url, kind):
    """The process has no channel, no reader and no inbox, only one connection that sends."""

    def look():
        with redis.Redis.from_url(redis_url) as client:
            others = [c for c in client.client_list() if c["id"] != str(client.client_id())]
            waiting = [c for c in others if "b" in c["flags"] or int(c["sub"]) or int(c["psub"])]
            return len(others), waiting, client.pubsub_channels("*"), client.keys("*")

    seen = await watched(PUBLISHER.format(name=NAMES[kind]), redis_url, look)
    assert seen == {"async": (1, [], [], []), "sync": (1, [], [], [])}


# -- loop after loop -------------------------------------------------------------


@pytest.fixture(params=KINDS)
def layer(request, redis_url):
    """A layer of each kind that is not open yet."""
    if request.param == "memory":
        return InMemoryChannelLayer()
    return REDIS_LAYERS[request.param]([redis_url])


async def exchange(layer):
    """Send a message to a channel and one to its group, and check that both arrive."""
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await layer.group_send("room", {"type": "test", "to": "room"})
    await layer.send(inbox.name, {"type": "test", "to": "channel"})
    assert {(await arrives(inbox))["to"] for _ in range(2)} == {"room", "channel"}


async def used(layer, *, times=1):
    """Open and close a layer, and check that all its tasks have ended."""
    for _ in range(times):
        async with layer:
            await exchange(layer)
        assert asyncio.all_tasks() == {asyncio.current_task()}


def test_layer_opens_twice_on_one_loop_and_then_on_another(layer):
    """The layer is as new each time, and no task is left."""
    asyncio.run(used(layer, times=2))
    asyncio.run(used(layer))


@pytest.mark.parametrize("ending", ["closed", "left open"])
def test_thirty_loops_use_one_layer(layer, ending, recwarn):
    """Thirty tests with one loop each may close it or not; nothing accumulates."""
    for _ in range(30):
        asyncio.run(used(layer) if ending == "closed" else exchange(layer))
    gc.collect()
    assert [warning.message for warning in recwarn] == []
    statistics = layer.statistics()
    assert (statistics.channels, statistics.members) == (0, 0)
