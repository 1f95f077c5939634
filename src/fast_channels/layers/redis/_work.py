"""
Acknowledged work: a stream per name, with a consumer group that knows all leases.

Every change is one step of a script, by the clock of the server. Leased messages are also
in a sorted set, scored with the time at which they are due again: because no worker has
acknowledged them, or because the pause after a failure is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from fast_channels.exceptions import BrokerRefused, LayerClosed, LayerUnavailable
from fast_channels.layers.broker import DeadPayload, Lease
from fast_channels.layers.waiters import Waiters
from fast_channels.layers.work import MAX_DEAD_LETTERS

from ._client import CLOSE_TIMEOUT_SECONDS, batched
from ._hosts import consistent_hash
from ._reader import reconnect_delays
from ._scripts import Script

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from fast_channels.layers.options import WorkOptions

    from ._server import Server
    from ._subscriber import Subscriber

logger = logging.getLogger("fast_channels.layers.redis")

WORK_PUSH = Script("work_push")
WORK_LEASE = Script("work_lease")
WORK_END = Script("work_end")
WORK_REQUEUE = Script("work_requeue")

# Messages to lease at once.
MAX_LEASED_AT_ONCE = 64

# Messages to push or requeue with one command: the server serves no other client meanwhile.
MAX_WORK_PUSHED_AT_ONCE = 500

# How long a name is listened to when no worker waits for it.
WORK_IDLE_SECONDS = 60.0


class LeaseHandle(NamedTuple):
    """How the server identifies a lease of this process."""

    id: str
    deliveries: int


class WorkSettings(NamedTuple):
    """Settings that all names share."""

    prefix: str
    worker: str
    """The name of this process at the server; no other process ever has it."""
    options: WorkOptions
    expiry: float | None
    """Seconds after which messages that no worker has taken are forgotten; None for never."""
    check_interval: float
    """Seconds after which to look for work without a notice, which may have been lost."""


class WorkKeys(NamedTuple):
    """The keys of one name. The braces keep them on one node of a cluster."""

    queue: str
    due: str
    dead: str

    @classmethod
    def of(cls, prefix: str, name: str) -> WorkKeys:
        queue = f"{prefix}__work__{{{name}}}"
        return cls(queue, f"{queue}:due", f"{queue}:dead")


class RedisWorkQueue:
    """A WorkQueue, see layers/broker.py. Each name lives on the server that it hashes to."""

    def __init__(
        self,
        servers: Sequence[tuple[Server, Subscriber]],
        settings: WorkSettings,
        seal: Callable[[bytes], bytes],
    ) -> None:
        self._work_servers = servers
        self._work_settings = settings
        # Puts the envelope around a payload.
        self._seal = seal
        self.work_readers: dict[str, WorkReader] = {}
        """The readers of names that messages were taken from lately."""

    async def stop_work(self) -> None:
        """
        Send how leases have ended, within CLOSE_TIMEOUT_SECONDS.

        All other leased messages are redelivered after the visibility timeout.
        """
        await asyncio.gather(*(reader.stop() for reader in list(self.work_readers.values())))

    # -- sending ------------------------------------------------------------------

    async def push(self, name: str, payload: bytes, capacity: int) -> bool:
        """Append a payload, unless `capacity` messages wait, are leased or will be retried."""
        return await self._append(name, [payload], capacity) == 1

    async def push_many(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        """Append payloads until `capacity` is reached; return how many were appended."""
        return await self._append(name, payloads, capacity)

    async def _append(self, name: str, payloads: Sequence[bytes], capacity: int) -> int:
        (server, _), keys = self._work_server(name), self._work_keys(name)
        expiry, pushed = int((self._work_settings.expiry or 0) * 1000), 0
        for some in batched(map(self._seal, payloads), MAX_WORK_PUSHED_AT_ONCE):
            args = [capacity, expiry, keys.queue, *some]
            accepted = await server.publishing.run(WORK_PUSH, [keys.queue], args)
            pushed += accepted
            if accepted < len(some):
                break
        return pushed

    # -- WorkQueue ----------------------------------------------------------------

    async def lease(self, name: str) -> Lease:
        return await self._work_reader(name).lease()

    def acknowledge(self, name: str, lease: Lease) -> asyncio.Future[bool]:
        return self._work_reader(name).end(lease, "acknowledge")

    def fail(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        options = self._work_settings.options
        if lease.deliveries >= options.max_deliveries:
            return self.reject(name, lease, reason)
        pause = int(options.pause(lease.deliveries) * 1000)
        return self._work_reader(name).end(lease, "retry", pause=pause)

    def reject(self, name: str, lease: Lease, reason: str) -> asyncio.Future[bool]:
        return self._work_reader(name).end(lease, "reject", reason=reason)

    def release(self, name: str, lease: Lease) -> None:
        self._work_reader(name).release(lease)

    async def dead_letters(self, name: str, limit: int) -> list[DeadPayload]:
        (server, _), dead = self._work_server(name), self._work_keys(name).dead
        letters = await server.control.call("XRANGE", dead, "-", "+", "COUNT", limit)
        return [_dead_payload(fields) for _, fields in letters]

    async def requeue(self, name: str, limit: int, capacity: int) -> int:
        (server, _), keys = self._work_server(name), self._work_keys(name)
        requeued = 0
        while requeued < limit:
            wanted = min(MAX_WORK_PUSHED_AT_ONCE, limit - requeued)
            args = [wanted, capacity, keys.queue]
            moved = await server.publishing.run(WORK_REQUEUE, [keys.queue, keys.dead], args)
            requeued += moved
            if moved < wanted:
                break
        return requeued

    def _work_server(self, name: str) -> tuple[Server, Subscriber]:
        return self._work_servers[consistent_hash(name, len(self._work_servers))]

    def _work_keys(self, name: str) -> WorkKeys:
        return WorkKeys.of(self._work_settings.prefix, name)

    def _work_reader(self, name: str) -> WorkReader:
        reader = self.work_readers.get(name)
        if reader is None:
            (server, subscriber), keys = self._work_server(name), self._work_keys(name)
            forget = functools.partial(self._forget_work_reader, name, subscriber, keys)
            reader = WorkReader(server, self._work_settings, keys, forget)
            self.work_readers[name] = reader
            subscriber.listen(keys.queue, reader.wake)
        return reader

    def _forget_work_reader(self, name: str, subscriber: Subscriber, keys: WorkKeys) -> None:
        del self.work_readers[name]
        subscriber.ignore(keys.queue)


class WorkReader:
    """
    Leases messages of one name for the workers of this process.

    One task leases for all of them, so that cancelling a worker interrupts no command. The
    task ends, and calls `forget`, when the name has not been used for WORK_IDLE_SECONDS.
    """

    def __init__(
        self, server: Server, settings: WorkSettings, keys: WorkKeys, forget: Callable[[], None]
    ) -> None:
        self._server = server
        self._settings = settings
        self._keys = keys
        self._forget = forget
        self._waiters = Waiters[Lease](self.release)
        # Set when a worker waits, or there may be work.
        self._woken = asyncio.Event()
        # Leases of this process. A message that was redelivered here has several.
        self._leased: set[LeaseHandle] = set()
        # Whether a reply was lost, so that the server may know of more leases.
        self.reply_lost = False
        # Whether the server is being asked for work.
        self._leasing = False
        self._closed = False
        # Tasks that tell the server how leases have ended; and the ones that release messages.
        self._ending: set[asyncio.Task[bool]] = set()
        self._releasing: set[asyncio.Task[bool]] = set()
        # Messages that have expired before a worker took them.
        self._expired = 0
        self._task = asyncio.create_task(self._run(), name=f"fast_channels work {keys.queue}")

    def wake(self) -> None:
        """Look for work now."""
        self._woken.set()

    async def lease(self) -> Lease:
        if self._closed:
            raise LayerClosed(f"channel {self._keys.queue!r}")
        self.wake()
        return await self._waiters.wait()

    def end(
        self, lease: Lease, outcome: str, *, pause: int = 0, reason: str = ""
    ) -> asyncio.Task[bool]:
        """Begin to tell the server how a lease ends: `outcome` as in work_end.lua."""
        task = asyncio.create_task(
            self._end(lease.handle, outcome, pause, reason),
            name=f"fast_channels {outcome} {self._keys.queue}",
        )
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return task

    def release(self, lease: Lease) -> None:
        """Give a message to another worker, before any that wait."""
        task = self.end(lease, "release")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def stop(self) -> None:
        """Send how leases have ended, and release messages that no worker here will get."""
        self._closed = True
        self._waiters.fail(LayerClosed(f"channel {self._keys.queue!r}"))
        deadline = asyncio.get_running_loop().time() + CLOSE_TIMEOUT_SECONDS
        if self._leasing:
            # The task has to release the messages in the reply, and ends then.
            self.wake()
        else:
            self._task.cancel()
        await _end_by(deadline, [self._task])
        # Messages are redelivered if the server has not heard of their end by then.
        await _end_by(deadline, self._ending)

    # -- leasing ------------------------------------------------------------------

    async def _run(self) -> None:
        delays = reconnect_delays()
        while (
            self._waiters or await self._is_woken(WORK_IDLE_SECONDS) or self._leased or self._ending
        ):
            if self._closed:
                return
            self._woken.clear()
            if self._releasing:
                # Released messages come before the next ones.
                await asyncio.wait(self._releasing)
            if not self._waiters:
                continue
            try:
                pause = await self._serve(min(MAX_LEASED_AT_ONCE, len(self._waiters)))
            except BrokerRefused as exc:
                self._waiters.fail(exc)
            except LayerUnavailable:
                # The server may have executed the command all the same.
                self.reply_lost = True
                await asyncio.sleep(next(delays))
            else:
                delays = reconnect_delays()
                await self._is_woken(pause)
        self._forget()

    async def _serve(self, wanted: int) -> float:
        """Lease messages for waiting workers; return the seconds until the next attempt."""
        settings, options = self._settings, self._settings.options
        known = ("some", *(handle.id for handle in self._leased)) if self.reply_lost else ("all",)
        args = [
            settings.worker,
            wanted,
            int(options.visibility_timeout * 1000),
            options.max_deliveries,
            options.no_answer,
            MAX_DEAD_LETTERS,
            int((settings.expiry or 0) * 1000),
            *known,
        ]
        due_in, expired, *found = await self._ask(args)
        self.reply_lost = False
        if expired:
            self._log_expired(expired)
        for start in range(0, len(found), 3):
            id_, deliveries, payload = found[start : start + 3]
            self._hand_over(Lease(payload, deliveries, LeaseHandle(id_.decode(), deliveries)))
        if found:
            return 0
        longest = settings.check_interval
        return min(longest, due_in / 1000) if due_in >= 0 else longest

    async def _ask(self, args: Sequence[Any]) -> list[Any]:
        self._leasing = True
        try:
            reply: list[Any] = await self._server.control.run(WORK_LEASE, self._keys, args)
            return reply
        finally:
            self._leasing = False

    def _hand_over(self, lease: Lease) -> None:
        self._leased.add(lease.handle)
        if not self._waiters.hand_over(lease):
            # Its worker was cancelled meanwhile.
            self.release(lease)

    def _log_expired(self, expired: int) -> None:
        before, self._expired = self._expired, self._expired + expired
        # The 1st, and whenever the number has doubled: there may be many.
        if before.bit_length() != self._expired.bit_length():
            logger.warning(
                "forgot messages of %s that no worker took within %g s (%d so far)",
                self._keys.queue,
                self._settings.expiry,
                self._expired,
            )

    async def _end(self, handle: LeaseHandle, outcome: str, pause: int, reason: str) -> bool:
        args = [
            *(self._settings.worker, handle.id, handle.deliveries, outcome, pause, reason),
            *(MAX_DEAD_LETTERS, self._keys.queue),
        ]
        try:
            return await self._tell(args)
        except LayerUnavailable as exc:
            logger.warning(
                "could not %s a message of %s, so it will come again: %s",
                *(outcome, self._keys.queue, exc),
            )
            return False
        finally:
            self._leased.discard(handle)

    async def _tell(self, args: Sequence[Any]) -> bool:
        """Tell the server how a lease ends, repeatedly until the timeout of a command."""
        delays, clock = reconnect_delays(), asyncio.get_running_loop()
        give_up = clock.time() + self._server.timeout
        while True:
            try:
                # By the connection that publishes: messages of a handler are written first.
                return bool(await self._server.publishing.run(WORK_END, self._keys, args))
            except BrokerRefused:
                raise
            except LayerUnavailable:
                delay = next(delays)
                if clock.time() + delay > give_up:
                    raise
                await asyncio.sleep(delay)

    async def _is_woken(self, seconds: float) -> bool:
        """Wait to be woken, but no longer than that; return whether it has happened."""
        if not self._woken.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
        return self._woken.is_set()


async def _end_by(deadline: float, tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait for tasks until a time of the loop's clock, then cancel the rest."""
    if tasks:
        left = max(0.0, deadline - asyncio.get_running_loop().time())
        _, late = await asyncio.wait(tasks, timeout=left)
        for task in late:
            task.cancel()


def _dead_payload(fields: Sequence[bytes]) -> DeadPayload:
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    return DeadPayload(found[b"p"], found[b"r"].decode(errors="replace"), int(found[b"n"]))
