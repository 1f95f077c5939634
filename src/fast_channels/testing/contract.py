"""
Guarantees of every backend, as tests. Needs pytest and pytest-asyncio.

Subclass `LayerContract` and provide the fixtures `make_layer`, which makes open layers, and
`make_unopened`, which makes layers that are not open:

    class TestMyLayer(LayerContract):
        @pytest.fixture
        async def make_layer(self):
            async with contextlib.AsyncExitStack() as stack:

                async def make(**options):
                    return await stack.enter_async_context(MyLayer(**options))

                yield make

        @pytest.fixture
        def make_unopened(self):
            return MyLayer

The layers of one test must reach each other, as if each had its own process. A backend that
cannot leave its process returns the same layer for the same options.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import pytest

from fast_channels.exceptions import (
    ChannelFull,
    ForeignChannel,
    InvalidMessage,
    InvalidName,
    MessageTooLarge,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fast_channels.layers.base import BaseChannelLayer
    from fast_channels.layers.mailbox import Mailbox
    from fast_channels.type_defs import ChannelMessage

MakeLayer: TypeAlias = "Callable[..., Awaitable[BaseChannelLayer]]"

# Seconds that a message may take to arrive on a busy machine.
TIMEOUT_SECONDS = 15.0

# Seconds after which no message is expected any more.
SILENCE_SECONDS = 0.1


async def arrives(mailbox: Mailbox) -> ChannelMessage:
    """Return the next message; fail if none arrives."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await mailbox.get()


async def received(layer: BaseChannelLayer, channel: str) -> ChannelMessage:
    async with asyncio.timeout(TIMEOUT_SECONDS):
        return await layer.receive(channel)


