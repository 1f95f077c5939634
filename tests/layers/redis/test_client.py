"""Commands of many tasks over one connection, and its loss. Covers _client and _scripts."""

from __future__ import annotations

import asyncio
import re

import pytest
from redis.credentials import CredentialProvider

from fast_channels.exceptions import LayerUnavailable
from fast_channels.layers.redis import _client
from fast_channels.layers.redis._client import CommandProtocol, RedisConnection
from fast_channels.layers.redis._scripts import Script
from fast_channels.layers.redis._server import Server, ping_all
from fast_channels.testing.server import ValkeyServer, free_port
from tests.layers.redis.support import client_of, cut, last_commands, names_of_clients, paused
from tests.layers.support import PATIENCE, becomes, turns


@pytest.fixture
async def async_client(redis_url):
    async_client = client_of({"address": redis_url, "client_name": "async_client"})
    yield async_client
    await async_client.close()


@pytest.fixture
def batches(monkeypatch):
    """How many commands were written in each go."""
    sizes = []
    write = CommandProtocol.write

    def recording(protocol, commands):
        sizes.append(len(commands))
        write(protocol, commands)

    monkeypatch.setattr(CommandProtocol, "write", recording)
    return sizes


def client_id(client, name):
    (number,) = (entry["id"] for entry in client.client_list() if entry["name"] == name)
    return number


# -- a client --------------------------------------------------------------------


async def test_reply_belongs_to_its_command(async_client):
    """However many are under way."""
    replies = await asyncio.gather(*(async_client.call("ECHO", f"text-{n}") for n in range(300)))
    assert replies == [f"text-{n}".encode() for n in range(300)]


async def test_commands_are_executed_in_the_order_they_were_given(async_client, client):
    """The order also holds across batches."""

    async def push(n):
        await turns(n % 7)
        pushed.append(n)
        await async_client.call("RPUSH", "list", n)

    pushed = []
    await asyncio.gather(*map(push, range(200)))
    assert [int(n) for n in client.lrange("list", 0, -1)] == pushed


async def test_commands_given_together_travel_together(async_client, batches):
    """One write for all of them."""
    await asyncio.gather(*(async_client.call("PING") for _ in range(100)))
    assert batches == [100]


async def test_commands_given_meanwhile_wait_for_no_reply(async_client, batches, client):
    """The server has them when it finishes the earlier ones."""
    first = asyncio.create_task(async_client.call("BLPOP", "nothing", 0))
    await becomes(lambda: batches)
    others = [asyncio.create_task(async_client.call("PING")) for _ in range(20)]
    await turns()
    assert batches == [1, 20]
    assert not first.done()
    client.rpush("nothing", 1)
    await asyncio.gather(first, *others)


async def test_pipe_has_one_connection(async_client, redis_url):
    """Made with the first command, and gone when it is closed."""
    assert "async_client" not in names_of_clients(redis_url)
    for _ in range(3):
        await asyncio.gather(*(async_client.call("PING") for _ in range(50)))
    assert names_of_clients(redis_url).count("async_client") == 1
    await async_client.close()
    await async_client.close()
    assert "async_client" not in names_of_clients(redis_url)


async def test_closing_finishes_what_is_under_way(async_client, client, monkeypatch):
    """Commands given before are executed."""
    monkeypatch.setattr(_client, "CLOSE_TIMEOUT_SECONDS", 15)
    calls = [asyncio.create_task(async_client.call("RPUSH", "list", n)) for n in range(50)]
    await turns(1)
    await async_client.close()
    await asyncio.gather(*calls)
    assert client.llen("list") == 50


async def test_error_of_one_command_leaves_the_others(async_client, client):
    """Commands before and after it in the same batch have their own replies."""
    client.set("text", "abc")
    calls = [
        ("SET", "a", 1),
        ("LPUSH", "text", 1),
        ("NOSUCHCOMMAND",),
        ("INCR", "text"),
        ("GET", "a"),
    ]
    results = await asyncio.gather(
        *(async_client.call(*call) for call in calls), return_exceptions=True
    )
    assert results[0] == b"OK"
    assert results[4] == b"1"
    reasons = ("WRONGTYPE|wrong kind", "unknown command", "not an integer")
    for result, reason in zip(results[1:4], reasons, strict=True):
        assert isinstance(result, LayerUnavailable)
        assert re.search(reason, str(result))


async def test_caller_who_gives_up_shifts_no_reply(async_client):
    """The other replies stay in order, even if the command of the cancelled call was sent."""
    for steps in range(8):
        calls = [asyncio.create_task(async_client.call("ECHO", str(n))) for n in range(10)]
        await turns(steps)
        for call in calls[::3]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        for n, result in enumerate(results):
            assert isinstance(result, asyncio.CancelledError) or result == str(n).encode()


