"""The peer process, and the table of the formats that both sides support."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import json
import subprocess
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis.utils import consistent_hash
from tests.interop.pipe import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from fast_channels.layers import BaseChannelLayer
    from fast_channels.testing.server import ValkeyServer

ROOT = Path(__file__).resolve().parents[2]
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"

# Seconds that a test waits for a message.
PATIENCE = 15.0

LAYERS = {"queue": RedisChannelLayer, "pubsub": RedisPubSubChannelLayer}


class PeerError(Exception):
    """An exception of the peer's own layer; `kind` is the name of its class."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class PeerProcess:
    """The process of peer.py. Tests may use it from any event loop."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [PEER_PYTHON, Path(__file__).with_name("peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count()
        # Requests without an answer yet.
        self._open: dict[int, concurrent.futures.Future[Any]] = {}
        # Layers in the peer by their options, so that each is made once.
        self._layers: dict[str, int] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    async def call(self, method: str, *arguments: Any, layer: int = 0) -> Any:
        number = next(self._numbers)
        answer: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._open[number] = answer
        call = {"layer": layer, "method": method, "arguments": arguments, "timeout": PATIENCE}
        request = json.dumps({"id": number, "call": call}, default=to_json)
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        # The peer limits the time of every call, so this ends unless the peer dies.
        return await asyncio.wait_for(asyncio.wrap_future(answer), PATIENCE + 1)

    async def layer(self, kind: str, options: dict[str, Any]) -> int:
        key = json.dumps([kind, options])
        if key not in self._layers:
            self._layers[key] = await self.call("make", kind, options)
        return self._layers[key]

    def stop(self) -> None:
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout:
            answer = json.loads(line, object_hook=from_json)
            future = self._open.pop(answer["id"])
            if "error" in answer:
                future.set_exception(PeerError(answer["error"], answer["detail"]))
            else:
                future.set_result(answer["result"])


class PeerLayer:
    """A layer of channels_redis in the peer process."""

    def __init__(self, peer: PeerProcess, number: int, servers: Servers, setup: Setup) -> None:
        self._peer = peer
        self._number = number
        self._servers = servers
        self._setup = setup

    async def new_channel(self, prefix: str | None = None) -> str:
        arguments = [] if prefix is None else [prefix]
        channel = await self._call("new_channel", *arguments)
        if self._setup.kind == "pubsub":
            # channels_redis does not wait for the server's confirmation.
            await self._servers.subscribed(channel, 1)
        return channel

    async def send(self, channel: str, message: Any) -> None:
        await self._call("send", channel, message)

    async def receive(self, channel: str) -> Any:
        return await self._call("receive", channel)

    async def group_add(self, group: str, channel: str, *, subscribers: int = 1) -> None:
        """Join; for pub/sub, wait until `subscribers` processes are in the group."""
        await self._call("group_add", group, channel)
        if self._setup.kind == "pubsub":
            await self._servers.subscribed(f"{self._setup.prefix}__group__{group}", subscribers)

    async def group_discard(self, group: str, channel: str) -> None:
        await self._call("group_discard", group, channel)

    async def group_send(self, group: str, message: Any) -> None:
        await self._call("group_send", group, message)

    async def serialize(self, message: Any) -> bytes:
        return await self._call("serialize", message)

    async def deserialize(self, payload: bytes) -> Any:
        return await self._call("deserialize", payload)

    async def _call(self, method: str, *arguments: Any) -> Any:
        return await self._peer.call(method, *arguments, layer=self._number)


class Servers:
    """Two Valkey servers, accessed without any layer."""

    def __init__(self, servers: Sequence[ValkeyServer]) -> None:
        self.urls = [server.url for server in servers]
        self.raw = [redis.Redis.from_url(url) for url in self.urls]

    async def subscribed(self, topic: str, count: int) -> None:
        """Return once `count` connections listen on a Redis channel."""
        async with asyncio.timeout(PATIENCE):
            while sum(raw.pubsub_numsub(topic)[0][1] for raw in self.raw) < count:
                # The server does not announce new subscriptions.
                await asyncio.sleep(0.005)

    def close(self) -> None:
        for raw in self.raw:
            raw.close()


@dataclass(frozen=True)
class Format:
    """A format of messages on the wire, as options of each side."""

    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] | None = None
    carries_bytes: bool = True

    @property
    def message(self) -> dict[str, Any]:
        """Return a message with every kind of value that this format can carry."""
        message = {
            "type": "chat.message",
            "text": 'Grüße, "Welt" \N{PARTY POPPER}\n',
            "numbers": [0, -1, 2**53, 1.5, -0.25],
            "flags": {"yes": True, "no": False, "nothing": None},
            "empty": [{}, [], ""],
            "many": {f"key{number}": number for number in range(20)},
        }
        return {**message, "raw": bytes(range(256))} if self.carries_bytes else message


KEYS = {"symmetric_encryption_keys": ["a key"]}
FORMATS = {
    "msgpack": Format({"serializer_format": "msgpack"}),
    "json": Format({"serializer_format": "json"}, carries_bytes=False),
    "encrypted": Format(KEYS),
    "encrypted_json": Format({**KEYS, "serializer_format": "json"}, carries_bytes=False),
    # In the middle of a key change, each side encrypts with a key that is an old key to the
    # other side.
    "rotated_keys": Format(
        {"symmetric_encryption_keys": ["new key", "old key"]},
        {"symmetric_encryption_keys": ["old key", "new key"]},
    ),
}


@dataclass(frozen=True)
class Setup:
    """One column of the matrix."""

    kind: str
    format_name: str
    hosts: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.format_name}-{'one_host' if self.hosts == 1 else 'two_hosts'}"

    @property
    def format(self) -> Format:
        return FORMATS[self.format_name]

    @property
    def prefix(self) -> str:
        return "interop"

    def options(self, servers: Servers) -> dict[str, Any]:
        return {"hosts": servers.urls[: self.hosts], "prefix": self.prefix, **self.format.ours}

    def our_layer(self, servers: Servers, **more: Any) -> BaseChannelLayer:
        return LAYERS[self.kind](**self.options(servers), **more)

    async def peer_layer(self, peer: PeerProcess, servers: Servers, **more: Any) -> PeerLayer:
        options = {**self.options(servers), **(self.format.theirs or {}), **more}
        return PeerLayer(peer, await peer.layer(self.kind, options), servers, self)


MATRIX = [
    Setup(kind, format_name, hosts)
    for kind in LAYERS
    for format_name in FORMATS
    for hosts in (1, 2)
]


async def on_every_host(
    hosts: int,
    make: Callable[[], Awaitable[str]],
    hashed: Callable[[str], str] = lambda name: name,
) -> list[str]:
    """Make names until there is one for every host; `hashed` is the part that decides."""
    found: dict[int, str] = {}
    while len(found) < hosts:
        name = await make()
        found.setdefault(consistent_hash(hashed(name), hosts), name)
    return list(found.values())


def fresh(kind: str) -> str:
    """Return a name that no other test uses."""
    return f"{kind}.{uuid.uuid4().hex}"


async def received(layer: BaseChannelLayer | PeerLayer, channel: str, count: int = 1) -> list[Any]:
    """Return the next messages of a channel on either side."""
    async with asyncio.timeout(PATIENCE):
        return [await layer.receive(channel) for _ in range(count)]
