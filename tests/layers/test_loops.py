"""A layer lives on one loop at a time; other loops, threads and processes may call it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import random
import threading

import pytest

from fast_channels.exceptions import LayerClosed, LayerUnavailable
from fast_channels.layers import InMemoryChannelLayer
from fast_channels.layers.loops import background_loop
from fast_channels.testing import inspect
from tests.layers.support import (
    RecordingLayer,
    arrives,
    becomes,
    comes_true,
    printed,
    received,
    turns,
)

MESSAGE = {"type": "test"}
WHOLE_SESSION = [("start",), ("stop",)]


@pytest.fixture
def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def layer():
    """A layer that is not open yet."""
    return RecordingLayer()


def sessions(layer):
    """Return the calls that each broker received, except messages."""
    return [[call for call in b.calls if call[0] in ("start", "stop")] for b in layer.brokers]


class LoopInThread:
    """An event loop that runs until it is told to end, in the same way as asyncio.run."""

    def __init__(self, pool):
        self._ready, self._end = threading.Event(), None
        self.ended = pool.submit(asyncio.run, self._main())
        assert self._ready.wait(5)

    async def _main(self):
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._ready.set()
        await self._end.wait()

    def submit(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def do(self, coroutine):
        return self.submit(coroutine).result(10)

    def end(self):
        self.loop.call_soon_threadsafe(self._end.set)
        self.ended.result(10)


@pytest.fixture
def elsewhere(threads):
    """A loop in another thread; it ends with the test at the latest."""
    loop = LoopInThread(threads)
    yield loop
    if not loop.ended.done():
        loop.end()


# -- one loop ------------------------------------------------------------------


async def test_layer_opens_on_first_use(layer):
    """Any method opens the layer."""
    assert layer.brokers == []
    await layer.group_send("room", MESSAGE)
    assert sessions(layer) == [[("start",)]]
    await layer.close()


async def test_layer_is_opened_once(layer):
    """Concurrent calls open it once, too."""
    await asyncio.gather(*(layer.open() for _ in range(10)), layer.group_send("room", MESSAGE))
    assert sessions(layer) == [[("start",)]]
    await layer.close()


async def test_closing_ends_the_session(layer):
    """Closing again is fine, and so is closing an unopened layer."""
    await layer.close()
    async with layer:
        await layer.close()
        assert sessions(layer) == [WHOLE_SESSION]
    await layer.close()
    assert sessions(layer) == [WHOLE_SESSION]


async def test_layer_may_be_opened_again_on_the_same_loop(layer):
    """Each session has its own broker."""
    for _ in range(3):
        async with layer:
            await layer.group_send("room", MESSAGE)
    assert sessions(layer) == [WHOLE_SESSION] * 3


async def test_closing_a_channel_does_not_open_the_layer(layer):
    """A closed layer has no channels to clean up."""
    await layer.close_channel("specific.abc!def")
    assert layer.brokers == []


async def test_statistics_do_not_open_the_layer(layer):
    """The statistics can be read at any time, and stay when the layer is closed."""
    assert layer.statistics().published == 0
    async with layer:
        await layer.group_send("room", MESSAGE)
    assert layer.statistics().published == 1
    assert len(layer.brokers) == 1


def test_end_of_the_loop_ends_the_session(layer):
    """asyncio.run ends the session of a layer that was never closed."""
    asyncio.run(layer.group_send("room", MESSAGE))
    assert sessions(layer) == [WHOLE_SESSION]


def test_end_of_the_loop_ends_a_session_that_was_being_opened(layer):
    """The broker is stopped even if it never was ready."""

    async def give_up():
        layer.refused = {}
        opening = asyncio.create_task(layer.open())
        await becomes(lambda: layer.brokers)
        layer.broker.hold("start")
        opening.cancel()

    asyncio.run(give_up())
    assert sessions(layer) == [WHOLE_SESSION]


def test_layer_opens_on_loop_after_loop(layer):
    """Two sessions on one loop, then one on each of several others."""

    async def twice():
        for _ in range(2):
            async with layer:
                await layer.group_send("room", MESSAGE)

    asyncio.run(twice())
    for _ in range(3):
        asyncio.run(layer.group_send("room", MESSAGE))
    assert sessions(layer) == [WHOLE_SESSION] * 5


def test_task_that_cleans_up_while_its_loop_ends_opens_nothing(layer):
    """A new session would never be closed, so the task gets an error."""
    errors = []

    async def clean_up_late():
        try:
            await asyncio.Event().wait()
        finally:
            try:
                # The layer may be used until the session has ended.
                for _ in range(20):
                    await layer.group_send("room", MESSAGE)
                    await asyncio.sleep(0)
            except LayerClosed as exc:
                errors.append(exc)

    async def main():
        await layer.open()
        task = asyncio.create_task(clean_up_late())
        await asyncio.sleep(0)
        return task

    asyncio.run(main())
    sentence = "RecordingLayer was closed while this call waited; close it when no call waits"
    assert [str(error) for error in errors] == [sentence]
    assert sessions(layer) == [WHOLE_SESSION]


def test_layer_that_is_forgotten_while_open_is_closed_with_its_loop(caplog):
    """Dropping the last reference still ends the session with its loop, without an error."""

    async def main():
        layer = RecordingLayer()
        await layer.open()
        calls = layer.broker.calls
        del layer
        gc.collect()
        await turns()
        return calls

    assert asyncio.run(main()) == WHOLE_SESSION
    assert caplog.messages == []


@pytest.mark.parametrize("kind", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_redis_layer_that_nobody_closes_leaves_no_warning(redis_url, kind):
    """Python prints no warning at the end of a loop or of the process."""
    script = f"""
