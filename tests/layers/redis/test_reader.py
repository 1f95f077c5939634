"""A connection that is kept open, and the reports of its outages."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from types import SimpleNamespace

import pytest

from fast_channels.layers.redis import _reader
from fast_channels.layers.redis._reader import (
    MAX_RECONNECT_DELAY_SECONDS,
    first_of,
    reconnect_delays,
)
from fast_channels.layers.redis._server import Server
from fast_channels.testing.server import free_port
from tests.layers.redis.support import cut, outages
from tests.layers.support import becomes


class Conversation:
    """Reads until the connection breaks, and records the calls of the reader."""

    def __init__(self, host, *, raises=None):
        self.begun, self.losses, self.returns = 0, 0, []
        self.raises = raises
        self.reader = Server(host).reader(self.converse, self.lost, self.returned)

    async def converse(self, connection, reader):
        self.begun += 1
        if self.raises is not None:
            raise self.raises
        reader.connected()
        while True:
            await connection.call("BLPOP", "nothing", 0)

    def lost(self):
        self.losses += 1

    def returned(self, since, until, recovered):
        self.returns.append((since, until))


@pytest.fixture
def converse():
    """Makes conversations, and ends them after the test."""
    made = []

    def make(host, **options):
        made.append(Conversation(host, **options))
        return made[-1]

    yield make
    assert all(c.reader.task is None for c in made), "a conversation was not stopped"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Outages of tests are short."""
    monkeypatch.setattr(_reader, "MIN_RECONNECT_DELAY_SECONDS", 0.01)


async def test_conversation_begins_once(converse, redis_url):
    """Starting twice is fine, and so is stopping."""
    talk = converse({"address": redis_url})
    await talk.reader.stop()
    talk.reader.start()
    talk.reader.start()
    await becomes(lambda: talk.begun)
    await talk.reader.stop()
    await talk.reader.stop()
    assert (talk.begun, talk.losses, talk.returns) == (1, 0, [])


async def test_lost_connection_is_made_anew(converse, redis_url, client, caplog):
    """Each loss and each return is told once, with the time between."""
    caplog.set_level(logging.INFO)
    talk = converse({"address": redis_url})
    talk.reader.start()
    before = time.time()
    for number in (1, 2):
        await becomes(lambda: "blpop" in [entry["cmd"] for entry in client.client_list()])
        cut(client)
        await becomes(lambda n=number: len(talk.returns) == n)
        assert talk.losses == number
    await talk.reader.stop()
    for since, until in talk.returns:
        assert before - 1 < since <= until <= time.time()
    assert outages(caplog) == [("WARNING", "lost"), ("INFO", f"{talk.reader}")] * 2


async def test_outage_is_one_however_often_connecting_fails(converse, server, caplog):
    """One warning, one line when it is over."""
    caplog.set_level(logging.INFO)
    attempts = []
    talk = converse({"address": server.url})
    talk.reader.start()
    await becomes(lambda: talk.begun)
    server.kill()
    await becomes(lambda: talk.losses)
    talk.reader._delays = (attempts.append(1) or 0.01 for _ in itertools.count())
    await becomes(lambda: len(attempts) > 5)
    server.start()
    await becomes(lambda: talk.returns)
    await talk.reader.stop()
    assert (talk.losses, len(talk.returns)) == (1, 1)
    assert [level for level, _ in outages(caplog)] == ["WARNING", "INFO"]
    assert server.url in caplog.text


async def test_server_that_is_not_there_at_first_is_an_outage(converse, caplog):
    """The outage ends when the server comes. The log has no password and no traceback."""
    talk = converse({"address": f"redis://:secret@127.0.0.1:{free_port()}"})
    talk.reader.start()
    await becomes(lambda: talk.losses)
    await talk.reader.stop()
    assert talk.begun == 0
    assert "secret" not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


async def test_conversation_that_returns_is_over(redis_url):
    """Nothing is connected again."""
    begun = []

    async def say_hello(connection, reader):
        begun.append(await connection.call("PING"))

    reader = Server({"address": redis_url}).reader(say_hello)
    reader.start()
    await becomes(reader.task.done)
    assert begun == [b"PONG"]
    await reader.stop()


async def test_error_of_a_reader_does_not_end_it(converse, redis_url):
    """The reader survives a conversation that fails each time."""
    talk = converse({"address": redis_url}, raises=ConnectionError("will not do"))
    talk.reader.start()
    await becomes(lambda: talk.begun >= 3)
    await talk.reader.stop()
    assert talk.losses == 1


async def test_error_that_nobody_expects_does_not_end_a_reader(converse, redis_url, caplog):
    """An odd reply, or a mistake, must not leave a process deaf; its traceback is logged once."""
    talk = converse({"address": redis_url}, raises=ValueError("an odd reply"))
    talk.reader.start()
    await becomes(lambda: talk.begun >= 3)
    assert talk.reader.state.health().state == "degraded"
    await talk.reader.stop()
    assert talk.losses == 1
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ValueError]


async def test_connections_that_break_at_once_are_made_ever_less_often(converse, redis_url):
    """Each costs two log lines, and every channel a gap."""
    taken = []
    talk = converse({"address": redis_url})

    async def break_down(connection, reader):
        reader.connected()
        taken.append(reader._delays)
        raise ConnectionError("it works for a moment only")

    talk.reader._converse = break_down
    talk.reader.start()
    await becomes(lambda: len(taken) >= 3)
    await talk.reader.stop()
    assert taken[0] is taken[-1], "the reconnect_delays began anew"


async def test_outage_lasts_as_long_as_it_does_though_the_clock_steps_back(
    converse, server, monkeypatch
):
    """The answer whether everything is recovered depends on it."""
    talk = converse({"address": server.url})
    talk.reader.start()
    await becomes(lambda: talk.begun)
    server.kill()
    await becomes(lambda: talk.losses)
    clock = SimpleNamespace(time=lambda: time.time() - 3600, monotonic=time.monotonic)
    monkeypatch.setattr(_reader, "time", clock)
    server.start()
    await becomes(lambda: talk.returns)
    await talk.reader.stop()
    ((since, until),) = talk.returns
    assert 0 <= until - since < 60


def test_pauses_double_up_to_a_limit():
    """With jitter, so that many processes do not come back at once."""
    shares = set()
    for number, pause in enumerate(itertools.islice(reconnect_delays(), 12)):
        longest = min(_reader.MIN_RECONNECT_DELAY_SECONDS * 2**number, MAX_RECONNECT_DELAY_SECONDS)
        assert longest / 2 <= pause <= longest
        shares.add(pause / longest)
    assert len(shares) > 5


async def test_first_to_end_ends_the_others():
    """The first error is raised, and errors of the others are not."""
    ended = []

    async def wait():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("other")
            raise OSError("on the way out")

    async def fail():
        await asyncio.sleep(0)
        raise ConnectionError("first")

    with pytest.raises(ConnectionError, match="first"):
        await first_of(wait(), fail(), wait())
    assert ended == ["other", "other"]


async def test_cancelling_ends_all_of_them():
    """None is left running."""
    running = set()

    async def run(name):
        running.add(name)
        try:
            await asyncio.sleep(60)
        finally:
            running.discard(name)

    task = asyncio.create_task(first_of(run("a"), run("b")))
    await becomes(lambda: running == {"a", "b"})
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert running == set()
