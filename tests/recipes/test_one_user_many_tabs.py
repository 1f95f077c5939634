"""docs/recipes/one-user-many-tabs.md."""

from __future__ import annotations

import pytest
from websockets.exceptions import InvalidStatus

ADA = {"Cookie": "session=3f1c"}
BOB = {"Cookie": "session=77ab"}


@pytest.fixture
async def server(serve):
    return await serve("one-user-many-tabs")


@pytest.fixture
def tab(server):
    """Open a tab; by default on a page of this site."""

    def open_tab(headers, origin="http://localhost:8000"):
        return server.socket("/ws/notes", additional_headers=headers, origin=origin)

    return open_tab


async def test_every_tab_of_a_user_gets_a_note_and_nobody_else_does(server, tab):
    """The next note that the other user gets is their own."""
    async with tab(ADA) as first, tab(ADA) as second, tab(BOB) as other:
        await server.request("POST", "/users/ada@example.org/notes", params={"text": "for ada"})
        await server.request("POST", "/users/bob@example.org/notes", params={"text": "for bob"})
        assert await first.next() == await second.next() == {"note": "for ada"}
        assert await other.next() == {"note": "for bob"}


async def test_log_out_closes_every_tab_of_a_user(server, tab):
    """The code is 4401; later tabs are refused with it, and other users stay."""
    async with tab(ADA) as first, tab(ADA) as second, tab(BOB) as other:
        await server.request("POST", "/users/ada@example.org/log-out")
        assert await first.closed() == await second.closed() == (4401, "logged out")
        async with tab(ADA) as late:
            assert await late.closed() == (4401, "log in first")
        await server.request("POST", "/users/bob@example.org/notes", params={"text": "still here"})
        assert await other.next() == {"note": "still here"}


async def test_tab_that_joins_during_a_log_out_is_closed(server, tab, monkeypatch):
    """The tab was not in the group yet when the log-out was announced."""
    consumer = server.module.NoteConsumer
    join_group = consumer.join_group

    async def late(self, group):
        await server.module.log_out_everywhere("ada@example.org")
        await join_group(self, group)

    monkeypatch.setattr(consumer, "join_group", late)
    async with tab(ADA) as socket:
        assert await socket.closed() == (4401, "log in first")


async def test_unknown_session_is_closed_with_a_code_that_the_page_sees(tab):
    """Unknown and missing sessions are closed."""
    for headers in ({"Cookie": "session=guessed"}, {}):
        async with tab(headers) as socket:
            assert await socket.closed() == (4401, "log in first")


@pytest.mark.parametrize("origin", ["https://evil.example", None])
async def test_page_of_another_site_is_rejected(tab, origin):
    """The page is rejected although the browser sends the cookie."""
    with pytest.raises(InvalidStatus, match="403"):
        async with tab(ADA, origin):
            pass