async def test_command_that_was_given_up_before_it_was_sent_is_not_sent(async_client, client):
    """A call cancelled this early has had no effect."""
    call = asyncio.create_task(async_client.call("SET", "key", 1))
    await turns(1)
    call.cancel()
    await async_client.call("PING")
    assert client.get("key") is None


async def test_bytes_of_any_value_come_back(async_client):
    """Nothing is decoded on the way."""
    value = bytes(range(256)) * 10
    await async_client.call("SET", "key", value)
    assert await async_client.call("GET", "key") == value


@pytest.mark.parametrize(
    "options",
    [
        "decode_responses=True&protocol=3&socket_timeout=0.1",
        "health_check_interval=1&retry_on_timeout=True&max_connections=1",
    ],
)
async def test_options_of_a_url_that_would_break_us_do_no_harm(redis_url, options):
    """Replies are bytes, and reading may take its time."""
    async_client = client_of({"address": f"{redis_url}?{options}"})
    try:
        assert await async_client.call("ECHO", b"\xff") == b"\xff"
        assert await async_client.call("BLPOP", "nothing", "0.3") is None
    finally:
        await async_client.close()


async def test_database_of_a_url_is_used(redis_url, client):
    """Other options keep their meaning."""
    async_client = client_of({"address": f"{redis_url}/3"})
    await async_client.call("SET", "key", 1)
    await async_client.close()
    assert client.get("key") is None


# -- scripts -------------------------------------------------------------------


async def test_script_is_known_to_the_server_after_its_first_run(async_client, batches):
    """The client sends the text once."""
    script = Script("flush")
    for _ in range(3):
        assert await async_client.run(script, [], ["nothing*"]) == 0
    assert len(batches) in (3, 4)


async def test_script_that_the_server_forgot_is_sent_again(async_client, client):
    """As after a restart of the server, or a SCRIPT FLUSH."""
    script = Script("flush")
    await async_client.run(script, [], ["nothing*"])
    client.script_flush()
    assert await async_client.run(script, [], ["nothing*"]) == 0
    client.script_flush()
    assert (
        await asyncio.gather(*(async_client.run(script, [], ["x*"]) for _ in range(5))) == [0] * 5
    )


async def test_error_in_a_script_is_told(async_client):
    """The client does not mistake it for a missing script."""
    with pytest.raises(LayerUnavailable):
        await async_client.run(Script("push"), ["key"], ["no", "numbers"])


# -- outages -------------------------------------------------------------------


async def test_server_that_nobody_started_is_unavailable():
    """The error has the address and says how to check it."""
    port = free_port()
    async_client = client_of({"address": f"redis://:secret@127.0.0.1:{port}"})
    with pytest.raises(LayerUnavailable) as caught:
        await async_client.call("PING")
    assert str(caught.value).startswith(f"redis://127.0.0.1:{port} does not answer")
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value, ConnectionError)
    await async_client.close()


async def test_commands_fail_while_the_server_is_gone_and_work_when_it_is_back(server):
    """The client connects again by itself."""
    async_client = client_of({"address": server.url})
    assert await async_client.call("PING") == b"PONG"
    server.kill()
    for _ in range(3):
        with pytest.raises(LayerUnavailable):
            await async_client.call("PING")
    server.start()
    assert await async_client.call("PING") == b"PONG"
    await async_client.close()


async def test_everybody_who_waits_is_told_of_the_loss(server):
    """Callers in the batch under way and in the next one all get the error."""
    async_client = client_of({"address": server.url})
    await async_client.call("PING")
    first = asyncio.create_task(async_client.call("BLPOP", "nothing", 0))
    await becomes(lambda: "blpop" in last_commands(server.url))
    others = [asyncio.create_task(async_client.call("PING")) for _ in range(5)]
    await turns()
    server.kill()
    async with asyncio.timeout(PATIENCE):
        results = await asyncio.gather(first, *others, return_exceptions=True)
    assert all(isinstance(result, LayerUnavailable) for result in results)
    await async_client.close()


async def test_server_that_hangs_is_unavailable_within_the_timeout(server):
    """The client is usable when the server goes on."""
    async_client = client_of({"address": server.url}, timeout=3)
    await async_client.call("PING")
    with paused(server):
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(LayerUnavailable, match="no answer in time"):
                await async_client.call("PING")
    assert await async_client.call("ECHO", "again") == b"again"
    await async_client.close()