import asyncio, sys
from fast_channels.layers import {kind}

layer = {kind}([sys.argv[1]])

async def main():
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    await layer.group_send("room", {{"type": "test"}})
    print((await inbox.get())["type"])

for _ in range(2):
    asyncio.run(main(), debug=True)
"""
    assert printed(script, redis_url).split() == ["test", "test"]


# -- a start that fails --------------------------------------------------------


async def test_failing_start_is_told_to_everyone_who_opens(layer):
    """The broker is stopped all the same."""
    error = LayerUnavailable("broker", "test")
    layer.refused["start"] = error
    opening = (layer.open(), layer.group_send("room", MESSAGE), layer.open_channel())
    assert await asyncio.gather(*opening, return_exceptions=True) == [error] * 3
    assert sessions(layer) == [WHOLE_SESSION]


async def test_start_can_be_tried_again(layer):
    """The next call tries again."""
    layer.refused["start"] = LayerUnavailable("broker", "test")
    for _ in range(2):
        with pytest.raises(LayerUnavailable):
            await layer.open()
    layer.refused.clear()
    async with layer:
        await layer.group_send("room", MESSAGE)
    assert sessions(layer) == [WHOLE_SESSION] * 3


async def test_caller_who_gives_up_does_not_end_the_opening(layer):
    """The other callers get the open layer."""
    first = asyncio.create_task(layer.open())
    await becomes(lambda: layer.brokers)
    second = asyncio.create_task(layer.open())
    first.cancel()
    await second
    assert sessions(layer) == [[("start",)]]
    await layer.close()


def test_failing_start_is_told_to_a_sender_in_a_thread(threads):
    """The sender does not retry without end."""
    layer = RecordingLayer()
    layer.refused["start"] = LayerUnavailable("broker", "test")
    sending = threads.submit(asyncio.run, layer.group_send("room", MESSAGE))
    try:
        with pytest.raises(LayerUnavailable):
            sending.result(15)
        assert len(layer.brokers) == 1
    finally:
        layer.refused.clear()
        with contextlib.suppress(LayerUnavailable):
            sending.result(15)
        asyncio.run(layer.close())


def test_failing_start_is_told_to_a_caller_from_another_loop(threads, elsewhere):
    """The loop that opens the layer gets the same error."""
    layer = RecordingLayer()
    layer.refused["start"] = LayerUnavailable("broker", "test")
    held = threading.Event()

    async def open_slowly():
        opening = asyncio.create_task(layer.open())
        await becomes(lambda: layer.brokers)
        await asyncio.to_thread(held.wait)
        with pytest.raises(LayerUnavailable):
            await opening

    first = elsewhere.submit(open_slowly())
    comes_true(lambda: layer.brokers)
    second = threads.submit(asyncio.run, layer.group_send("room", MESSAGE))
    held.set()
    first.result(15)
    try:
        with pytest.raises(LayerUnavailable):
            second.result(15)
    finally:
        layer.refused.clear()
        with contextlib.suppress(LayerUnavailable):
            second.result(15)
        asyncio.run(layer.close())


# -- other loops ---------------------------------------------------------------


def test_calls_from_other_threads_are_done_at_home(threads, elsewhere, layer):
    """One session serves all threads."""
    elsewhere.do(layer.open())
    inbox = elsewhere.do(layer.open_channel())
    elsewhere.do(layer.group_add("room", inbox.name))

    def send(thread):
        async def all_of_them():
            for n in range(10):
                await layer.group_send("room", {"type": "test", "thread": thread, "n": n})

        asyncio.run(all_of_them())

    concurrent.futures.wait([threads.submit(send, thread) for thread in range(8)])
    messages = [elsewhere.do(arrives(inbox)) for _ in range(80)]
    for thread in range(8):
        assert [m["n"] for m in messages if m["thread"] == thread] == list(range(10))
    assert sessions(layer) == [[("start",)]]


async def test_error_of_a_call_from_elsewhere_is_told_there(threads, recording):
    """The exception is the same as on the home loop."""
    recording.broker.refuse("room")
    with pytest.raises(LayerUnavailable):
        await asyncio.to_thread(asyncio.run, recording.group_send("room", MESSAGE))


async def test_cancelling_a_call_from_elsewhere_cancels_it_at_home(recording):
    """The broker does not continue a call that was cancelled."""
    recording.broker.hold("room")

    async def give_up():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.02):
                await recording.group_send("room", MESSAGE)

    before = asyncio.all_tasks()
    await asyncio.to_thread(asyncio.run, give_up())
    await becomes(lambda: asyncio.all_tasks() == before)


def test_loop_that_ends_tells_callers_from_elsewhere(threads, elsewhere, layer):
    """No caller waits forever."""
    elsewhere.do(layer.open())
    layer.broker.hold("room")
    sending = [threads.submit(asyncio.run, layer.group_send("room", MESSAGE)) for _ in range(3)]
    comes_true(lambda: layer.broker.count("publish", "room") == 3)
    elsewhere.end()
    for call in sending:
        with pytest.raises(LayerClosed):
            call.result(5)
    assert sessions(layer) == [WHOLE_SESSION]


def test_closing_tells_callers_from_elsewhere(threads, elsewhere, layer):
    """Closing the layer has the same effect as the end of the loop."""
    elsewhere.do(layer.open())
    layer.broker.hold("room")
    sending = threads.submit(asyncio.run, layer.group_send("room", MESSAGE))
    comes_true(lambda: layer.broker.count("publish", "room"))
    elsewhere.do(layer.close())
    with pytest.raises(LayerClosed):
        sending.result(5)


def test_layer_may_be_closed_from_another_loop(threads, elsewhere, layer):
    """The session is left on the loop where it was entered."""
    elsewhere.do(layer.open())
    threads.submit(asyncio.run, layer.close()).result(5)
    assert sessions(layer) == [WHOLE_SESSION]


def test_loop_that_is_paused_is_no_home(layer):
    """The next loop opens the layer again; the first one ends its session when it continues."""
    first = asyncio.new_event_loop()
    first.run_until_complete(layer.open())
    asyncio.run(layer.group_send("room", MESSAGE))
    assert sessions(layer) == [[("start",)], WHOLE_SESSION]
    first.run_until_complete(turns())
    assert sessions(layer) == [WHOLE_SESSION] * 2
    first.run_until_complete(layer.group_send("room", MESSAGE))
    first.run_until_complete(layer.close())
    first.close()
    assert sessions(layer) == [WHOLE_SESSION] * 3


def test_paused_loop_that_goes_on_is_still_home(layer):
    """If no call came meanwhile, the layer is as before."""
    loop = asyncio.new_event_loop()
    inbox = loop.run_until_complete(layer.open_channel())
    loop.run_until_complete(layer.group_add("room", inbox.name))
    loop.run_until_complete(layer.group_send("room", MESSAGE))
    assert loop.run_until_complete(arrives(inbox)) == MESSAGE
    loop.run_until_complete(layer.close())
    loop.close()
    assert sessions(layer) == [WHOLE_SESSION]


def test_loop_that_was_closed_without_its_tasks_is_no_home(layer):
    """The session cannot end any more, but the layer works."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(layer.open())
    keeper = layer._lifetime._home._keeper
    loop.close()
    asyncio.run(layer.group_send("room", MESSAGE))
    assert sessions(layer)[-1] == WHOLE_SESSION
    # asyncio would report the task that this test leaves on purpose.
    keeper._log_destroy_pending = False
    with contextlib.suppress(RuntimeError):
        keeper.get_coro().close()


