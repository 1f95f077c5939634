"""A real browser shows the page after parts 1 to 3; the tests take the pictures of the pages."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.tutorial.support import PICTURES_WANTED, take_picture

# The first test starts a broker, workers, servers and a browser.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(150),
]


async def say(page, field: str, text: str) -> None:
    """Type into a form of the page and press Enter."""
    await page.locator(f"#{field}").fill(text)
    await page.locator(f"#{field}").press("Enter")


@pytest.mark.skipif(not PICTURES_WANTED, reason="makes a picture: SHOWCASE_SCREENSHOT is not set")
async def test_panels_are_empty_after_part_1(stage, open_page):
    """The page exists, and none of its panels works."""
    page = await open_page(stage(1).url)
    await page.set_viewport_size({"width": 660, "height": 520})
    await expect(page.locator("#system-log")).to_have_text("")
    await take_picture("part-1.png", page)


async def test_system_messages_answer_after_part_2(stage, open_page):
    """The panel is connected and shows typed lines and answers; no other panel is connected."""
    page = await open_page(stage(2).url)
    await expect(page.locator("#system-status")).to_have_text("connected")
    await say(page, "system-text", "Is anybody there?")
    await expect(page.locator("#system-log .entry")).to_contain_text(
        ["welcome: an echo, no layer involved", "Is anybody there?", "echo: Is anybody there?"]
    )
    await expect(page.locator("#chat-status")).to_have_text("disconnected")
    await expect(page.locator("#chats-send")).to_be_disabled()
    await take_picture("part-2.png", page.locator("#system"))


async def test_room_is_shared_by_two_processes_after_part_3(stage, open_page):
    """A line typed in a tab of one port appears in a tab of the other."""
    running = stage(3)
    page, other = await open_page(running.url), await open_page(running.second_server.url)
    for tab in (page, other):
        await tab.locator("#room-toggle").press("Enter")
        # A message to the group shows that the tab is a member.
        await expect(tab.locator("#room-log")).to_contain_text(" joined ")
    await say(page, "room-text", "Hello from port 8080")
    await say(other, "room-text", "Hello from port 8081")
    for tab in (page, other):
        await expect(tab.locator("#room-log")).to_contain_text("Hello from port 8080")
        await expect(tab.locator("#room-log")).to_contain_text("Hello from port 8081")
    await take_picture("part-3.png", page.locator("#room"))
