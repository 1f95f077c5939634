"""Frames sent in one turn of the loop are written at once, without a visible difference."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import ssl
import struct
import subprocess
import sys
import threading

import pytest
import uvicorn
import websockets
from websockets.sync.client import connect

from fast_channels.servers.transport import MAX_JOINED_BYTES, CoalescingTransport
from fast_channels.servers.uvicorn import CoalescingWebSocketProtocol, text_frame
from tests.chaos.servers import Authority
from tests.servers.support import PATIENCE

TEXT, CLOSE, PONG = 1, 8, 10

MEBIBYTE = 1024 * 1024

# Sizes of frames that are sent in one turn: tiny, just collected, just not, and huge.
SIZES = [1, 200, MAX_JOINED_BYTES - 100, MAX_JOINED_BYTES, MEBIBYTE, 70_000, 1, 3 * MEBIBYTE, 2] * 2

# Texts with headers of every length, and one that is longer as bytes than as text.
TEXTS = [
    "",
    "a" * 125,
    "b" * 126,
    "\N{PARTY POPPER}" * (MAX_JOINED_BYTES - 1),
    "c" * 65_536,
    "b" * 126,
] * 2

# Data for a client that reads nothing: more than any kernel buffers.
FLOOD = 2_000
PIECE = "x" * 10_000


class Recorder(asyncio.Transport):
    """A transport that records its calls; a test decides how much it holds."""

    def __init__(self, held=0):
        super().__init__()
        self.calls = []
        self.held = held
        self.closing = False

    def write(self, data):
        if data == b"bad":
            raise RuntimeError("as asked")
        self.calls.append(data)

    def close(self):
        self.calls.append("close")

    def abort(self):
        self.calls.append("abort")

    def write_eof(self):
        self.calls.append("eof")

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return self.held

    def get_write_buffer_limits(self):
        return 16_384, 65_536


class TestTransport:
    @pytest.fixture
    def below(self):
        return Recorder()

    @pytest.fixture
    async def transport(self, below):
        return CoalescingTransport(below)

    async def test_lone_write_is_not_kept_back(self, transport, below):
        """A single write in a turn is passed on before `write` returns."""
        for number in range(1, 4):
            transport.write(b"one")
            assert below.calls == [b"one"] * number
            await asyncio.sleep(0)

    async def test_writes_of_one_turn_are_joined(self, transport, below):
        """The first write is passed on at once, and the others together when the turn is over."""
        for data in (b"a", b"b", b"c"):
            transport.write(data)
        assert below.calls == [b"a"]
        await asyncio.sleep(0)
        assert below.calls == [b"a", b"bc"]

    async def test_first_write_after_a_burst_is_collected_too(self, transport, below):
        """Bursts come in series; a turn with one write ends the series."""
        transport.writelines([b"a", b"b"])
        await asyncio.sleep(0)
        transport.writelines([b"c", b"d"])
        assert below.calls == [b"a", b"b"]
        await asyncio.sleep(0)
        assert below.calls == [b"a", b"b", b"cd"]
        transport.write(b"e")
        await asyncio.sleep(0)
        transport.write(b"f")
        assert below.calls == [b"a", b"b", b"cd", b"e", b"f"]

    async def test_large_piece_is_written_at_once_and_as_it_is(self, transport, below):
        """Earlier writes are passed on before it."""
        large = bytes(MAX_JOINED_BYTES)
        transport.writelines([b"a", b"b", large, b"c"])
        assert below.calls == [b"a", b"b", large]
        assert below.calls[2] is large
        await asyncio.sleep(0)
        assert below.calls == [b"a", b"b", large, b"c"]

    async def test_high_water_mark_counts_what_is_collected(self, transport, below):
        """
        Data above the mark is passed on, so that the transport underneath can pause the sender.
        """
        transport.write(b"a")
        below.held = 65_536 - 100
        transport.write(bytes(60))
        transport.write(bytes(40))
        assert transport.get_write_buffer_size() == 65_536
        assert below.calls == [b"a"]
        transport.write(b"b")
        assert below.calls == [b"a", bytes(100) + b"b"]
        assert transport.get_write_buffer_size() == below.held

    @pytest.mark.parametrize(
        ("end", "calls"),
        [("close", [b"a", b"bc", "close"]), ("write_eof", [b"a", b"bc", "eof"])],
    )
    async def test_end_comes_after_what_was_written(self, transport, below, end, calls):
        """`close` and `write_eof` pass on everything at once and lose nothing."""
        transport.writelines([b"a", b"b", b"c"])
        getattr(transport, end)()
        assert below.calls == calls
        await asyncio.sleep(0)
        assert below.calls == calls

    async def test_abort_throws_away_what_was_collected(self, transport, below):
        """Collected data is discarded like data that the client has not taken."""
        transport.writelines([b"a", b"b"])
        transport.abort()
        await asyncio.sleep(0)
        assert below.calls == [b"a", "abort"]
        assert transport.get_write_buffer_size() == 0

    async def test_nothing_is_written_to_a_connection_that_broke(self, transport, below):
        """uvloop would report such a write as an error."""
        transport.writelines([b"a", b"b"])
        below.closing = True
        await asyncio.sleep(0)
        assert below.calls == [b"a"]

    async def test_write_that_fails_is_reported_and_holds_up_nobody(self, transport, below):
        """The error names its transport; the other transports of that turn are written."""
        other_below = Recorder()
        other = CoalescingTransport(other_below)
        errors = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        transport.writelines([b"a", b"bad"])
        other.writelines([b"a", b"b"])
        await asyncio.sleep(0)
        assert [(str(error["exception"]), error["transport"]) for error in errors] == [
            ("as asked", transport)
        ]
        assert other_below.calls == [b"a", b"b"]


class Scenarios:
    """The application; the path chooses the frames of a connection."""

    def __init__(self):
        # Shared between a scenario and its test, which runs in another thread.
        self.happened = threading.Event()
        self.results = []

    async def __call__(self, scope, receive, send):
        self.happened.clear()
        self.results.clear()
        await receive()
        await send({"type": "websocket.accept"})
        # The protocol object of this connection.
        self.protocol = send.__self__
        await getattr(self, scope["path"].strip("/"))(receive, send)

    async def burst(self, receive, send):
        """Send many frames and the close frame in one turn."""
        for number in range(200):
            await send({"type": "websocket.send", "text": f"message {number}"})
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})

    async def sizes(self, receive, send):
        """Send large and small frames in one turn."""
        for number, size in enumerate(SIZES):
            await send({"type": "websocket.send", "bytes": bytes([number]) * size})
        await send({"type": "websocket.close"})

    async def texts(self, receive, send):
        """Send some of the texts again and again."""
        for text in TEXTS:
            await send({"type": "websocket.send", "text": text})
        await send({"type": "websocket.close"})

    async def late(self, receive, send):
        """Send one text after the close frame."""
        await send({"type": "websocket.close", "code": 4000})
        try:
            await send({"type": "websocket.send", "text": "too late"})
        except RuntimeError as exc:
            self.results.append(str(exc))
        self.happened.set()

    async def echo(self, receive, send):
        """Send every message twice."""
        while (event := await receive())["type"] == "websocket.receive":
            for _ in range(2):
                await send({"type": "websocket.send", "text": event["text"]})

    async def blocked(self, receive, send):
        """Send one frame, then block the loop until the client has it."""
        # The answer to the handshake was written in an earlier turn.
        await receive()
        await send({"type": "websocket.send", "text": "now"})
        self.results.append(self.happened.wait(PATIENCE))
        await send({"type": "websocket.close"})

    async def flood(self, receive, send):
        """Send more than the client takes, without ever giving up the turn."""
        held, high = self.protocol.transport, self.protocol.transport.get_write_buffer_limits()[1]
        # Runs only when the sender has to wait.
        asyncio.get_running_loop().call_soon(self.happened.set)
        most = 0
        for number in range(FLOOD):
            await send({"type": "websocket.send", "text": f"{number:04}{PIECE}"})
            most = max(most, held.get_write_buffer_size())
            if not self.happened.is_set():
                self.results[:] = [number]
        self.results += [high, most]
        await send({"type": "websocket.close"})

    async def outstay(self, receive, send):
        """Continue to send several frames per turn to a client that vanishes."""
        try:
            for number in itertools.count():
                for _ in range(5):
                    await send({"type": "websocket.send", "text": f"message {number}"})
                await asyncio.sleep(0)
        except OSError:
            self.happened.set()

    async def break_off(self, receive, send):
        """Break the connection in this turn, before any callback reports it."""
        await receive()
        # The event loop does this when a write fails.
        self.protocol.transport._transport.abort()
        for number in range(20):
            await send({"type": "websocket.send", "text": str(number)})
        self.results.append(self.protocol.disconnected)
        await receive()
        self.happened.set()

    async def shut_down(self, receive, send):
        """Let the server begin to stop while frames are waiting."""
        for number in range(20):
            await send({"type": "websocket.send", "text": str(number)})
        self.protocol.shutdown()

    async def leave(self, receive, send):
        """
        Let the server begin to stop after the client's close frame, while it is still
        connected.
        """
        event = await receive()
        self.protocol.shutdown()
        self.results.append(event["code"])
        self.happened.set()


class Served:
    """Uvicorn in a thread, on one kind of loop, with TLS or without."""

    def __init__(self, loop, certificate=None, authority=None):
        self.app = Scenarios()
        self.context = None
        options = {}
        if certificate is not None:
            options["ssl_certfile"], options["ssl_keyfile"] = certificate
            self.context = ssl.create_default_context(cafile=authority)
        config = uvicorn.Config(
            self.app,
            ws=CoalescingWebSocketProtocol,
            loop=loop,
            lifespan="off",
            log_config=None,
            **options,
        )
        config.load()
        if config.ssl is not None:
            # The client reads in one thread and writes in another. OpenSSL allows that only
            # while the server sends nothing of its own after the handshake.
            config.ssl.num_tickets = 0
        self._server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        sockets = {"sockets": [self._listener]}
        self._thread = threading.Thread(target=self._server.run, kwargs=sockets)
        self._thread.start()

    def connect(self, path, **options):
        scheme = "ws" if self.context is None else "wss"
        url = f"{scheme}://127.0.0.1:{self.port}/{path}"
        return connect(url, ssl=self.context, max_size=None, **options)

    def connect_raw(self, path, *headers):
        """Shake hands over a plain socket with tiny buffers; return it and a reader."""
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(PATIENCE)
        raw.connect(("127.0.0.1", self.port))
        if self.context is not None:
            raw = self.context.wrap_socket(raw, server_hostname="127.0.0.1")
        raw.sendall(
            f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n{''.join(headers)}\r\n".encode()
        )
        reader = raw.makefile("rb")
        assert b" 101 " in reader.readline()
        while reader.readline().strip():
            pass
        return raw, reader

    def stop(self):
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(
    scope="module",
    params=itertools.product(["asyncio", "uvloop"], ["tcp", "tls"]),
    ids="-".join,
)
def running(request, authority):
    loop, wire = request.param
    secured = (authority.issue("server"), authority.certificate) if wire == "tls" else ()
    served = Served(loop, *secured)
    yield served
    served.stop()


@pytest.fixture
def served(running, caplog):
    """Fail a test during which the server or its loop printed a complaint."""
    with caplog.at_level(logging.WARNING):
        yield running
    assert [record.getMessage() for record in caplog.get_records("call")] == []


def frames(reader):
    """Read unmasked frames up to the close frame; return opcode and data of each."""
    opcode = None
    while opcode != CLOSE:
        opcode, size = reader.read(1)[0] & 0x0F, reader.read(1)[0]
        if size >= 126:
            form, width = ("!H", 2) if size == 126 else ("!Q", 8)
            (size,) = struct.unpack(form, reader.read(width))
        yield opcode, reader.read(size)


GOODBYE = struct.pack("!H", 1000)


def masked(first, data):
    """Return a frame of a client, masked with zeros, which leave the data unchanged."""
    return bytes([first, 0x80 | len(data), 0, 0, 0, 0]) + data


class TestServer:
    def test_connection_writes_through_the_transport(self, served):
        """Uvicorn uses it as the connection's own transport."""
        with served.connect("echo") as client:
            client.send("hello")
            assert [client.recv(PATIENCE), client.recv(PATIENCE)] == ["hello"] * 2
            transport = served.app.protocol.transport
            assert isinstance(transport, CoalescingTransport)
            assert transport.get_extra_info("peername") == client.local_address

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_close_frame_comes_after_all_that_was_sent_before_it(self, served, compression):
        """The frames are sent in the same turn, compressed or not; the close frame comes last."""
        with served.connect("burst", compression=compression) as client:
            for number in range(200):
                assert client.recv(PATIENCE) == f"message {number}"
            with pytest.raises(websockets.ConnectionClosed) as closed:
                client.recv(PATIENCE)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "enough")

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_frames_of_all_sizes_keep_their_order(self, served, compression):
        """Frames of a mebibyte are not collected, and overtake nothing."""
        with served.connect("sizes", compression=compression) as client:
            said = [(data[0], len(data)) for data in client]
        assert said == list(enumerate(SIZES))

    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_texts_of_all_lengths_arrive_at_every_client(self, served, compression):
        """Each client gets all texts, even if their frames were made for another client."""
        for _ in range(2):
            with served.connect("texts", compression=compression) as client:
                assert list(client) == TEXTS

    def test_frame_of_a_text_is_made_once(self, served):
        """All clients share the frame; the frame of a long text is not kept."""
        text_frame.cache_clear()
        for _ in range(2):
            with served.connect("texts", compression=None) as client:
                assert list(client) == TEXTS
        short = {text for text in TEXTS if len(text) < MAX_JOINED_BYTES}
        assert text_frame.cache_info().misses == text_frame.cache_info().currsize == len(short)

    def test_frames_are_compressed_if_the_client_agreed_to_it(self, served):
        """Texts that other clients get uncompressed are compressed too."""
        agreed = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        for headers, first in [((), 0x81), ((agreed,), 0xC1)]:
            raw, reader = served.connect_raw("burst", *headers)
            with raw, reader:
                assert reader.read(1)[0] == first

    def test_text_after_the_close_frame_is_an_error(self, served):
        """The application gets the error, as without coalescing; the client sees nothing of it."""
        raw, reader = served.connect_raw("late")
        with raw, reader:
            assert list(frames(reader)) == [(CLOSE, struct.pack("!H", 4000))]
            assert served.app.happened.wait(PATIENCE)
            raw.sendall(masked(0x88, struct.pack("!H", 4000)))
            assert reader.read() == b""
        (error,) = served.app.results
        assert "after sending 'websocket.close'" in error

    def test_pongs_and_answers_keep_their_order(self, served):
        """Pings may come between messages and between the fragments of one."""
        raw, reader = served.connect_raw("echo")
        with raw, reader:
            raw.sendall(
                masked(0x01, b"one, ")
                + masked(0x89, b"ping 1")
                + masked(0x80, b"in two")
                + masked(0x89, b"ping 2")
                + masked(0x81, b"two")
            )
            received = frames(reader)
            said = [next(received) for _ in range(6)]
            raw.sendall(masked(0x88, GOODBYE))
            said += received
        pongs = [(PONG, b"ping 1"), (PONG, b"ping 2")]
        echoes = [(TEXT, b"one, in two")] * 2 + [(TEXT, b"two")] * 2
        assert said == [*pongs, *echoes, (CLOSE, GOODBYE)]

    def test_lone_frame_is_not_kept_back(self, served):
        """The client has it although the loop has not had another turn."""
        with served.connect("blocked") as client:
            client.send("go")
            assert client.recv(PATIENCE) == "now"
            served.app.happened.set()
            with pytest.raises(websockets.ConnectionClosedOK):
                client.recv(PATIENCE)
        assert served.app.results == [True]

    def test_sender_waits_for_a_client_that_does_not_read(self, served):
        """
        The sender waits at the high-water mark even within one turn; later all arrives in
        order.
        """
        raw, reader = served.connect_raw("flood")
        with raw, reader:
            assert served.app.happened.wait(PATIENCE)
            said = list(frames(reader))
        (before, high, most) = served.app.results
        assert before < FLOOD - 1
        assert most <= high + len(PIECE) + 8
        assert [int(data[:4]) for opcode, data in said if opcode == TEXT] == list(range(FLOOD))
        assert said[-1][0] == CLOSE

    def test_client_that_vanishes_in_a_burst_is_told_to_the_sender_only(self, served):
        """`send` raises as without coalescing, and nothing is logged."""
        raw, reader = served.connect_raw("outstay")
        with raw, reader:
            reader.read(2)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert served.app.happened.wait(PATIENCE)

    def test_nothing_follows_the_close_frame(self, served):
        """The close frame answers the client's; `send` raises for a sender that continues."""
        raw, reader = served.connect_raw("outstay")
        with raw, reader:
            reader.read(2)
            # The rest of that frame, "message 0", and all others.
            assert reader.read(9) == b"message 0"
            raw.sendall(masked(0x88, GOODBYE))
            assert list(frames(reader))[-1] == (CLOSE, GOODBYE)
            assert reader.read() == b""
        assert served.app.happened.wait(PATIENCE)

    def test_frames_for_a_connection_that_broke_are_dropped_quietly(self, served):
        """The socket is already closed when the turn ends; the application is told as usual."""
        with served.connect("break_off") as client:
            client.send("go")
            with pytest.raises(websockets.ConnectionClosedError):
                client.recv(PATIENCE)
        assert served.app.happened.wait(PATIENCE)
        assert served.app.results == [False]

    def test_shutdown_comes_after_what_was_sent(self, served):
        """All frames of the turn arrive, then the close frame of a stopping server."""
        with served.connect("shut_down") as client:
            assert [client.recv(PATIENCE) for _ in range(20)] == [str(n) for n in range(20)]
            with pytest.raises(websockets.ConnectionClosed) as closed:
                client.recv(PATIENCE)
        assert closed.value.rcvd.code == 1012

    def test_shutdown_leaves_alone_who_is_leaving(self, served):
        """The server sends one close frame; a second one would fail and break the shutdown."""
        raw, reader = served.connect_raw("leave")
        with raw, reader:
            raw.sendall(masked(0x88, GOODBYE))
            assert list(frames(reader)) == [(CLOSE, GOODBYE)]
            assert reader.read() == b""
            assert served.app.happened.wait(PATIENCE)
        assert served.app.results == [1000]


UNSUITABLE = {
    "missing": (
        "sys.modules['uvicorn'] = None",
        "coalescing the writes of uvicorn needs an extra: ",
    ),
    "too old": (
        "uvicorn.__version__ = '0.34.0'; sys.modules[MODULE] = None",
        "uvicorn 0.34.0 cannot be used for this (import of uvicorn.protocols.websockets.",
    ),
    "without flow control": (
        "del importlib.import_module(MODULE).WebSocketsSansIOProtocol.pause_writing",
        f"uvicorn {uvicorn.__version__} cannot be used for this (its WebSocket protocol has no ",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), UNSUITABLE.values(), ids=UNSUITABLE)
def test_unsuitable_uvicorn_is_named_at_import(change, sentence):
    """The error says how to fix it."""
    script = f"""
import importlib, sys, uvicorn
MODULE = "uvicorn.protocols.websockets.websockets_sansio_impl"
{change}
try:
    import fast_channels.servers.uvicorn
except ImportError as exc:
    print(exc)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.startswith(sentence)
    assert "pip install 'fast-channels[uvicorn]'" in done.stdout