async def test_message_is_not_lost_when_a_receiver_elsewhere_gives_up(memory):
    """Three hundred messages arrive once and in order, although receivers time out quickly."""
    name = await memory.new_channel()
    chance = random.Random(2)

    async def receive_all():
        seen, limit = [], 0.002
        # An empty channel proves nothing, because a message may be on its way back.
        async with asyncio.timeout(45):
            while len(seen) < 300:
                try:
                    async with asyncio.timeout(chance.uniform(0, limit)):
                        seen.append((await memory.receive(name))["n"])
                    limit = 0.002
                except TimeoutError:
                    # Two threads may need longer than that on a busy machine.
                    limit *= 1.5
        return seen

    receiving = asyncio.create_task(asyncio.to_thread(asyncio.run, receive_all()))
    for n in range(300):
        while memory.channels[name].full:
            await asyncio.sleep(0.001)
        await memory.send(name, {"type": "test", "n": n})
        await asyncio.sleep(chance.uniform(0, 0.001))
    assert await receiving == list(range(300))
    assert len(memory.channels[name]) == 0


async def test_receiver_is_told_when_the_layer_closes(memory):
    """Receivers on channels of the process and on shared channels get an error."""
    name = await memory.new_channel()
    receivers = [asyncio.create_task(memory.receive(c)) for c in (name, "shared")]
    await turns()
    await memory.close()
    done, waiting = await asyncio.wait(receivers, timeout=0.2)
    for receiver in waiting:
        receiver.cancel()
    assert not waiting
    for receiver in done:
        assert isinstance(receiver.exception(), LayerClosed)


