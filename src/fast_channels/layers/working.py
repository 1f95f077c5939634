"""The half of a layer that hands out work and hears what became of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, NamedTuple

from fast_channels.exceptions import ForeignChannel, InvalidName

from . import names
from .broker import hands_out_work, missing_work_queue, pops
from .hub import ADDRESS
from .wiring import Received, Wiring
from .work import DeadLetter, Work, reason_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from fast_channels.type_defs import ChannelMessage

    from .broker import Lease, WorkQueue
    from .loops import Lifetime

# Dead letters that are asked for at once.
SOME = 100


class Hold(NamedTuple):
    """A message in somebody's hands."""

    channel: str
    message: ChannelMessage
    lease: Lease


class Working(Wiring):
    """Work on shared channels, for brokers that are a WorkQueue."""

    # Of the layer, see base.py.
    _lifetime: Lifetime

    @contextlib.asynccontextmanager
    async def take(self, channel: str) -> AsyncGenerator[Work]:
        """
        Wait for a message of a shared channel: `async with layer.take("mails") as work:`.

        It is acknowledged when the block ends. If the block raises an
        Exception, which goes on to the caller, the message comes again after a
        pause, and after `max_deliveries` goes to the dead letters. Is the block
        cancelled, somebody else gets it at once. It also goes to somebody else
        after `visibility_timeout` seconds, however long the block goes on: so
        the same work may be done twice, and has to bear it.

        Cancelling the wait loses nothing; while the broker is away it goes on.
        Raises MissingCapability on a layer whose broker cannot do this.
        """
        _check_shared(channel)
        hold = await self._lifetime.run(self._hold, channel, receiving=True, undo=self._return)
        work = Work(channel, hold.message, hold.lease.deliveries)
        try:
            yield work
        except Exception as exc:
            await self._end(hold, work.rejection, reason_of(exc))
            raise
        except BaseException:
            # Nobody waits here for a broker: the process may be about to end.
            self._lifetime.tell(self._give_up, hold, work.rejection)
            raise
        await self._end(hold, work.rejection, None)

    async def dead_letters(self, channel: str, *, limit: int = SOME) -> list[DeadLetter]:
        """
        Return messages that nobody could do the work of, the oldest first.

        The last thousand per channel are kept.
        """
        _check_shared(channel)
        return await self._lifetime.run(self._dead_letters, channel, limit)

    async def retry_dead_letters(self, channel: str, *, limit: int = SOME) -> int:
        """
        Put dead letters back behind all that waits, the oldest first; return how many.

        Fewer than `limit` if there are no more, or no more room in the channel.
        Their deliveries are counted anew.
        """
        _check_shared(channel)
        return await self._lifetime.run(self._retry_dead_letters, channel, limit)

    # -- at home ------------------------------------------------------------

    async def _pop(self, channel: str) -> Received:
        if pops(self._broker) or not hands_out_work(self._broker):
            # Nobody needs to acknowledge what is taken for good.
            return await super()._pop(channel)
        hold = await self._hold(channel)
        return Received(
            hold.message,
            put_back=functools.partial(self._return, hold),
            taken=functools.partial(self._conclude, hold, None, None),
        )

    async def _hold(self, channel: str) -> Hold:
        work = self._work
        if not self._is_kept(channel):
            raise ForeignChannel(channel, "receive from")
        while True:
            lease = await work.lease(channel)
            message = self._hub.decoded(lease.payload)
            if message is not None:
                message.pop(ADDRESS, None)
                return Hold(channel, message, lease)
            # Nobody will ever read it, and the next one may be in order.
            work.reject(channel, lease, "undecodable: see the log of the layer")

    def _return(self, hold: Hold) -> None:
        if hands_out_work(self._broker):
            self._broker.release(hold.channel, hold.lease)

    def _give_up(self, hold: Hold, rejection: str | None) -> None:
        if rejection is None:
            self._return(hold)
        else:
            self._conclude(hold, rejection, None)

    async def _end(self, hold: Hold, rejection: str | None, failure: str | None) -> None:
        # A layer that is closed is not opened for this; the work comes again.
        await self._lifetime.run_if_open(self._concluded, hold, rejection, failure)

    async def _concluded(self, hold: Hold, rejection: str | None, failure: str | None) -> None:
        settling = self._conclude(hold, rejection, failure)
        if settling is not None:
            # It goes on if this is cancelled.
            await asyncio.wait([settling])

    def _conclude(
        self, hold: Hold, rejection: str | None, failure: str | None
    ) -> asyncio.Future[bool] | None:
        """Begin to tell the broker what became of it; None if there is no broker any more."""
        work = self._broker
        if not hands_out_work(work):
            return None
        if rejection is not None:
            return work.reject(hold.channel, hold.lease, rejection)
        if failure is not None:
            return work.fail(hold.channel, hold.lease, failure)
        return work.acknowledge(hold.channel, hold.lease)

    async def _dead_letters(self, channel: str, limit: int) -> list[DeadLetter]:
        return [
            DeadLetter(self._hub.decoded(payload), reason, deliveries)
            for payload, reason, deliveries in await self._work.dead_letters(channel, limit)
        ]

    async def _retry_dead_letters(self, channel: str, limit: int) -> int:
        return await self._work.requeue(channel, limit, self.get_capacity(channel))

    @property
    def _work(self) -> WorkQueue:
        broker = self._live_broker
        if not hands_out_work(broker):
            raise missing_work_queue(broker)
        return broker


def _check_shared(channel: object) -> None:
    names.check("channel", channel)
    if names.is_local(str(channel)):
        raise InvalidName(
            "channel", channel, "since work is shared and this belongs to one process"
        )
