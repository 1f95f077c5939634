"""clients.md, server-sent-events.md and one-user-many-tabs.md in docs/recipes, in a browser."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.documents.support import block_with
from tests.recipes.support import PAGES
from tests.showcase.support import launched_browser

pytestmark = pytest.mark.browser


@pytest.fixture
async def page():
    """A tab; the test fails on errors of its scripts."""
    errors = []
    async with launched_browser() as browser:
        tab = await browser.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        yield tab
    assert errors == []


async def test_page_shows_what_was_said_while_it_was_away(serve, page):
    """The page sends a message, is cut off, and comes back with all missed messages."""
    server = await serve("clients")
    await page.goto(server.url)
    await expect(page.locator("#state")).to_have_text("open")
    await page.locator("input").fill("hello")
    await page.locator("input").press("Enter")
    await expect(page.locator("li")).to_have_text(["hello"])
    server.cut_sockets()
    message = {"type": "chat.message", "text": "<b>anybody there?</b>"}
    await server.module.channel_layers["chat"].group_send("lobby", message)
    away = "<b>anybody there?</b> (while you were away)"
    await expect(page.locator("li")).to_have_text(["hello", away])
    await expect(page.locator("#state")).to_have_text("open")


async def test_event_source_comes_back_after_a_cut_and_after_a_refusal(serve, page, monkeypatch):
    """EventSource reconnects itself or is replaced by the page, and gets missed events once."""
    server = await serve("server-sent-events")
    monkeypatch.setattr(server.module, "RETRY_MILLISECONDS", (1, 10))
    layer = server.module.channel_layers["news"]

    async def publish(text):
        await layer.group_send("news", {"type": "news.item", "text": text})

    await page.add_init_script("Math.random = () => 0")
    async with page.expect_response("**/events*"):
        await page.goto(server.url)
    await publish("one")
    await expect(page.locator("li")).to_have_text(["one"])
    server.cut()
    await publish("two")
    await expect(page.locator("li")).to_have_text(["one", "two"])
    # The answer of a draining process, or of a proxy without a server.
    refused = []

    async def refuse(route):
        refused.append(route.request.url)
        await route.fulfill(status=503)
        await page.unroute("**/events*")

    await page.route("**/events*", refuse)
    server.cut()
    await publish("three")
    await expect(page.locator("li")).to_have_text(["one", "two", "three"])
    assert refused


# Promises about a socket of the script: when it opened, and the code it closed with.
WATCH_SOCKET = """
globalThis.WebSocket = class extends WebSocket {
  constructor(url) {
    super(url);
    globalThis.joined = new Promise((tell) => this.addEventListener("open", () => tell(true)));
    globalThis.end = new Promise((tell) => this.addEventListener("close", tell));
  }
};
"""


async def test_tab_that_has_a_session_hears_of_a_note(serve, page):
    """The log-out that the page says to type into the console closes the tab."""
    server = await serve("one-user-many-tabs")
    typed = block_with(PAGES / "one-user-many-tabs.md", "document.cookie", "js")
    await page.add_init_script(WATCH_SOCKET)
    # Another page of the same server, because the scripts of /docs need the network.
    await page.goto(f"{server.url}/openapi.json")
    typed = typed.replace("localhost:8000", server.url.removeprefix("http://"))
    # The value of the last line is a function, which would be called.
    await page.evaluate(f"{typed}; null")
    assert await page.evaluate("joined")
    async with page.expect_console_message() as shown:
        await server.request("POST", "/users/ada@example.org/notes?text=hello")
    assert (await shown.value).text == '{"note":"hello"}'
    await server.request("POST", "/users/ada@example.org/log-out")
    assert await page.evaluate("end.then(({ code }) => code)") == 4401