# -- callers without a loop that lasts -----------------------------------------


def test_senders_in_threads_share_one_session_in_the_background(threads, layer):
    """The threads' own loops last for one message only."""
    for _ in range(5):
        threads.submit(asyncio.run, layer.group_send("room", MESSAGE)).result(5)
    assert sessions(layer) == [[("start",)]]
    assert inspect.home_loop(layer) is background_loop()
    asyncio.run(layer.close())


def test_receiver_moves_the_layer_from_the_background_to_its_loop(threads, layer):
    """Senders in threads use that loop from then on."""

    async def receive():
        inbox = await layer.open_channel()
        assert inspect.home_loop(layer) is asyncio.get_running_loop()
        await layer.group_add("room", inbox.name)
        await asyncio.to_thread(asyncio.run, layer.group_send("room", MESSAGE))
        return await arrives(inbox)

    threads.submit(asyncio.run, layer.group_send("room", MESSAGE)).result(5)
    assert asyncio.run(receive()) == MESSAGE
    assert sessions(layer) == [WHOLE_SESSION] * 2


def test_receive_moves_the_layer_too(threads, layer):
    """A channel without a consumer moves the layer, too."""
    layer = InMemoryChannelLayer()
    threads.submit(asyncio.run, layer.send("shared", MESSAGE)).result(5)
    assert asyncio.run(received(layer, "shared")) == MESSAGE