async def is_silent(layer: BaseChannelLayer, channel: str) -> bool:
    """Return whether no message arrives for a while."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            await layer.receive(channel)
    except TimeoutError:
        return True
    return False


async def becomes(condition: Callable[[], bool]) -> None:
    """Return when a condition holds; fail if it does not become true in time."""
    async with asyncio.timeout(TIMEOUT_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


class LayerContract:
    """
    The guarantees of a layer. Some are only for backends that keep messages of shared channels.
    """

    keeps_messages: ClassVar[bool] = True
    # True if such a backend lets a process add a channel of another process to a group.
    keeps_members: ClassVar[bool] = True

    @pytest.fixture
    async def layer(self, make_layer: MakeLayer) -> BaseChannelLayer:
        return await make_layer()

    @pytest.fixture
    async def peer(self, layer: BaseChannelLayer, make_layer: MakeLayer) -> BaseChannelLayer:
        """A layer in another process, as far as the backend can tell."""
        return await make_layer()

    @pytest.fixture
    def shared(self) -> str:
        """The name of a channel that several processes share."""
        if not self.keeps_messages:
            pytest.skip("this backend keeps no messages")
        return "shared-channel"

    # -- messages -----------------------------------------------------------

    async def test_message_arrives_as_it_was_sent(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Every type that a message may contain arrives with its value."""
        inbox = await layer.open_channel()
        message = {
            "type": "test.message",
            "text": "üñïçødé 🎉\0",
            "numbers": [0, -1, 2**53, 1.5, -0.25],
            "nothing": None,
            "truth": [True, False],
            "nested": {"list": [{"deep": ["a", ["b"]]}], "empty": [{}, []]},
        }
        await peer.send(inbox.name, message)
        assert await arrives(inbox) == message

    async def test_tuple_arrives_as_list(self, layer: BaseChannelLayer) -> None:
        """A tuple is sent as the list that it is on the wire."""
        inbox = await layer.open_channel()
        await layer.send(inbox.name, {"type": "test", "pair": (1, (2,))})
        assert (await arrives(inbox))["pair"] == [1, [2]]

    async def test_sender_may_change_its_message_afterwards(self, layer: BaseChannelLayer) -> None:
        """The message arrives as it was when it was sent."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        message: dict[str, Any] = {"type": "test", "list": [1]}
        await layer.group_send("room", message)
        message["list"].append(2)
        message["more"] = True
        assert await arrives(inbox) == {"type": "test", "list": [1]}

    async def test_members_receive_a_dict_of_their_own(self, layer: BaseChannelLayer) -> None:
        """Changes that one receiver makes to its message are invisible to others."""
        first, second = await layer.open_channel(), await layer.open_channel()
        for inbox in (first, second):
            await layer.group_add("room", inbox.name)
        await layer.group_send("room", {"type": "test"})
        changed = await arrives(first)
        # The type is read-only, because nested values are shared; the dict itself is not
        # shared.
        changed["seen"] = True  # type: ignore[index]
        assert await arrives(second) == {"type": "test"}

    @pytest.mark.parametrize(
        ("message", "where"),
        [
            ("text", "message"),
            (None, "message"),
            ([("type", "test")], "message"),
            ({"type": "test", 5: "int key"}, "a key of message"),
            ({"type": "test", "in": {None: 1}}, "a key of message['in']"),
            ({"type": "test", "set": {1}}, "message['set']"),
            ({"type": "test", "list": [0, NotImplemented]}, "message['list'][1]"),
            ({"type": "test", "__asgi_channel__": "x"}, "message"),
            ({"type": "test", "surrogate": "\ud800"}, "message"),
        ],
        ids=repr,
    )
    async def test_message_that_cannot_travel_is_refused_at_the_sender(
        self, layer: BaseChannelLayer, message: Any, where: str
    ) -> None:
        """The error names the place of the value, and nothing is sent."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        with pytest.raises(InvalidMessage) as caught:
            await layer.send(inbox.name, message)
        assert caught.value.where == where
        with pytest.raises(InvalidMessage):
            await layer.group_send("room", message)
        assert await is_silent(layer, inbox.name)

    async def test_message_beyond_the_size_limit_is_refused(self, make_layer: MakeLayer) -> None:
        """A message of exactly the limit arrives; a larger one is not sent."""
        layer = await make_layer(max_message_size=1000)
        inbox = await layer.open_channel()
        await layer.send(inbox.name, {"type": "test", "text": "x" * 900})
        with pytest.raises(MessageTooLarge, match="1000"):
            await layer.send(inbox.name, {"type": "test", "text": "x" * 1000})
        assert len((await arrives(inbox))["text"]) == 900
        assert await is_silent(layer, inbox.name)

    # -- channels -----------------------------------------------------------

    async def test_names_of_channels_never_repeat(self, layer: BaseChannelLayer) -> None:
        """Each name is new, no matter how `random` was seeded."""
        found: set[str] = set()
        for _ in range(50):
            random.seed(1)
            found.add(await layer.new_channel())
        assert len(found) == 50

    async def test_prefix_stands_in_the_name_of_a_channel(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A channel with its own prefix receives like any other."""
        name = await layer.new_channel("custom")
        assert "custom." in name
        await peer.send(name, {"type": "test"})
        assert await received(layer, name) == {"type": "test"}

    async def test_message_waits_for_its_reader(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A message sent before receive() waits for it."""
        name = await layer.new_channel()
        await peer.send(name, {"type": "test", "n": 1})
        await peer.send(name, {"type": "test", "n": 2})
        assert (await received(layer, name))["n"] == 1
        assert (await received(layer, name))["n"] == 2

    async def test_message_reaches_only_its_channel(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Another channel of the same process receives nothing."""
        meant, other = await layer.new_channel(), await layer.new_channel()
        await peer.send(meant, {"type": "test"})
        assert await received(layer, meant) == {"type": "test"}
        assert await is_silent(layer, other)

    async def test_unread_channel_refuses_messages_at_capacity(self, make_layer: MakeLayer) -> None:
        """The first messages are kept, and the sender of the next one gets an error."""
        layer = await make_layer(capacity=3)
        name = await layer.new_channel()
        for n in range(3):
            await layer.send(name, {"type": "test", "n": n})
        with pytest.raises(ChannelFull) as caught:
            await layer.send(name, {"type": "test", "n": 3})
        assert caught.value.channel == name
        assert [(await received(layer, name))["n"] for _ in range(3)] == [0, 1, 2]
        await layer.send(name, {"type": "test", "n": 4})
        assert (await received(layer, name))["n"] == 4
        assert layer.statistics().refused == 1

    async def test_capacity_belongs_to_the_channel(self, make_layer: MakeLayer) -> None:
        """A full channel does not reduce the capacity of other channels."""
        layer = await make_layer(capacity=3)
        full, free = await layer.new_channel(), await layer.new_channel()
        for _ in range(3):
            await layer.send(full, {"type": "test"})
        for n in range(3):
            await layer.send(free, {"type": "test", "n": n})
        assert [(await received(layer, free))["n"] for _ in range(3)] == [0, 1, 2]

    async def test_capacity_may_depend_on_the_name(self, make_layer: MakeLayer) -> None:
        """The first pattern that matches counts."""
        layer = await make_layer(capacity=3, channel_capacity={"*custom.*": 1, "*": 2})
        custom, plain = await layer.new_channel("custom"), await layer.new_channel()
        await layer.send(custom, {"type": "test"})
        for _ in range(2):
            await layer.send(plain, {"type": "test"})
        for name in (custom, plain):
            with pytest.raises(ChannelFull):
                await layer.send(name, {"type": "test"})

    async def test_message_to_a_closed_channel_is_counted(self, layer: BaseChannelLayer) -> None:
        """Sending to a closed connection raises no error."""
        inbox = await layer.open_channel()
        await layer.close_channel(inbox.name)
        await layer.send(inbox.name, {"type": "test"})
        assert layer.statistics().channels == 0

    @pytest.mark.parametrize("name", ["", "with space", "a" * 100, "ünïcode", "a/b", "line\n", 5])
    async def test_invalid_name_is_refused(self, layer: BaseChannelLayer, name: Any) -> None:
        """The error shows the name and the allowed names."""
        inbox = await layer.open_channel()
        calls = [
            layer.send(name, {"type": "test"}),
            layer.receive(name),
            layer.group_add(name, inbox.name),
            layer.group_add("room", name),
            layer.group_discard(name, inbox.name),
            layer.group_send(name, {"type": "test"}),
        ]
        for call in calls:
            with pytest.raises(InvalidName, match="ASCII") as caught:
                await call
            assert repr(name) in str(caught.value)

    # -- groups -------------------------------------------------------------

    async def test_group_message_reaches_every_member_and_nobody_else(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Members in both processes receive the message once; other channels receive nothing."""
        here = [await layer.new_channel() for _ in range(3)]
        there = await peer.new_channel()
        outside = await layer.new_channel()
        for name in here:
            await layer.group_add("room", name)
        await peer.group_add("room", there)
        await peer.group_send("room", {"type": "test"})
        for name in here:
            assert await received(layer, name) == {"type": "test"}
            assert await is_silent(layer, name)
        assert await received(peer, there) == {"type": "test"}
        assert await is_silent(layer, outside)

    async def test_message_sent_right_after_group_add_arrives(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """group_add returns only when the group is really subscribed."""
        for n in range(100):
            inbox = await layer.open_channel()
            await layer.group_add(f"room-{n}", inbox.name)
            await peer.group_send(f"room-{n}", {"type": "test", "n": n})
            assert (await arrives(inbox))["n"] == n
            await layer.close_channel(inbox.name)

    async def test_adding_twice_delivers_once(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A channel that is added twice is one member."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        await layer.group_add("room", inbox.name)
        await peer.group_send("room", {"type": "test"})
        assert await arrives(inbox) == {"type": "test"}
        assert await is_silent(layer, inbox.name)

    async def test_message_to_a_left_group_does_not_arrive(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """The rest of the group still receives."""
        gone, stays = await layer.open_channel(), await layer.open_channel()
        for inbox in (gone, stays):
            await layer.group_add("room", inbox.name)
        await layer.group_discard("room", gone.name)
        await peer.group_send("room", {"type": "test"})
        assert await arrives(stays) == {"type": "test"}
        assert await is_silent(layer, gone.name)

    async def test_leaving_a_group_never_joined_is_fine(self, layer: BaseChannelLayer) -> None:
        """Leaving twice is fine too."""
        inbox = await layer.open_channel()
        await layer.group_discard("room", inbox.name)
        await layer.group_add("room", inbox.name)
        await layer.group_discard("room", inbox.name)
        await layer.group_discard("room", inbox.name)
        assert layer.statistics().groups == 0

    async def test_group_without_members_swallows_messages(self, layer: BaseChannelLayer) -> None:
        """Sending to an empty group raises no error."""
        await layer.group_send("nobody", {"type": "test"})
        assert layer.statistics().published == 1

    async def test_closing_a_channel_leaves_its_groups(self, layer: BaseChannelLayer) -> None:
        """Nothing of a closed channel remains; closing twice is fine."""
        # A subscription that a backend makes once for all channels of a process may stay.
        await layer.close_channel((await layer.open_channel()).name)
        before = layer.statistics()
        inbox = await layer.open_channel()
        for n in range(10):
            await layer.group_add(f"room-{n}", inbox.name)
        await layer.close_channel(inbox.name)
        await layer.close_channel(inbox.name)
        after = layer.statistics()
        assert (after.channels, after.groups, after.members) == (0, 0, 0)
        assert after.subscriptions == before.subscriptions

    async def test_full_mailbox_does_not_delay_its_neighbour(self, make_layer: MakeLayer) -> None:
        """A reader that does not read loses only its own messages."""
        layer = await make_layer(capacity=10)
        peer = await make_layer(capacity=10)
        slow, quick = await layer.open_channel(), await layer.open_channel()
        for inbox in (slow, quick):
            await layer.group_add("room", inbox.name)
        seen: list[int] = []
        for n in range(30):
            await peer.group_send("room", {"type": "test", "n": n})
            seen.append((await arrives(quick))["n"])
        assert seen == list(range(30))
        assert quick.dropped == 0
        # The oldest messages are dropped, and their number is told in their place.
        assert await arrives(slow) == {"type": "layer.overflow", "dropped": 20}
        assert [(await arrives(slow))["n"] for _ in range(10)] == list(range(20, 30))
        assert layer.statistics().dropped == 20

    async def test_group_never_raises_channel_full(self, make_layer: MakeLayer) -> None:
        """An unread channel keeps its first messages; the other members receive all."""
        layer = await make_layer(capacity=3)
        name = await layer.new_channel()
        await layer.group_add("room", name)
        for n in range(5):
            await layer.group_send("room", {"type": "test", "n": n})
        await becomes(lambda: layer.statistics().dropped == 2)
        assert [(await received(layer, name))["n"] for _ in range(3)] == [0, 1, 2]
        assert await is_silent(layer, name)

    async def test_reader_that_keeps_up_loses_nothing_in_a_burst(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Far more messages than fit arrive, if the reader takes them in each of its turns."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        each = layer.capacity // 2

        async def burst(sender: int) -> None:
            for n in range(each):
                await peer.group_send("room", {"type": "test", "sender": sender, "n": n})

        sending = asyncio.gather(*map(burst, range(10)))
        messages = [await arrives(inbox) for _ in range(10 * each)]
        await sending
        assert inbox.dropped == 0
        for sender in range(10):
            assert [m["n"] for m in messages if m["sender"] == sender] == list(range(each))

    # -- order --------------------------------------------------------------

    async def test_messages_of_one_sender_arrive_in_order(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Messages arrive in order at every member of a group, and at a channel."""
        members = [await layer.open_channel() for _ in range(3)]
        for inbox in members:
            await layer.group_add("room", inbox.name)
        alone = await layer.open_channel()
        for n in range(80):
            await peer.group_send("room", {"type": "test", "n": n})
            await peer.send(alone.name, {"type": "test", "n": n})
        for inbox in (*members, alone):
            assert [(await arrives(inbox))["n"] for _ in range(80)] == list(range(80))

    # -- cancellation -------------------------------------------------------

    async def test_cancelled_receive_loses_nothing(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """A reader with short timeouts gets every message, once and in order."""
        name = await layer.new_channel()
        assert await self._under_timeouts(layer, peer, name) == list(range(80))

    async def test_cancelled_receive_from_a_shared_channel_loses_nothing(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer, shared: str
    ) -> None:
        """The next receiver gets the message of a cancelled one."""
        assert sorted(await self._under_timeouts(layer, peer, shared)) == list(range(80))

    async def _under_timeouts(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer, name: str
    ) -> list[int]:
        async def send_all() -> None:
            for n in range(80):
                await peer.send(name, {"type": "test", "n": n})

        chance = random.Random(7)  # noqa: S311 - a test with the same numbers every time
        sending = asyncio.create_task(send_all())
        seen: list[int] = []
        async with asyncio.timeout(2 * TIMEOUT_SECONDS):
            while len(seen) < 80:
                try:
                    async with asyncio.timeout(chance.uniform(0, 0.006)):
                        seen.append((await layer.receive(name))["n"])
                except TimeoutError:
                    pass
        await sending
        assert await is_silent(layer, name)
        return seen

    async def test_join_cancelled_at_any_step_leaves_nothing(self, layer: BaseChannelLayer) -> None:
        """The hub, and with it the broker, returns to its earlier state."""
        inbox = await layer.open_channel()
        before = layer.statistics()
        for steps in range(15):
            joining = asyncio.create_task(layer.group_add(f"room-{steps}", inbox.name))
            for _ in range(steps):
                await asyncio.sleep(0)
            joining.cancel()
            try:
                await joining
            except asyncio.CancelledError:
                pass
            else:
                await layer.group_discard(f"room-{steps}", inbox.name)
        await becomes(lambda: layer.statistics() == before)

    async def test_concurrent_joins_and_leaves_end_in_the_last_state(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """Channels that joined last receive; channels that left last do not."""
        inboxes = [await layer.open_channel() for _ in range(10)]

        async def churn(inbox: Mailbox, stays: bool) -> None:
            for _ in range(10):
                await layer.group_add("room", inbox.name)
                await layer.group_discard("room", inbox.name)
            if stays:
                await layer.group_add("room", inbox.name)

        await asyncio.gather(*(churn(inbox, n % 2 == 0) for n, inbox in enumerate(inboxes)))
        await peer.group_send("room", {"type": "test"})
        for inbox in inboxes[::2]:
            assert await arrives(inbox) == {"type": "test"}
        assert [len(inbox) for inbox in inboxes[1::2]] == [0] * 5

    # -- several messages at once -------------------------------------------

    async def test_messages_sent_together_arrive_in_order(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """The order holds for channels and groups, in this process and from another one."""
        mailbox = await layer.open_channel()
        await layer.group_add("room", mailbox.name)
        for sender in (layer, peer):
            await sender.send_many(mailbox.name, ({"type": "test", "n": n} for n in range(40)))
            assert [(await arrives(mailbox))["n"] for _ in range(40)] == list(range(40))
            await sender.group_send_many("room", [{"type": "test", "n": n} for n in range(40)])
            assert [(await arrives(mailbox))["n"] for _ in range(40)] == list(range(40))
        assert sum(each.statistics().published for each in {layer, peer}) == 160

    async def test_nothing_is_sent_if_one_of_several_messages_cannot_travel(
        self, layer: BaseChannelLayer
    ) -> None:
        """All messages are checked before the first is sent; an empty list is fine."""
        mailbox = await layer.open_channel()
        await layer.group_add("room", mailbox.name)
        messages: list[Any] = [{"type": "test"}, {"type": "test", 5: 5}]
        with pytest.raises(InvalidMessage):
            await layer.send_many(mailbox.name, messages)
        with pytest.raises(InvalidMessage):
            await layer.group_send_many("room", messages)
        await layer.send_many(mailbox.name, [])
        await layer.group_send_many("room", [])
        await layer.send(mailbox.name, {"type": "test", "n": 1})
        assert await arrives(mailbox) == {"type": "test", "n": 1}
        assert layer.statistics().published == 1

    async def test_several_messages_to_a_consumer_that_keeps_up_lose_nothing(
        self, make_layer: MakeLayer
    ) -> None:
        """The number of messages and the capacity of the mailbox make no difference."""
        layer = await make_layer(capacity=10)
        mailbox = await layer.open_channel()
        await layer.group_add("room", mailbox.name)
        messages = [{"type": "test", "n": n} for n in range(500)]

        async def read() -> list[Any]:
            return [(await arrives(mailbox))["n"] for _ in range(1000)]

        reading = asyncio.create_task(read())
        await layer.send_many(mailbox.name, messages)
        await layer.group_send_many("room", messages)
        assert await reading == [*range(500), *range(500)]

    async def test_shared_channel_takes_the_first_of_several_messages(
        self, make_layer: MakeLayer, shared: str
    ) -> None:
        """The error has the number of accepted messages; no message after them is sent."""
        layer = await make_layer(capacity=3)
        await layer.send(shared, {"type": "test", "n": 0})
        with pytest.raises(ChannelFull) as caught:
            await layer.send_many(shared, [{"type": "test", "n": n} for n in range(1, 6)])
        assert caught.value.accepted == 2
        statistics = layer.statistics()
        assert (statistics.published, statistics.refused) == (3, 3)
        assert [(await received(layer, shared))["n"] for _ in range(3)] == [0, 1, 2]
        assert await is_silent(layer, shared)

    async def test_unread_channel_takes_the_first_of_several_messages(
        self, make_layer: MakeLayer
    ) -> None:
        """The error is the same as for a shared channel."""
        layer = await make_layer(capacity=3)
        channel = await layer.new_channel()
        with pytest.raises(ChannelFull) as caught:
            await layer.send_many(channel, [{"type": "test", "n": n} for n in range(5)])
        assert caught.value.accepted == 3
        assert [(await received(layer, channel))["n"] for _ in range(3)] == [0, 1, 2]

    # -- shared channels ----------------------------------------------------

    async def test_shared_channel_keeps_messages_until_somebody_receives(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer, shared: str
    ) -> None:
        """Each message goes to one receiver, in order."""
        for n in range(3):
            await peer.send(shared, {"type": "test", "n": n})
        assert [(await received(layer, shared))["n"] for _ in range(3)] == [0, 1, 2]
        assert await is_silent(layer, shared)

    async def test_shared_channel_serves_receivers_that_wait(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer, shared: str
    ) -> None:
        """Several waiting receivers share the messages."""
        receivers = [asyncio.create_task(received(layer, shared)) for _ in range(4)]
        for n in range(4):
            await peer.send(shared, {"type": "test", "n": n})
        assert sorted([(await r)["n"] for r in receivers]) == [0, 1, 2, 3]

    async def test_shared_channel_refuses_messages_at_capacity(
        self, make_layer: MakeLayer, shared: str
    ) -> None:
        """The first messages are kept and later senders get an error, except senders to groups."""
        layer = await make_layer(capacity=3)
        await layer.group_add("room", shared)
        for n in range(3):
            await layer.send(shared, {"type": "test", "n": n})
        with pytest.raises(ChannelFull):
            await layer.send(shared, {"type": "test", "n": 3})
        await layer.group_send("room", {"type": "test", "n": 4})
        assert layer.statistics().refused == 2
        assert [(await received(layer, shared))["n"] for _ in range(3)] == [0, 1, 2]

    async def test_message_expires_in_a_shared_channel(
        self, make_layer: MakeLayer, shared: str
    ) -> None:
        """
        A message that is not received within `expiry` seconds is removed and takes no capacity.
        """
        layer = await make_layer(expiry=1, capacity=1)
        await layer.send(shared, {"type": "test", "n": 0})

        async def has_room() -> bool:
            try:
                await layer.send(shared, {"type": "test", "n": 1})
            except ChannelFull:
                return False
            return True

        async with asyncio.timeout(TIMEOUT_SECONDS):
            while not await has_room():
                await asyncio.sleep(0.05)
        # The messages that fit now may expire, too, before they are received.
        receiving = asyncio.create_task(received(layer, shared))
        while not receiving.done():
            await has_room()
            await asyncio.sleep(0.05)
        assert (await receiving)["n"] == 1

    async def test_expired_message_is_not_received(
        self, make_layer: MakeLayer, shared: str
    ) -> None:
        """The message expires even if nothing was sent since."""
        layer = await make_layer(expiry=1)
        await layer.send(shared, {"type": "test"})
        # Only time makes it expire.
        await asyncio.sleep(1.05)
        assert await is_silent(layer, shared)

    async def test_shared_channel_may_be_in_a_group(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer, shared: str
    ) -> None:
        """The channel receives the group's messages until it is removed."""
        await peer.group_add("room", shared)
        await layer.group_send("room", {"type": "test"})
        assert await received(peer, shared) == {"type": "test"}
        await layer.group_discard("room", shared)
        await layer.group_send("room", {"type": "test"})
        assert await is_silent(layer, shared)

    async def test_another_process_may_add_a_channel_to_a_group(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """The channel receives each message once, even if it has joined by itself, too."""
        if not (self.keeps_messages and self.keeps_members):
            pytest.skip("this backend keeps no memberships of channels")
        inbox = await layer.open_channel()
        await peer.group_add("room", inbox.name)
        await peer.group_send("room", {"type": "test", "n": 1})
        assert (await arrives(inbox))["n"] == 1
        await layer.group_add("room", inbox.name)
        await peer.group_send("room", {"type": "test", "n": 2})
        assert (await arrives(inbox))["n"] == 2
        await layer.group_discard("room", inbox.name)
        await peer.group_send("room", {"type": "test", "n": 3})
        assert await is_silent(layer, inbox.name)

    async def test_closed_channel_cannot_join_a_group(self, layer: BaseChannelLayer) -> None:
        """The error names the channel's owner."""
        inbox = await layer.open_channel()
        await layer.close_channel(inbox.name)
        with pytest.raises(ForeignChannel):
            await layer.group_add("room", inbox.name)

    # -- lifetime -----------------------------------------------------------

    async def test_layer_opens_again_after_closing(self, layer: BaseChannelLayer) -> None:
        """Closing twice is fine, and a closed layer opens again when it is used."""
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        await layer.close()
        await layer.close()
        assert layer.statistics().channels == 0
        again = await layer.open_channel()
        await layer.group_add("room", again.name)
        await layer.group_send("room", {"type": "test"})
        assert await arrives(again) == {"type": "test"}

    async def test_flush_leaves_the_layer_as_if_new(
        self, layer: BaseChannelLayer, peer: BaseChannelLayer
    ) -> None:
        """No channel, group or message is left."""
        name = await layer.new_channel()
        await layer.group_add("room", name)
        await layer.flush()
        await peer.group_send("room", {"type": "test"})
        assert layer.statistics().channels == 0
        assert layer.statistics().groups == 0
        inbox = await layer.open_channel()
        await layer.group_add("room", inbox.name)
        await peer.group_send("room", {"type": "test"})
        assert await arrives(inbox) == {"type": "test"}

    async def test_flush_forgets_messages_in_shared_channels(
        self, layer: BaseChannelLayer, shared: str
    ) -> None:
        """A shared channel is empty afterwards."""
        await layer.send(shared, {"type": "test"})
        await layer.flush()
        assert await is_silent(layer, shared)

    async def test_another_loop_may_send_and_join(self, layer: BaseChannelLayer) -> None:
        """Calls from other loops run on the layer's own loop."""
        inbox = await layer.open_channel()

        async def elsewhere() -> None:
            await layer.group_add("room", inbox.name)
            await layer.group_send("room", {"type": "test", "n": 1})
            await layer.send(inbox.name, {"type": "test", "n": 2})

        await asyncio.to_thread(asyncio.run, elsewhere())
        assert {(await arrives(inbox))["n"] for _ in range(2)} == {1, 2}

    async def test_channel_made_on_another_loop_receives(self, layer: BaseChannelLayer) -> None:
        """A channel belongs to the layer, no matter which loop asked for it."""
        name = await asyncio.to_thread(asyncio.run, layer.new_channel())
        await layer.group_add("room", name)
        receiving = asyncio.create_task(received(layer, name))
        await asyncio.sleep(0)
        await layer.group_send("room", {"type": "test"})
        assert await receiving == {"type": "test"}

    async def test_block_within_a_block_does_not_close_the_layer(
        self, layer: BaseChannelLayer
    ) -> None:
        """Only the outermost block closes the layer."""
        inbox = await layer.open_channel()
        async with layer:
            await layer.group_add("room", inbox.name)
        await layer.group_send("room", {"type": "test"})
        assert await arrives(inbox) == {"type": "test"}

    async def test_another_loop_may_receive(self, layer: BaseChannelLayer) -> None:
        """A channel opened on another loop is read on that loop."""

        async def elsewhere() -> ChannelMessage:
            inbox = await layer.open_channel()
            await layer.group_add("room", inbox.name)
            await layer.group_send("room", {"type": "test"})
            return await arrives(inbox)

        assert await asyncio.to_thread(asyncio.run, elsewhere()) == {"type": "test"}

    def test_each_loop_may_have_its_turn(
        self, make_unopened: Callable[[], BaseChannelLayer]
    ) -> None:
        """A layer opens again on the next loop after its loop has ended."""
        layer = make_unopened()

        async def use() -> ChannelMessage:
            inbox = await layer.open_channel()
            await layer.group_add("room", inbox.name)
            await layer.group_send("room", {"type": "test"})
            return await arrives(inbox)

        for _ in range(5):
            assert asyncio.run(use()) == {"type": "test"}

    # -- statistics ---------------------------------------------------------

    async def test_statistics_count_what_happened(self, layer: BaseChannelLayer) -> None:
        """One broadcast to three members is published once and delivered three times."""
        inboxes = [await layer.open_channel() for _ in range(3)]
        for inbox in inboxes:
            await layer.group_add("room", inbox.name)
        await layer.group_send("room", {"type": "test"})
        await becomes(lambda: layer.statistics().delivered == 3)
        counted = layer.statistics()
        assert (counted.published, counted.channels, counted.waiting) == (1, 3, 3)
        assert (counted.groups, counted.members, counted.dropped) == (1, 3, 0)
