"""
Guarantees of backends that keep a history, in addition to the other contracts, as tests.

Subclass `HistoryContract` and provide `make_layer` as for `LayerContract`. It is called with
`history_size`, `history_ttl` and `idempotency_window`, and all layers that it returns must
reach each other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fast_channels.exceptions import ForeignChannel, InvalidChannelLayerError, InvalidPosition
from fast_channels.layers.position import Position, new_epoch

from .contract import TIMEOUT_SECONDS, MakeLayer, arrives, becomes, is_silent

if TYPE_CHECKING:
    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.layers.position import History

SIZE = 5


def numbered(n: int) -> dict[str, Any]:
    return {"type": "test", "n": n}


async def send_numbers(layer: BaseChannelLayer, *numbers: int) -> list[Position]:
    """Send to the group "room"; return the positions."""
    sent = [await layer.group_send("room", numbered(n)) for n in numbers]
    return [position for position in sent if position is not None]


def numbers_in(history: History) -> list[int]:
    return [kept.message["n"] for kept in history.messages]


async def numbers_from(mailbox: Mailbox, count: int) -> list[int]:
    return [(await arrives(mailbox))["n"] for _ in range(count)]


class HistoryContract:
    """The guarantees of histories and positions."""

    @pytest.fixture
    async def layer(self, make_layer: MakeLayer) -> BaseChannelLayer:
        return await make_layer(history_size=SIZE)

    @pytest.fixture
    async def peer(self, layer: BaseChannelLayer, make_layer: MakeLayer) -> BaseChannelLayer:
        """A layer in another process, as far as the backend can tell."""
        return await make_layer(history_size=SIZE)

    # -- positions ----------------------------------------------------------

    async def test_messages_of_a_group_are_numbered(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """The numbers of a group begin at 1, no matter which process sends."""
        positions = [
            *await send_numbers(layer, 1, 2),
            *await send_numbers(peer, 3),
        ]
        assert [position.offset for position in positions] == [1, 2, 3]
        assert len({position.epoch for position in positions}) == 1
        other = await layer.group_send("other", numbered(1))
        assert other is not None
        assert (other.offset, other.epoch == positions[0].epoch) == (1, False)

    async def test_reader_who_asks_learns_positions(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A reader gets the same positions as the sender; a direct message has none."""
        inbox = await layer.open_channel()
        inbox.positioned = True
        await layer.group_add("room", inbox.name)
        (sent,) = await send_numbers(peer, 1)
        await peer.send(inbox.name, numbered(2))
        found = [await arrives(inbox), await arrives(inbox)]
        assert sorted(message["n"] for message in found) == [1, 2]
        assert {layer.group_position(message) for message in found} == {("room", sent), None}

    async def test_position_as_text_is_a_position(self, layer: BaseChannelLayer) -> None:
        """Programs can store a position as text, and pass the text back."""
        first, _ = await send_numbers(layer, 1, 2)
        assert numbers_in(await layer.history("room", str(first))) == [2]

    @pytest.mark.parametrize(
        "since", ["", "0", "x-1-1", "-1", "0123456789abcdef-1", 7, b"1", ["a"]]
    )
    async def test_what_is_no_position_is_refused(
        self, layer: BaseChannelLayer, since: Any
    ) -> None:
        """The error shows the value, and the channel does not join."""
        inbox = await layer.open_channel()
        with pytest.raises(InvalidPosition, match="is not a position"):
            await layer.history("room", since)
        with pytest.raises(InvalidPosition, match="is not a position"):
            await layer.join("room", inbox.name, since)
        await layer.group_send("room", numbered(1))
        assert await is_silent(layer, inbox.name)

    # -- history ------------------------------------------------------------

    async def test_history_is_what_was_sent(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """The history has messages of other processes and of times without members, up to now."""
        positions = await send_numbers(peer, 1, 2, 3)
        history = await layer.history("room")
        assert numbers_in(history) == [1, 2, 3]
        assert [kept.position for kept in history.messages] == positions
        assert (history.recovered, history.position) == (True, positions[-1])

    async def test_history_since_a_position_is_what_came_after_it(
        self, layer: BaseChannelLayer
    ) -> None:
        """After the last position, the history is empty."""
        positions = await send_numbers(layer, 1, 2, 3)
        found = [await layer.history("room", position) for position in positions]
        assert [numbers_in(history) for history in found] == [[2, 3], [3], []]
        assert all(history.recovered for history in found)

    async def test_history_is_bounded(self, layer: BaseChannelLayer) -> None:
        """The newest messages are kept; a position right before the oldest of them is recovered."""
        positions = await send_numbers(layer, *range(10))
        assert numbers_in(await layer.history("room")) == [5, 6, 7, 8, 9]
        reaches = await layer.history("room", positions[4])
        assert (numbers_in(reaches), reaches.recovered) == ([5, 6, 7, 8, 9], True)
        assert not (await layer.history("room", positions[3])).recovered

    async def test_limit_takes_the_newest_or_what_comes_next(self, layer: BaseChannelLayer) -> None:
        """Without a position, the newest come; with one, the oldest and where to continue."""
        first, *_ = await send_numbers(layer, 1, 2, 3, 4)
        assert numbers_in(await layer.history("room", limit=2)) == [3, 4]
        part = await layer.history("room", first, limit=2)
        assert numbers_in(part) == [2, 3]
        rest = await layer.history("room", part.position, limit=2)
        assert (numbers_in(rest), rest.recovered) == ([4], True)
        with pytest.raises(ValueError, match="at least 1"):
            await layer.history("room", limit=0)

    async def test_history_is_forgotten_after_a_while_and_positions_are_not(
        self, make_layer: MakeLayer
    ) -> None:
        """
        A client that had everything is told so; another client is told that messages are lost.
        """
        layer = await make_layer(history_size=SIZE, history_ttl=0.2)
        first, last = await send_numbers(layer, 1, 2)
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (await layer.history("room")).messages:
                await asyncio.sleep(0.02)
        assert (await layer.history("room", last)).recovered
        assert not (await layer.history("room", first)).recovered
        (after,) = await send_numbers(layer, 3)
        assert (after.epoch, after.offset) == (last.epoch, 3)

    async def test_position_of_no_use_is_not_recovered_from(self, layer: BaseChannelLayer) -> None:
        """Such a position is of another group, of a lost log, invented, or in the future."""
        first, last = await send_numbers(layer, 1, 2)
        other = await layer.group_send("other", numbered(1))
        useless = [
            other,
            Position(new_epoch(), 1, first.tag),
            first._replace(tag=first.tag ^ 1),
            last._replace(tag=last.tag ^ 1),
            last._replace(offset=3),
            last._replace(offset=10**15),
            Position(last.epoch, 0, 7),
        ]
        for position in useless:
            history = await layer.history("room", position)
            assert (position, history.recovered) == (position, False)
            assert history.position == last

    async def test_flush_begins_a_new_epoch(self, layer: BaseChannelLayer) -> None:
        """Earlier messages are lost, and no new message is taken for an old one."""
        (before,) = await send_numbers(layer, 1)
        await layer.flush()
        (after,) = await send_numbers(layer, 2)
        assert (after.offset, after.epoch == before.epoch) == (1, False)
        assert not (await layer.history("room", before)).recovered

    # -- joining ------------------------------------------------------------

    async def test_joining_without_a_position_replays_nothing(
        self, layer: BaseChannelLayer
    ) -> None:
        """The result has the present position, and later messages are received."""
        *_, last = await send_numbers(layer, 1, 2)
        inbox = await layer.open_channel()
        joined = await layer.join("room", inbox.name)
        assert (joined.messages, joined.recovered, joined.position) == ([], True, last)
        await send_numbers(layer, 3)
        assert await numbers_from(inbox, 1) == [3]

    async def test_joining_since_a_position_returns_what_was_missed(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Later messages are received afterwards."""
        first, *_, last = await send_numbers(peer, 1, 2, 3)
        inbox = await layer.open_channel()
        joined = await layer.join("room", inbox.name, since=first)
        assert (numbers_in(joined), joined.recovered) == ([2, 3], True)
        assert joined.position == last
        await send_numbers(peer, 4)
        assert await numbers_from(inbox, 1) == [4]
        assert await is_silent(layer, inbox.name)

    async def test_group_without_messages_is_recovered(self, layer: BaseChannelLayer) -> None:
        """A position before the first message is valid."""
        inbox, again = await layer.open_channel(), await layer.open_channel()
        position = (await layer.join("room", inbox.name)).position
        joined = await layer.join("room", again.name, since=position)
        assert (joined.messages, joined.recovered, joined.position) == ([], True, position)
        await send_numbers(layer, 1)
        late = await layer.open_channel()
        missed = await layer.join("room", late.name, since=position)
        # The message may still be in transit to this process, and then it arrives live.
        assert (numbers_in(missed) or await numbers_from(late, 1)) == [1]
        assert await is_silent(layer, late.name)

    async def test_joining_with_a_useless_position_joins(self, layer: BaseChannelLayer) -> None:
        """No messages are returned, because a client with `recovered: False` starts again."""
        *_, last = await send_numbers(layer, *range(8))
        for useless in (Position(new_epoch(), 1, 1), last._replace(offset=99)):
            inbox = await layer.open_channel()
            joined = await layer.join("room", inbox.name, since=useless)
            assert (joined.messages, joined.recovered, joined.position) == ([], False, last)
            (last,) = await send_numbers(layer, 9)
            assert await numbers_from(inbox, 1) == [9]

    async def test_position_that_this_process_has_not_reached_is_not_doubled(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A client that comes from a process that is ahead receives nothing twice."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        for n in range(20):
            (position,) = await send_numbers(peer, n)
            late = await layer.open_channel()
            joined = await layer.join("room", late.name, since=position)
            assert (numbers_in(joined), joined.recovered) == ([], True)
            (following,) = await send_numbers(peer, 100 + n)
            assert await numbers_from(late, 1) == [100 + n]
            assert following.offset == position.offset + 1
            await layer.close_channel(late.name)

    async def test_nothing_is_missing_and_nothing_doubled_between_replay_and_live(
        self, make_layer: MakeLayer
    ) -> None:
        """Other processes send at full speed meanwhile."""
        layer = await make_layer(history_size=1000, capacity=1000)
        peer = await make_layer(history_size=1000, capacity=1000)
        (first,) = await send_numbers(peer, 0)
        joined: list[tuple[Mailbox, list[int]]] = []

        async def send_all() -> None:
            await send_numbers(peer, *range(1, 150))
            # Some channels join before the others, even if joining is slow.
            await becomes(lambda: len(joined) > 1)
            await send_numbers(peer, *range(150, 300))

        sending = asyncio.create_task(send_all())
        while not sending.done() and len(joined) < 30:
            inbox = await layer.open_channel()
            missed = await layer.join("room", inbox.name, since=first)
            assert missed.recovered
            joined.append((inbox, numbers_in(missed)))
            await asyncio.sleep(0)
        await sending
        for inbox, missed_numbers in joined:
            await becomes(lambda i=inbox, m=missed_numbers: len(i) + len(m) == 299)  # type: ignore[misc]  # mypy knows no defaults of lambdas
            live = await numbers_from(inbox, len(inbox))
            assert missed_numbers + live == list(range(1, 300))

    async def test_members_on_every_process_see_one_order(self, make_layer: MakeLayer) -> None:
        """The order is the same even if processes send at the same time."""
        layers = [await make_layer(history_size=SIZE, capacity=1000) for _ in range(2)]
        inboxes = [await layer.open_channel() for layer in layers]
        for layer, inbox in zip(layers, inboxes, strict=True):
            await layer.group_add("room", inbox.name)
        await asyncio.gather(
            *(send_numbers(layer, *range(n, n + 100)) for n, layer in enumerate(layers))
        )
        seen = [await numbers_from(inbox, 200) for inbox in inboxes]
        assert seen[0] == seen[1]

    async def test_only_a_channel_of_this_process_can_join_with_history(
        self, layer: BaseChannelLayer
    ) -> None:
        """Only this process can receive the missed messages for it."""
        with pytest.raises(ForeignChannel):
            await layer.join("room", "somebody-else")

    async def test_joining_that_is_cancelled_leaves_no_member(
        self, layer: BaseChannelLayer
    ) -> None:
        """The cancellation may come at any moment."""
        (first,) = await send_numbers(layer, 1)
        for turns in range(12):
            inbox = await layer.open_channel()
            joining = asyncio.create_task(layer.join(f"room-{turns}", inbox.name, since=first))
            for _ in range(turns):
                await asyncio.sleep(0)
            joining.cancel()
            done = (await asyncio.gather(joining, return_exceptions=True))[0]
            members = layer.statistics().members
            assert members == (0 if isinstance(done, asyncio.CancelledError) else 1)
            await layer.close_channel(inbox.name)

    # -- idempotent sending ---------------------------------------------------

    async def test_same_key_is_sent_once(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A repeated call returns the position of the first one."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        sent = [
            await each.group_send("room", numbered(1), idempotency_key="order-7")
            for each in (layer, peer, layer)
        ]
        assert len(set(sent)) == 1
        await layer.group_send("room", numbered(2), idempotency_key="order-8")
        await layer.group_send("other", numbered(3), idempotency_key="order-7")
        assert await numbers_from(inbox, 2) == [1, 2]
        assert await is_silent(layer, inbox.name)
        assert numbers_in(await layer.history("other")) == [3]

    async def test_key_counts_for_its_window(self, make_layer: MakeLayer) -> None:
        """After the window, the key can be used again."""
        layer = await make_layer(history_size=SIZE, idempotency_window=0.1)
        first = await layer.group_send("room", numbered(1), idempotency_key="key")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while await layer.group_send("room", numbered(2), idempotency_key="key") == first:
                await asyncio.sleep(0.02)
        assert numbers_in(await layer.history("room")) == [1, 2]

    @pytest.mark.parametrize("key", ["", "x" * 201, 7, b"bytes"])
    async def test_what_is_no_key_is_refused(self, layer: BaseChannelLayer, key: Any) -> None:
        """The error comes before anything is sent."""
        with pytest.raises(ValueError, match="idempotency_key is "):
            await layer.group_send("room", numbered(1), idempotency_key=key)
        assert (await layer.history("room")).messages == []

    # -- options --------------------------------------------------------------

    @pytest.mark.parametrize(
        ("option", "value", "remedy"),
        [
            ("history_size", 0, "at least 1"),
            ("history_size", -5, "at least 1"),
            ("history_size", "many", "at least 1"),
            ("history_ttl", 0, "seconds above zero"),
            ("history_ttl", -1.0, "seconds above zero"),
            ("idempotency_window", 0, "seconds above zero"),
        ],
    )
    async def test_option_that_makes_no_sense_is_refused(
        self, make_layer: MakeLayer, option: str, value: Any, remedy: str
    ) -> None:
        """The error comes when the layer is made; it has the option, its value and the remedy."""
        options = {"history_size": SIZE, option: value}
        with pytest.raises(InvalidChannelLayerError, match=f"{option} is {value!r}.*{remedy}"):
            await make_layer(**options)