def test_receiver_in_a_thread_has_the_layer_on_its_own_loop(threads, layer):
    """The layer stays there as long as the receiver runs."""

    async def receive():
        inbox = await layer.open_channel()
        assert inspect.home_loop(layer) is asyncio.get_running_loop()
        await layer.group_add("room", inbox.name)
        await layer.group_send("room", MESSAGE)
        return await arrives(inbox)

    assert threads.submit(asyncio.run, receive()).result(5) == MESSAGE
    assert sessions(layer) == [WHOLE_SESSION]


FIRST_USE = """
import asyncio, threading, time
from fast_channels.layers import loops
from tests.layers.support import RecordingLayer

run = loops._run

def run_late(loop):
    # The delay is the circumstance under test.
    time.sleep(0.05)
    run(loop)

# A busy machine takes its time to start a thread.
loops._run = run_late
layers = []

for _ in range(15):
    loops._background = loops._BackgroundLoop()
    layer, errors, homes, barrier = RecordingLayer(), [], [], threading.Barrier(8)
    layers.append(layer)

    def send():
        barrier.wait()
        try:
            asyncio.run(layer.group_send("room", {"type": "test"}))
        except BaseException as exc:
            errors.append(repr(exc))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        home = layer._lifetime._home
        if home is not None and home not in homes:
            homes.append(home)
        # Samples what the threads do, and leaves them the processor.
        time.sleep(0.001)
    # All threads may have come and gone before the first sample.
    homes = homes or [layer._lifetime._home]
    assert not errors, errors
    assert layer.statistics().published == 8
    assert len(layer.brokers) == 1, f"{len(layer.brokers)} sessions"
    assert len(homes) == 1, f"{len(homes)} homes"
print("fine")
"""


def test_first_use_by_many_threads_at_once_is_one_session():
    """Even while the background loop starts, no thread starts another one."""
    assert printed(FIRST_USE) == "fine"


def test_process_that_only_has_loops_of_its_own_starts_no_thread():
    """Only calls without a lasting loop need the background loop."""
    script = """
import asyncio, threading
from fast_channels.layers import InMemoryChannelLayer

layer = InMemoryChannelLayer()

async def other():
    inbox = await layer.open_channel()
    await layer.group_send("room", {"type": "test"})

async def main():
    inbox = await layer.open_channel()
    await asyncio.to_thread(asyncio.run, other())
    print([t.name for t in threading.enumerate() if "fast_channels" in t.name])

asyncio.run(main())
"""
    assert printed(script) == "[]"


# -- fork ----------------------------------------------------------------------

FORK = """
import asyncio, gc, os, sys
from fast_channels.layers import {kind}
from fast_channels.layers.sync import SyncChannelLayer

layer = {kind}([sys.argv[1]])


async def receiving():
    inbox = await layer.open_channel()
    await layer.group_add("other", inbox.name)
    await layer.group_send("other", {{"type": "test"}})
    assert (await asyncio.wait_for(inbox.get(), 15))["type"] == "test"


def work(parent):
    {work}


def fork(*arguments):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException as exc:
            print("child:", repr(exc))
        finally:
            sys.stdout.flush()
            os._exit(code)
    return pid


async def main():
    inbox = await layer.open_channel()
    await layer.group_add("room", inbox.name)
    for _ in range(2):
        pid = fork(inbox.name)
        assert (await asyncio.to_thread(os.waitpid, pid, 0))[1] == 0
        print((await asyncio.wait_for(inbox.get(), 15))["by"])
        # The connections of the parent are still its own.
        await layer.group_send("room", {{"type": "test", "by": "parent"}})
        print((await asyncio.wait_for(inbox.get(), 15))["by"])
    await layer.close()


asyncio.run(main())
"""

