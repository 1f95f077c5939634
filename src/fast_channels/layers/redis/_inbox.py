"""What one server keeps for this process: its inboxes, its lease, its memberships."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._client import CLOSE_TIMEOUT_SECONDS
from ._keys import inbox_thing, member_thing
from ._queue_reader import BatchReader, ScoredPayload
from ._reader import Reader, Reconnect, first_of, reconnect_delays
from ._scripts import Script
from ._subscriber import KeyTracker

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Iterable,
        Iterator,
        Sequence,
    )

    from fast_channels.layers.broker import Deliver

    from ._client import Client, RedisConnection
    from ._keys import Keys
    from ._options import QueueOptions
    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

RENEW_LEASE = Script("renew_lease")
REAP = Script("reap")

# Messages that may wait in the inbox of one process. The bound of each channel
# in it is the channel's own; this one protects Redis from a process that hangs.
INBOX_CAPACITY = 10_000

# Payloads to remember, more than a replica is behind its primary.
RECENT = 4096

# Processes that one call removes, so that none takes long.
REAPED_AT_ONCE = 10

# Memberships that travel together when all of them are renewed. With more, the
# loop would stand still, and the last answers come after the timeout.
BATCH = 1000


class Inbox:
    """
    Reads the inboxes of this process on one server.

    While it does, the process holds a lease there. Should the lease end without
    being renewed, whoever notices first removes what the process left.
    """

    def __init__(
        self,
        server: Server,
        keys: Keys,
        inboxes: Sequence[str],
        options: QueueOptions,
        deliver: Deliver,
        on_return: Callable[[Inbox, float, float, bool], None],
    ) -> None:
        # Groups on this server to be a member of, and not to be.
        self.joined: set[str] = set()
        self.left: set[str] = set()
        self._server = server
        self._control = server.control
        self._keys = keys
        # Keys to read; the owner of the list adds to it.
        self._inboxes = inboxes
        # Set when it has.
        self._grown = asyncio.Event()
        self._options = options
        self._deliver = deliver
        # Keys of this reader alone.
        self._beats, self._batch = keys.new_heartbeat(), keys.new_batch()
        self._intake = BatchReader(self._control, self._batch, inboxes, options.expiry)
        self._supervisor = server.supervised(self._converse, on_return=self._returned)
        self._on_return = on_return
        # Whether nothing has been removed or forgotten since all was well.
        self._intact = True
        # Whether there ever was a lease, which then should be there still, unless
        # all is being deleted on purpose.
        self._held = False
        self.is_flushed = False
        # When it was renewed last, as the clock of this process tells.
        self._asked_at = 0.0
        # Unix time until which certainly nothing was removed.
        self._sure_at = time.time()
        # Of the server as it was started, to know it from a successor.
        self._run_id = b""
        # A successor may not have heard yet that these were taken.
        self._recent = RecentPayloads(RECENT)
        self._succeeded = False

    def read(self) -> None:
        """Read all inboxes in the background, also those added since the last call."""
        self._grown.set()
        self._supervisor.start()

    async def prove(self) -> None:
        """Raise BrokerRefused if the server does not let us do what reading takes."""
        try:
            await asyncio.gather(self._hold(), self._control.call("CLIENT", "TRACKING", "OFF"))
        except BrokerRefused:
            raise
        except LayerUnavailable:
            # The reader sees to it when the server is back.
            pass

    async def begin_anew(self) -> None:
        """Called when everything on the server was deleted on purpose."""
        if self._inboxes:
            await self._hold()
            # Who joined meanwhile is not to be forgotten.
            await self._restore()

    async def stop(self) -> None:
        """Leave nothing for others to send to, and nothing that was sent."""
        await self._supervisor.stop()
        if not self._inboxes:
            return
        # Without the server, others do it when the lease has ended.
        with contextlib.suppress(LayerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._control.call("ZADD", self._keys.leases, 0, self._keys.process)
                await reap(self._control, self._keys)
                await self._control.call("DEL", self._beats, self._batch)

    # -- memberships --------------------------------------------------------

    async def join(self, topic: str) -> None:
        """Make this process a member; also if that takes an outage."""
        self.joined.add(topic)
        self.left.discard(topic)
        for pause in reconnect_delays():
            try:
                await self._join(topic)
            except BrokerRefused:
                self.joined.discard(topic)
                raise
            except LayerUnavailable:
                await asyncio.sleep(pause)
            else:
                break

    async def leave(self, topic: str) -> None:
        """The opposite; what an outage prevents is made up for afterwards."""
        self.joined.discard(topic)
        try:
            await self._leave(topic)
        except LayerUnavailable:
            self.left.add(topic)

    async def _join(self, topic: str) -> None:
        # All in one go, and the server executes it in this order: what is to be
        # removed with the process is known before it is there.
        call, keys = self._control.call, self._keys
        address, group = keys.address(topic), keys.of_group(topic)
        await asyncio.gather(
            call("SADD", keys.of_process(keys.process), member_thing(address, group)),
            *added(call, group, address, self._options.group_expiry),
        )

    async def _leave(self, topic: str) -> None:
        call, keys = self._control.call, self._keys
        address, group = keys.address(topic), keys.of_group(topic)
        await asyncio.gather(
            call("ZREM", group, address),
            call("SREM", keys.of_process(keys.process), member_thing(address, group)),
        )

    async def _restore(self) -> None:
        """Make memberships what they should be; the server may have lost its data."""
        for topics in _batches(self.joined):
            await asyncio.gather(*map(self._rejoin, topics))
            # Some may have been left while they were joined again.
            self.left.update(topic for topic in topics if topic not in self.joined)
        await self._leave_rest()

    async def _leave_rest(self) -> None:
        """Leave what could not be left before."""
        for topics in _batches(self.left):
            await asyncio.gather(*map(self._leave_late, topics))

    async def _leave_late(self, topic: str) -> None:
        # Who joined it again, while others were left, is a member and stays one.
        if topic in self.left:
            # Of what is refused now we are no member either.
            with contextlib.suppress(BrokerRefused):
                await self._leave(topic)
            self.left.discard(topic)

    async def _rejoin(self, topic: str) -> None:
        try:
            if topic in self.joined:
                await self._join(topic)
        except BrokerRefused:
            # It must not keep the others from coming back.
            logger.exception("the group %r cannot be joined again", topic)

    # -- reading ------------------------------------------------------------

    async def _converse(self, link: RedisConnection, supervisor: Reader) -> None:
        self._grown.clear()
        interval = self._options.heartbeat_interval
        alarm = KeyTracker(self._server, self._inboxes, self._beats, interval)
        await alarm.arm(link)
        await self._check()
        if not self._intact and not supervisor.interrupted:
            # Otherwise nobody would be told: without an outage there is no return.
            raise _removed()
        await self._restore()
        supervisor.connected(recovered=self._intact)
        self._intact = True
        await first_of(
            alarm.keep(link, supervisor),
            self._read(alarm),
            self._stay(),
            self._renew_when_grown(),
        )

    async def _read(self, alarm: KeyTracker) -> None:
        size = self._options.batch
        # The first batch may be one that had been taken before; more may wait,
        # for which nothing rings any more.
        enough = 1
        while True:
            await alarm.wait()
            taken = await self._intake.take(size)
            while len(taken) >= enough:
                self._deliver_all(taken)
                # A turn for consumers.
                await asyncio.sleep(0)
                taken = await self._intake.take(size)
            # The alarm rings for what we take, too; the next call confirms it.
            self._deliver_all(taken)
            enough, self._succeeded = size, False

    def _deliver_all(self, taken: Iterable[ScoredPayload]) -> None:
        new: list[bytes] = []
        for payload, _ in taken:
            if self._succeeded and payload in self._recent:
                # Its predecessor had handed it out.
                continue
            self._recent.add(payload)
            new.append(payload)
        self._deliver(self._keys.inbox, *new)

    async def _renew_when_grown(self) -> None:
        # What a connection is told of is settled when it is made.
        await self._grown.wait()
        raise Reconnect

    # -- staying ------------------------------------------------------------

    async def _stay(self) -> None:
        """Renew the lease in time, and memberships before they expire."""
        options, restored = self._options, time.monotonic()
        while True:
            await asyncio.sleep(min(options.lease, options.expiry, options.group_expiry) / 3)
            await self._hold()
            if not self._intact:
                raise _removed()
            await self._leave_rest()
            if time.monotonic() - restored >= options.group_expiry / 3:
                restored = time.monotonic()
                await self._restore()

    async def _hold(self) -> None:
        """Renew the lease, and remove processes whose lease has ended."""
        options, keys = self._options, self._keys
        now = time.monotonic()
        if self._held and now - self._asked_at >= options.expiry:
            # This process stood still, and senders have removed what was too old.
            self._intact = False
        self._asked_at = now
        # Longer than whatever is listed there.
        lasts = int((options.lease + options.group_expiry) * 1000)
        held, ended = await self._control.run(
            RENEW_LEASE,
            [keys.leases, keys.of_process(keys.process)],
            [keys.process, options.lease, lasts, *map(inbox_thing, self._inboxes)],
        )
        if self._held and not held and not self.is_flushed:
            self._intact = False
        self._held = True
        if self._intact:
            self._sure_at = time.time()
        if ended:
            await reap(self._control, keys)

    async def _check(self) -> None:
        """Find out whether anything was lost while there was no connection."""
        await self._hold()
        info: bytes = await self._control.call("INFO", "server")
        run_id: bytes = next((line for line in info.split() if line.startswith(b"run_id:")), b"")
        waiting = [self._control.call("ZCARD", key) for key in self._inboxes]
        full = max(await asyncio.gather(*waiting), default=0) >= INBOX_CAPACITY
        if self._run_id and run_id != self._run_id:
            self._succeeded = True
        if full or self._succeeded:
            # Senders met a full inbox; or this is a successor, who need not
            # know all that its predecessor did.
            self._intact = False
        self._run_id = run_id

    def _returned(self, since: float, until: float, recovered: bool) -> None:
        recovered = recovered and until - since < self._options.expiry
        # A connection may have been heard long after the lease had ended.
        since = since if recovered else min(since, self._sure_at)
        self._on_return(self, since, until, recovered)


class RecentPayloads:
    """Remembers the last payloads, as many as `size`, by their hash."""

    def __init__(self, size: int) -> None:
        self._size = size
        # A dict, because it is an ordered set.
        self._seen: dict[int, None] = {}

    def add(self, payload: bytes) -> None:
        self._seen[hash(payload)] = None
        if len(self._seen) > self._size:
            del self._seen[next(iter(self._seen))]

    def __contains__(self, payload: bytes) -> bool:
        return hash(payload) in self._seen


@contextlib.asynccontextmanager
async def flushing(inboxes: Sequence[Inbox]) -> AsyncGenerator[None]:
    """Everything on their servers is deleted on purpose within; they begin anew afterwards."""
    for inbox in inboxes:
        inbox.is_flushed = True
    try:
        yield
        await asyncio.gather(*(inbox.begin_anew() for inbox in inboxes))
    finally:
        for inbox in inboxes:
            inbox.is_flushed = False


def added(
    call: Callable[..., Awaitable[Any]], group: str, channel: str, expiry: float
) -> list[Awaitable[Any]]:
    """Return the commands that make a channel a member of a group for `expiry` seconds."""
    return [
        call("ZADD", group, repr(time.time()), channel),
        call("PEXPIRE", group, int(expiry * 1000)),
    ]


def _removed() -> ConnectionError:
    return ConnectionError(
        "what waited for this process was removed: it stood still for too long, or all was flushed"
    )


def _batches(topics: Iterable[str]) -> Iterator[list[str]]:
    """Yield what is there now in lists of BATCH."""
    remaining = iter(list(topics))
    while batch := list(itertools.islice(remaining, BATCH)):
        yield batch


async def reap(pipe: Client, keys: Keys) -> None:
    """Remove what processes left on a server whose lease has ended."""
    args = [keys.belongings, REAPED_AT_ONCE]
    while await pipe.run(REAP, [keys.leases], args) == REAPED_AT_ONCE:
        pass
