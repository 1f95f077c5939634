"""The pages of clients.md and server-sent-events.md in docs/recipes, in a real browser."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.showcase.support import launched_browser

pytestmark = pytest.mark.browser


@pytest.fixture
async def page():
    """A tab; the test fails for errors of its scripts."""
    errors = []
    async with launched_browser() as browser:
        tab = await browser.new_page()
        tab.on("pageerror", lambda error: errors.append(str(error)))
        yield tab
    assert errors == []


async def test_page_shows_what_was_said_while_it_was_away(serve, page):
    """It says something itself, is cut off, and is back with all that it has missed."""
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
    """By itself, or made anew by the page; either way with what it has missed, once."""
    server = await serve("server-sent-events")
    monkeypatch.setattr(server.module, "RETRY", (1, 10))
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
    # What a process that drains answers, or a proxy without a server.
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