async def test_server_that_hangs_from_the_beginning_is_unavailable(server):
    """Connecting has the same timeout."""
    async_client = client_of({"address": server.url}, timeout=1)
    with paused(server):
        with pytest.raises(LayerUnavailable):
            await async_client.call("PING")
        await async_client.close()


async def test_connection_that_the_server_closed_while_idle_is_made_anew(async_client, client):
    """A server may close connections that were idle for long; that is no outage."""
    await async_client.call("PING")
    cut(client)
    await becomes(lambda: "async_client" not in [c["name"] for c in client.client_list()])
    await turns(50)
    assert await async_client.call("PING") == b"PONG"


async def test_demoted_server_is_given_up(async_client, client):
    """The client drops the connection, because the successor is elsewhere."""
    await async_client.call("PING")
    try:
        client.execute_command("REPLICAOF", "127.0.0.1", free_port())
        with pytest.raises(LayerUnavailable):
            await async_client.call("SET", "key", 1)
        assert not async_client.is_connected
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    assert await async_client.call("SET", "key", 1) == b"OK"


async def test_password_that_is_wrong_is_told():
    """The error has the server's own sentence."""
    with ValkeyServer(options=("--requirepass", "right")) as server:
        async_client = client_of({"host": "127.0.0.1", "port": server.port, "password": "wrong"})
        with pytest.raises(LayerUnavailable, match=r"(?i)password|auth"):
            await async_client.call("PING")
        await async_client.close()
        async_client = client_of({"host": "127.0.0.1", "port": server.port, "password": "right"})
        assert await async_client.call("PING") == b"PONG"
        await async_client.close()


class Passwords(CredentialProvider):
    """Asks a service that does not answer."""

    def get_credentials(self):
        raise RuntimeError("no answer from the service for passwords")


async def test_error_of_any_kind_is_told_to_who_waits(redis_url, recwarn):
    """Every caller gets an error that is not from redis-py too; later calls try again."""
    async_client = client_of({"address": redis_url, "credential_provider": Passwords()})
    for _ in range(2):
        calls = [asyncio.create_task(async_client.call("PING")) for _ in range(2)]
        await turns(1)
        calls.append(asyncio.create_task(async_client.call("PING")))
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*calls, return_exceptions=True)
        for result in results:
            assert isinstance(result, LayerUnavailable)
            assert "service for passwords" in str(result)
    assert async_client._connecting.exception() is None
    await async_client.close()


async def test_closed_pipe_is_not_opened_again(async_client, redis_url):
    """A call that comes too late fails at once, and leaves no connection behind."""
    await async_client.call("PING")
    await async_client.close()
    with pytest.raises(LayerUnavailable, match="closed"):
        await async_client.call("PING")
    assert "async_client" not in names_of_clients(redis_url)


async def test_lost_pipe_comes_back_though_nobody_uses_it(server, monkeypatch):
    """Otherwise a process that rarely sends would count as degraded for hours."""
    monkeypatch.setattr(_client, "RETRY_DELAY_SECONDS", 0.05)
    async_client = client_of({"address": server.url})
    await async_client.call("PING")
    server.kill()
    with pytest.raises(LayerUnavailable):
        await async_client.call("PING")
    assert async_client.state.health().state == "degraded"
    server.start()
    await becomes(lambda: async_client.state.health().state == "ready")
    await async_client.close()


async def test_several_servers_are_asked_at_once(redis_url, second_valkey):
    """All of them are asked, although one fails."""
    good = [Server({"address": url}) for url in (redis_url, second_valkey.url)]
    await ping_all(good)
    bad = Server({"address": f"redis://127.0.0.1:{free_port()}"})
    with pytest.raises(LayerUnavailable):
        await ping_all([bad, *good])
    assert [server.state.health().state for server in good] == ["ready", "ready"]
    for server in (bad, *good):
        await server.close()


async def test_command_that_is_told_is_executed_in_its_place(async_client, client):
    """The client drops its reply, and takes no other reply for it."""
    assert not async_client.write("SET", "key", 0)
    await async_client.call("PING")
    for n in range(1, 4):
        assert async_client.write("SET", "key", n)
        assert await async_client.call("GET", "key") == b"%d" % n
    assert async_client.write("NOSUCHCOMMAND")
    assert await async_client.call("ECHO", "next") == b"next"


async def test_command_that_is_told_comes_after_those_given_before(async_client, batches):
    """Although they were to be written in the next turn."""
    await async_client.call("SET", "key", 1)
    before = async_client._enqueue(("GET", "key"))
    assert async_client.write("SET", "key", 2)
    assert await before == b"1"
    assert await async_client.call("GET", "key") == b"2"
    assert batches == [1, 1, 1, 1]