WORK = {
    "sends to a group": """
    SyncChannelLayer(layer).group_send("room", {"type": "test", "by": "child"})
""",
    "sends to the channel": """
    SyncChannelLayer(layer).send(parent, {"type": "test", "by": "child"})
""",
    "receives": """
    asyncio.run(receiving())
    asyncio.run(layer.group_send("room", {"type": "test", "by": "child"}))
""",
    "collects garbage": """
    SyncChannelLayer(layer).group_send("room", {"type": "test", "by": "child"})
    gc.collect()
""",
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("kind", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_child_of_a_fork_works_and_leaves_its_parent_alone(redis_url, kind, work):
    """The child reaches its parent's channels, and the parent keeps its connections."""
    script = FORK.format(kind=kind, work=WORK[work].strip())
    assert printed(script, redis_url).splitlines() == ["child", "parent"] * 2


@pytest.mark.parametrize("kind", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_child_of_a_fork_of_a_sync_process_works(redis_url, kind):
    """Workers that fork for each job do this; parent and child continue to send."""
    script = f"""
import gc, os, sys
from fast_channels.layers import {kind}
from fast_channels.layers.sync import SyncChannelLayer

layer = SyncChannelLayer({kind}([sys.argv[1]]))
layer.group_send("room", {{"type": "test"}})
for _ in range(2):
    pid = os.fork()
    if pid == 0:
        layer.group_send("room", {{"type": "test"}})
        gc.collect()
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
    layer.group_send("room", {{"type": "test"}})
"""
    assert printed(script, redis_url).split() == ["0", "0"]


@pytest.mark.parametrize("work", ["pass", 'layer.group_send("room", {"type": "test"})'])
@pytest.mark.parametrize("kind", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_child_of_a_fork_that_ends_as_a_program_does_works(redis_url, kind, work):
    """The interpreter of the child then destroys its objects, which must not affect the parent."""
    script = f"""
import os, sys
from fast_channels.layers import {kind}
from fast_channels.layers.sync import SyncChannelLayer

layer = SyncChannelLayer({kind}([sys.argv[1]]))
layer.group_send("room", {{"type": "test"}})
for _ in range(2):
    if (pid := os.fork()) == 0:
        {work}
        sys.exit()
    print(os.waitpid(pid, 0)[1])
    layer.group_send("room", {{"type": "test"}})
"""
    assert printed(script, redis_url).split() == ["0", "0"]


@pytest.mark.parametrize("kind", ["RedisChannelLayer", "RedisPubSubChannelLayer"])
def test_children_of_a_fork_have_inboxes_of_their_own(redis_url, kind):
    """A layer that was made before the fork names its channels after the present process."""
    script = f"""
import asyncio, os, sys
from fast_channels.layers import {kind}

layer = {kind}([sys.argv[1]])
ask, answer = os.pipe()


async def work():
    inbox = await layer.open_channel()
    os.write(answer, (inbox.name + "\\n").encode())
    for n in range(20):
        message = await asyncio.wait_for(inbox.get(), 5)
        assert message["n"] == n, message


def fork():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(work())
            code = 0
        finally:
            os._exit(code)
    return pid


async def send_all(names):
    for n in range(20):
        for name in names:
            await layer.send(name, {{"type": "test", "n": n}})


pids = [fork() for _ in range(3)]
with open(ask) as lines:
    names = [lines.readline().strip() for _ in pids]
asyncio.run(send_all(names))
print(*(os.waitpid(pid, 0)[1] for pid in pids))
"""
    assert printed(script, redis_url) == "0 0 0"
