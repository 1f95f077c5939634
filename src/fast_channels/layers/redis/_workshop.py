"""The work of a layer on its servers: that of a name is on the one that the name hashes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fast_channels.exceptions import ForeignChannel, MissingCapability
from fast_channels.layers import names

from ._hosts import consistent_hash

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from fast_channels.layers.work import Buried, Claimed

    from ._work import RedisWork


class Workshop:
    """A Queue and a WorkQueue, see layers/broker.py and layers/work.py."""

    def __init__(self, benches: Sequence[RedisWork], seal: Callable[[bytes], bytes]) -> None:
        self._benches = benches
        # Makes of a payload what travels.
        self._seal = seal

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        return await self._bench(name).push(name, self._seal(payload), capacity)

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        return await self._bench(name).push_many(name, list(map(self._seal, payloads)), capacity)

    async def claim(self, name: str) -> Claimed:
        return await self._bench(name).claim(name)

    def done(self, name: str, claimed: Claimed) -> asyncio.Future[bool]:
        return self._bench(name).done(name, claimed)

    def failed(self, name: str, claimed: Claimed, reason: str) -> asyncio.Future[bool]:
        return self._bench(name).failed(name, claimed, reason)

    def rejected(self, name: str, claimed: Claimed, reason: str) -> asyncio.Future[bool]:
        return self._bench(name).rejected(name, claimed, reason)

    def returned(self, name: str, claimed: Claimed) -> None:
        self._bench(name).returned(name, claimed)

    async def buried(self, name: str, limit: int) -> list[Buried]:
        return await self._bench(name).buried(name, limit)

    async def revive(self, name: str, limit: int, capacity: int) -> int:
        return await self._bench(name).revive(name, limit, capacity)

    async def add_member(self, topic: str, name: str) -> None:  # noqa: ARG002
        if names.is_local(name):
            raise ForeignChannel(name, "add to a group")
        raise MissingCapability(
            self,
            f"adding {name!r} to a group, which processes share",
            "send to it beside the group, or use RedisChannelLayer",
        )

    async def remove_member(self, topic: str, name: str) -> None:
        """There is none."""

    def _bench(self, name: str) -> RedisWork:
        return self._benches[consistent_hash(name, len(self._benches))]
