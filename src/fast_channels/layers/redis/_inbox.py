"""The queue's presence on one server: the inboxes of this process, its lease, its memberships."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from fast_channels.exceptions import BrokerRefused, LayerUnavailable

from ._client import CLOSE_TIMEOUT_SECONDS, batched
from ._keys import inbox_belonging, member_belonging
from ._reader import Reader, first_of, reconnect_delays
from ._scripts import Script
from ._subscriber import KeyTracker

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Awaitable,
        Callable,
        Sequence,
    )

    from fast_channels.layers.broker import Deliver

    from ._client import Client
    from ._keys import Keys
    from ._options import QueueOptions
    from ._server import Server

logger = logging.getLogger("fast_channels.layers.redis")

TAKE = Script("take")
RENEW_LEASE = Script("renew_lease")
REAP = Script("reap")

# Messages that may wait in the inbox of one process. Each channel has its own bound
# besides; this one protects Redis from a process that hangs.
INBOX_CAPACITY = 10_000

# Payloads to remember: more than a replica is behind its primary.
MAX_REMEMBERED_PAYLOADS = 4096

# Processes that one call removes, so that no call takes long.
MAX_REAPED_AT_ONCE = 10

# Memberships that are renewed together. More would block the loop, and their last answers
# would come after the timeout.
MAX_RENEWED_AT_ONCE = 1000


class Inbox:
    """
    Reads the inboxes of this process on one server.

    Meanwhile the process holds a lease there. If the lease ends without being renewed,
    the first process that notices removes everything the owner has left on the server.
    """

    def __init__(
        self,
        server: Server,
        keys: Keys,
        deliver: Deliver,
        options: QueueOptions,
        on_return: Callable[[Inbox, float, float, bool], None],
    ) -> None:
        self.joined: set[str] = set()
        """Groups on this server that this process is to be a member of."""
        self.left: set[str] = set()
        """Groups that an outage has kept it from leaving."""
        self._server = server
        self._control = server.control
        self._keys = keys
        self.inboxes: list[str] = []
        """Keys of the inboxes that are read."""
        self._deliver = deliver
        self._options = options
        self._on_return = on_return
        self._batch_key = keys.new_batch()
        self._batches = BatchReader(self._control, self._batch_key, self.inboxes, options.expiry)
        self.tracker = KeyTracker(
            server,
            keys.new_heartbeat(),
            options.heartbeat_interval,
            self._while_connected,
            self._returned,
        )
        """Tells of writes on this server; also used by the readers of shared names."""
        # Set when something was written to an inbox.
        self._written = asyncio.Event()
        # Set when this process has inboxes.
        self._used = asyncio.Event()
        # Set when others have removed this process, or senders its messages.
        self._removed = asyncio.Event()
        # Whether this process ever held a lease here. A missing lease then means that it
        # was removed, unless a flush deletes everything at this moment.
        self._held = False
        self.is_flushed = False
        # time.monotonic() when the lease was renewed last.
        self._renewed_at = 0.0
        # The last Unix time at which certainly nothing had been removed.
        self._intact_at = time.time()
        self.run_id = b""
        """The identity of the running server: a promoted replica has another one."""
        # Payloads that a promoted replica may hand out again, since it need not know yet
        # that they were taken.
        self._recent = RecentPayloads(MAX_REMEMBERED_PAYLOADS)
        self._server_replaced = False

    def read(self, key: str) -> None:
        """Read one more inbox in the background."""
        if key not in self.inboxes:
            self.inboxes.append(key)
            self._used.set()
            self.tracker.watch(key, self._written)

    def forget(self, key: str) -> None:
        """Undo `read`."""
        if key in self.inboxes:
            self.inboxes.remove(key)
            self.tracker.ignore(key, self._written)
            if not self.inboxes:
                self._used.clear()

    async def check_access(self) -> None:
        """Raise BrokerRefused if the server does not permit the commands that reading needs."""
        try:
            await asyncio.gather(
                self.renew_lease(), self._control.call("CLIENT", "TRACKING", "OFF")
            )
        except BrokerRefused:
            raise
        except LayerUnavailable:
            # The reader does all of this when the server is back.
            pass

    async def begin_anew(self) -> None:
        """Restore the lease and the memberships after a flush has deleted everything."""
        if self.inboxes:
            await self.renew_lease()
            # Groups that were joined during the flush remain joined.
            await self._restore()

    async def stop(self) -> None:
        """Remove this process from the server, with everything that was sent to it."""
        await self.tracker.stop()
        if not self.inboxes:
            return
        # If the server cannot be reached, other processes do this when the lease ends.
        with contextlib.suppress(LayerUnavailable, TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                await self._control.call("ZADD", self._keys.leases, 0, self._keys.process)
                await reap(self._control, self._keys)
                await self._control.call("DEL", self._batch_key)

    # -- memberships --------------------------------------------------------------

    async def join(self, topic: str) -> None:
        """Make this process a member of a group, even if that takes an outage."""
        self.joined.add(topic)
        self.left.discard(topic)
        for delay in reconnect_delays():
            try:
                await self._join(topic)
            except BrokerRefused:
                self.joined.discard(topic)
                raise
            except LayerUnavailable:
                await asyncio.sleep(delay)
            else:
                break

    async def leave(self, topic: str) -> None:
        """End a membership: during an outage, as soon as the server is back."""
        self.joined.discard(topic)
        try:
            await self._leave(topic)
        except LayerUnavailable:
            self.left.add(topic)

    async def _join(self, topic: str) -> None:
        # The server executes these in this order, so a membership never exists without
        # the entry by which others remove it.
        call, keys = self._control.call, self._keys
        address, group = keys.address(topic), keys.of_group(topic)
        await asyncio.gather(
            call("SADD", keys.of_process(keys.process), member_belonging(address, group)),
            *member_commands(call, group, address, self._options.group_expiry),
        )

    async def _leave(self, topic: str) -> None:
        call, keys = self._control.call, self._keys
        address, group = keys.address(topic), keys.of_group(topic)
        await asyncio.gather(
            call("ZREM", group, address),
            call("SREM", keys.of_process(keys.process), member_belonging(address, group)),
        )

    async def _restore(self) -> None:
        """Join and leave groups as wanted: the server may have lost its data."""
        for topics in batched(self.joined, MAX_RENEWED_AT_ONCE):
            await asyncio.gather(*map(self._rejoin, topics))
            # Some may have been left while they were joined again.
            self.left.update(topic for topic in topics if topic not in self.joined)
        await self._leave_late()

    async def _leave_late(self) -> None:
        """Leave the groups that an outage has kept this process from leaving."""
        for topics in batched(self.left, MAX_RENEWED_AT_ONCE):
            await asyncio.gather(*map(self._leave_if_unwanted, topics))

    async def _leave_if_unwanted(self, topic: str) -> None:
        # Another task may have joined it again meanwhile.
        if topic in self.left:
            # If the server refuses this, there is no membership either.
            with contextlib.suppress(BrokerRefused):
                await self._leave(topic)
            self.left.discard(topic)

    async def _rejoin(self, topic: str) -> None:
        try:
            if topic in self.joined:
                await self._join(topic)
        except BrokerRefused:
            # One refused group must not prevent the others from coming back.
            logger.exception("the group %r cannot be joined again", topic)

    # -- reading --------------------------------------------------------------------

    async def _while_connected(self, reader: Reader) -> None:
        while not self.inboxes:
            # Only readers of shared names use the tracker so far.
            reader.connected(recovered=True)
            await self._used.wait()
        await self._check()
        if self._removed.is_set() and not reader.interrupted:
            # Without an outage nothing would tell the members: make one.
            raise _removal_error()
        await self._restore()
        recovered = not self._removed.is_set()
        self._removed.clear()
        reader.connected(recovered=recovered)
        await first_of(self._read(), self._keep_lease())

    async def _read(self) -> None:
        size = self._options.batch
        # The first batch may have been taken before the connection was lost. It may be
        # small although more is waiting, of which the server does not tell again.
        enough = 1
        while True:
            await self._written.wait()
            self._written.clear()
            taken = await self._batches.take(size)
            while len(taken) >= enough:
                self._deliver_all(taken)
                # A turn for consumers.
                await asyncio.sleep(0)
                taken = await self._batches.take(size)
            # Taking is a write too and sets the event again; that call confirms this batch.
            self._deliver_all(taken)
            enough, self._server_replaced = size, False

    def _deliver_all(self, payloads: Sequence[bytes]) -> None:
        new: list[bytes] = []
        for payload in payloads:
            if self._server_replaced and payload in self._recent:
                # The previous server had handed it out.
                continue
            self._recent.add(payload)
            new.append(payload)
        self._deliver(self._keys.inbox, *new)

    # -- the lease ------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        """Renew the lease in time, and the memberships before they expire."""
        options, restored = self._options, time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(
                    min(options.lease, options.expiry, options.group_expiry) / 3
                ):
                    # Other callers of _renew_lease may find that it was lost.
                    await self._removed.wait()
            await self.renew_lease()
            if self._removed.is_set():
                raise _removal_error()
            await self._leave_late()
            if time.monotonic() - restored >= options.group_expiry / 3:
                restored = time.monotonic()
                await self._restore()

    async def renew_lease(self) -> None:
        """Renew the lease, and remove processes without one."""
        options, keys = self._options, self._keys
        now = time.monotonic()
        if self._held and now - self._renewed_at >= options.expiry:
            # This process stood still, and senders have removed expired messages.
            self._removed.set()
        self._renewed_at = now
        # Longer than anything that is listed there.
        lifetime = int((options.lease + options.group_expiry) * 1000)
        held, ended = await self._control.run(
            RENEW_LEASE,
            [keys.leases, keys.of_process(keys.process)],
            [keys.process, options.lease, lifetime, *map(inbox_belonging, self.inboxes)],
        )
        if self._held and not held and not self.is_flushed:
            self._removed.set()
        self._held = True
        if not self._removed.is_set():
            self._intact_at = time.time()
        if ended:
            await reap(self._control, keys)

    async def _check(self) -> None:
        """Find out whether anything was lost while there was no connection."""
        await self.renew_lease()
        info: bytes = await self._control.call("INFO", "server")
        run_id: bytes = next((line for line in info.split() if line.startswith(b"run_id:")), b"")
        waiting = [self._control.call("ZCARD", key) for key in self.inboxes]
        full = max(await asyncio.gather(*waiting), default=0) >= INBOX_CAPACITY
        if self.run_id and run_id != self.run_id:
            self._server_replaced = True
        if full or self._server_replaced:
            # A full inbox has refused messages, and a promoted replica need not know
            # everything that its predecessor did.
            self._removed.set()
        self.run_id = run_id

    def _returned(self, since: float, until: float, recovered: bool) -> None:
        if self.inboxes:
            recovered = recovered and until - since < self._options.expiry
            # The connection may have worked long after the lease had ended.
            since = since if recovered else min(since, self._intact_at)
            self._on_return(self, since, until, recovered)


class BatchReader:
    """
    Takes batches from several sorted sets on one server; see take.lua for why none is lost.

    `take` may be cancelled: the next call returns the same batch.
    """

    def __init__(self, client: Client, batch_key: str, keys: Sequence[str], expiry: float) -> None:
        self._client = client
        self._batch_key = batch_key
        # The owner of the list may add to it.
        self._keys = keys
        # Milliseconds until the server forgets a batch that is not fetched.
        self._expiry = int(expiry * 1000)
        # Number of the last batch that has arrived here.
        self.arrived = 0

    async def take(self, size: int) -> list[bytes]:
        """
        Return up to `size` payloads, and confirm the payloads that the last call returned.

        With a size of 0, only payloads of a lost reply. Raises LayerUnavailable.
        """
        args = [self.arrived, size, self._expiry]
        number, *batch = await self._client.run(TAKE, [self._batch_key, *self._keys], args)
        if int(number) <= self.arrived:
            return []
        self.arrived = int(number)
        # Each payload is followed by its score.
        payloads: list[bytes] = batch[::2]
        return payloads


class RecentPayloads:
    """Remembers the newest `size` payloads by their hash."""

    def __init__(self, size: int) -> None:
        self._size = size
        # A dict serves as an ordered set.
        self._hashes: dict[int, None] = {}

    def add(self, payload: bytes) -> None:
        self._hashes[hash(payload)] = None
        if len(self._hashes) > self._size:
            del self._hashes[next(iter(self._hashes))]

    def __contains__(self, payload: bytes) -> bool:
        return hash(payload) in self._hashes


@contextlib.asynccontextmanager
async def flushing(inboxes: Sequence[Inbox]) -> AsyncGenerator[None]:
    """Announce that the block deletes everything; restore the inboxes afterwards."""
    for inbox in inboxes:
        inbox.is_flushed = True
    try:
        yield
        await asyncio.gather(*(inbox.begin_anew() for inbox in inboxes))
    finally:
        for inbox in inboxes:
            inbox.is_flushed = False


def member_commands(
    call: Callable[..., Awaitable[Any]], group: str, channel: str, expiry: float
) -> list[Awaitable[Any]]:
    """Return the commands that make a channel a member of a group for `expiry` seconds."""
    return [
        call("ZADD", group, repr(time.time()), channel),
        call("PEXPIRE", group, int(expiry * 1000)),
    ]


async def reap(client: Client, keys: Keys) -> None:
    """Remove the belongings of processes from a server on which their lease has ended."""
    args = [keys.belongings, MAX_REAPED_AT_ONCE]
    while await client.run(REAP, [keys.leases], args) == MAX_REAPED_AT_ONCE:
        pass


def _removal_error() -> ConnectionError:
    return ConnectionError(
        "messages that waited for this process were removed: it stood still for too long, "
        "or everything was flushed"
    )