async def test_nothing_can_be_told_when_the_server_is_gone(server):
    """The caller learns that the command was not written."""
    async_client = client_of({"address": server.url})
    await async_client.call("PING")
    server.kill()
    await becomes(lambda: not async_client.is_connected)
    assert not async_client.write("PING")
    await async_client.close()


async def test_server_that_answers_in_time_again_and_again_is_kept(redis_url, client):
    """The clock is that of the oldest command, not of the first."""
    async_client = client_of({"address": redis_url, "client_name": "kept"}, timeout=3)
    await async_client.call("PING")
    number = client_id(client, "kept")
    for _ in range(4):
        assert await async_client.call("BLPOP", "nothing", "0.8") is None
    assert client_id(client, "kept") == number
    await async_client.close()


async def test_more_than_the_connection_takes_at_once_arrives_in_order(async_client, client):
    """A server that is slow to read lets commands wait, not memory grow beside them."""
    value = bytes(300_000)
    calls = [
        asyncio.create_task(async_client.call("RPUSH", "list", b"%d " % n + value))
        for n in range(60)
    ]
    await asyncio.gather(*calls)
    assert [int(item.split()[0]) for item in client.lrange("list", 0, -1)] == list(range(60))


async def test_pipe_whose_commands_were_not_answered_can_be_closed(server):
    """They fail, and it does not take long."""
    async_client = client_of({"address": server.url})
    await async_client.call("PING")
    with paused(server):
        calls = [asyncio.create_task(async_client.call("PING")) for _ in range(3)]
        await turns()
        async with asyncio.timeout(PATIENCE):
            await async_client.close()
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(result, LayerUnavailable) for result in results)


# -- a connection --------------------------------------------------------------------


async def test_link_is_one_conversation(redis_url):
    """Commands in one go, replies in order."""
    connection = RedisConnection({"address": redis_url})
    await connection.open()
    await connection.send(("ECHO", "a"), ("ECHO", "b"))
    assert [await connection.read(), await connection.read()] == [b"a", b"b"]
    assert await connection.call("ECHO", "c") == b"c"
    await connection.close()
    await connection.close()


async def test_link_does_not_write_to_a_connection_that_is_closing(redis_url):
    """The error is one that users of connections expect."""
    connection = RedisConnection({"address": redis_url})
    with pytest.raises(ConnectionError):
        connection.write([("PING",)])
    await connection.open()
    connection.write([("ECHO", "a"), ("ECHO", "b")])
    assert await connection.read_available() == [b"a", b"b"]
    connection._connection._writer.transport.abort()
    with pytest.raises(ConnectionError):
        connection.write([("PING",)])
    await connection.close()


async def test_link_does_not_come_back_by_itself(redis_url, client):
    """Otherwise messages in between would be missing without notice."""
    connection = RedisConnection({"address": redis_url, "client_name": "connection"})
    await connection.open()
    cut(client)
    with pytest.raises(_client.CONNECTION_ERRORS):
        await connection.call("PING")
    with pytest.raises(_client.CONNECTION_ERRORS):
        await connection.call("PING")
    assert "connection" not in names_of_clients(redis_url)
    await connection.close()


async def test_link_that_was_never_opened_can_be_closed(redis_url):
    """Closing such a connection does nothing."""
    connection = RedisConnection({"address": redis_url})
    with pytest.raises(ConnectionError):
        await connection.call("PING")
    await connection.close()


async def test_commands_that_were_given_up_are_not_kept(server):
    """Commands for a server that reads nothing may be large."""
    async_client = client_of({"address": server.url})
    await async_client.call("PING")
    with paused(server):
        for _ in range(200):
            call = asyncio.create_task(async_client.call("SET", "key", bytes(200_000)))
            await turns(3)
            call.cancel()
            await asyncio.wait([call])
        assert async_client._protocol.paused
        assert len(async_client._waiting) <= 1
        await async_client.close()


async def test_connection_that_ends_as_soon_as_it_is_made_fails_at_once(
    redis_url, client, monkeypatch
):
    """asyncio tells of the end before the client listens, and only once."""
    async_client, opening = (
        client_of({"address": redis_url}, timeout=PATIENCE),
        RedisConnection.open,
    )

    async def ended(connection):
        await opening(connection)
        cut(client)
        await becomes(connection._connection._reader.at_eof)

    monkeypatch.setattr(RedisConnection, "open", ended)
    with pytest.raises(LayerUnavailable, match="the server closed the connection"):
        await async_client.call("PING")
    await async_client.close()
