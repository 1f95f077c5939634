"""Channels and groups map to topics in two ways."""

from __future__ import annotations

import pytest

from fast_channels.exceptions import InvalidName
from fast_channels.layers import names
from fast_channels.layers.addressing import InboxAddressing, TopicAddressing

ADDRESSINGS = {
    "inbox": InboxAddressing(),
    "inbox as a topic": InboxAddressing(inboxes_are_topics=True),
    "topic": TopicAddressing(),
    "topic with a prefix": TopicAddressing("my app:", "my app:__group__"),
}


@pytest.fixture(params=ADDRESSINGS)
def addressing(request):
    return ADDRESSINGS[request.param]


@pytest.fixture
def process():
    return names.unique()


def test_new_channel_is_a_name_that_its_process_may_open(addressing, process):
    """Two calls never return one name."""
    first, second = (addressing.new_channel("specific.", process) for _ in range(2))
    assert first != second
    for channel in (first, second):
        addressing.check_channel(channel)
        assert addressing.may_open(channel, process)
        assert not addressing.is_kept(channel)


def test_topic_of_a_group_leads_back_to_the_group(addressing):
    """All members of a group share one string."""
    topic = addressing.group_topic("room")
    assert addressing.group_of(topic) == "room"
    assert addressing.group_topic("room") is topic


def test_topic_of_a_channel_is_no_group(addressing, process):
    """A layer tells gaps of groups from gaps of channels by it."""
    channel = addressing.new_channel("specific.", process)
    topic = addressing.channel_topic(channel)
    assert topic is None or addressing.group_of(topic) is None


@pytest.mark.parametrize("channel", [7, "two words", ""])
def test_invalid_channel_is_refused(addressing, channel):
    """The rules for names are the same for all layers."""
    with pytest.raises(InvalidName):
        addressing.check_channel(channel)


def test_channels_of_a_process_share_an_inbox(process):
    """The payloads of an inbox carry the names of their channels."""
    addressing = InboxAddressing(inboxes_are_topics=True)
    topics = {addressing.channel_topic(addressing.new_channel("a", process)) for _ in range(3)}
    (inbox,) = topics
    assert addressing.is_inbox(inbox)
    assert not addressing.is_inbox(addressing.group_topic("room"))
    assert InboxAddressing().channel_topic("a.b!c") is None


def test_only_its_own_process_may_open_an_inbox_channel(process):
    """Any process may open a channel that is a topic."""
    channel = InboxAddressing().new_channel("specific.", process)
    assert not InboxAddressing().may_open(channel, names.unique())
    assert TopicAddressing().may_open(channel, names.unique())


def test_shared_channel_is_kept_by_a_queue_only():
    """A broker within one process keeps messages for every name."""
    assert InboxAddressing().is_kept("jobs")
    assert not InboxAddressing().is_kept("specific.a!b")
    assert InboxAddressing(keeps_every_name=True).is_kept("specific.a!b")
    assert not TopicAddressing().is_kept("jobs")


def test_channel_is_a_topic_of_its_own():
    """The prefix is not part of the name, and may have any characters."""
    addressing = TopicAddressing("my app:", "my app:__group__")
    assert addressing.channel_topic("my app:jobs") == "my app:jobs"
    addressing.check_channel("my app:jobs")
    assert addressing.new_channel("specific", "unused").startswith("my app:specific.")
    assert not addressing.is_inbox("my app:jobs")
