"""A real browser shows 4-background-jobs.md and 5-showcase.md; the tests take their pictures."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.showcase.support import run_module
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


@pytest.mark.skipif(not PICTURES_WANTED, reason="part 5 has a look at the page; this is a picture")
async def test_job_is_finished_after_part_4(stage, open_page):
    """The bar is full, and the result is shown."""
    page = await open_page(stage(4).url)
    await expect(page.locator("#jobs-status")).to_have_text("connected")
    await page.locator("#jobs-type").select_option("translate")
    await say(page, "jobs-content", "every message arrives in order")
    job = page.locator(".job").first
    await expect(job).to_have_attribute("data-state", "finished")
    await expect(job.locator(".outcome")).to_have_text(
        "everyway essagemay arrivesway inway orderway"
    )
    await take_picture("part-4.png", page.locator("#jobs"))


async def test_dropped_connection_is_made_up_for_after_part_5(stage, open_page):
    """Three lines are written meanwhile, and one chat has them, as the page says."""
    page, other = await open_page(stage(5).url), await open_page(stage(5).url)
    for tab in (page, other):
        for chat in ("chat", "reliable"):
            await expect(tab.locator(f"#{chat}-status")).to_have_text("connected")
    await say(page, "chats-text", "Is everybody here?")
    await expect(page.locator("#reliable-log")).to_contain_text("Is everybody here?")
    await page.locator("#chats-drop").press("Enter")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    for text in ("No.", "One is missing.", "Let us wait."):
        await say(other, "chats-text", text)
        await expect(other.locator("#reliable-log")).to_contain_text(text)
    await page.locator("#chats-drop").press("Enter")
    await expect(page.locator("#reliable-log .mark")).to_have_count(3)
    await expect(page.locator("#chat-log")).to_contain_text("missing here")
    await expect(page.locator("#chat-log")).not_to_contain_text("Let us wait.")
    await take_picture("part-5-chats.png", page.locator("#chats"))


@pytest.mark.skipif(not PICTURES_WANTED, reason="the chart is looked at in tests/showcase")
async def test_chart_moves_after_part_5(stage, open_page):
    """The script of the page runs to its end."""
    running = stage(5)
    page = await open_page(running.url)
    await expect(page.locator("#analytics-status")).to_have_text("connected")
    done = run_module(
        *("sandbox.external_sender", "--count", "0", "--rounds", "6"),
        redis_url=running.redis_url,
        folder=running.folder,
    )
    assert done.returncode == 0, done.stderr
    await expect(page.locator("#rate-total")).not_to_have_text("0")
    await take_picture("part-5-analytics.png", page.locator("#analytics"))
