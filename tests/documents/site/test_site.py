"""The site that `make docs` builds: whole, without the network, readable and searchable."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import pytest_asyncio
from playwright.async_api import expect

from tests.showcase.support import launched_browser

PHONE = {"width": 390, "height": 844}


def test_site_is_built_without_a_warning(site):
    """No reference leads nowhere, no page is left out, no code cannot be highlighted."""
    assert site.complaints == ""


class Loaded(HTMLParser):
    """What a browser loads with a page."""

    def __init__(self, page):
        super().__init__()
        self.addresses = []
        self.feed(page.read_text())

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") not in ("index", "search", "next", "prev"):
            self.addresses.append(attributes.get("href"))
        elif tag in ("script", "img", "source", "iframe", "video", "audio"):
            self.addresses.append(attributes.get("src"))
        self.addresses += re.findall(r"url\(([^)]+)\)", attributes.get("style") or "")


def test_nothing_is_loaded_from_elsewhere(site):
    """Scripts, styles, fonts and pictures are files of the site."""
    for page in site.folder.rglob("*.html"):
        for address in filter(None, Loaded(page).addresses):
            if not address.startswith("data:"):
                assert not re.match(r"(\w+:)?//", address), (page, address)
                assert (page.parent / address.partition("?")[0]).exists(), (page, address)
    for style in site.folder.rglob("*.css"):
        for address in re.findall(r"(?:url\(|@import\s+)[\"']?([^\"')\s;]+)", style.read_text()):
            assert not re.match(r"(https?:)?//", address), (style, address)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def page():
    """A tab of a phone's size."""
    async with launched_browser() as browser:
        yield await browser.new_page(viewport=PHONE)


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_search_works_without_a_server(page, site):
    """From files on a disk, the name of a method leads to its description."""
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    await page.goto((site.folder / "search.html").as_uri() + "?q=group_send")
    found = page.locator("#search-results a[href*='group_send']").first
    await found.click()
    await expect(
        page.locator("dt[id='fast_channels.layers.BaseChannelLayer.group_send']")
    ).to_be_visible()
    assert all(request.startswith("file:") for request in requests), requests


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_no_page_scrolls_sideways_on_a_phone(page, site):
    """What is wider, such as a table or a line of code, scrolls by itself."""
    wide = {}
    for path in site.pages():
        await page.goto(path.as_uri(), wait_until="domcontentloaded")
        width = await page.evaluate(
            """() => Math.max(
                document.documentElement.scrollWidth,
                document.querySelector("article")?.scrollWidth ?? 0,
            )"""
        )
        if width > PHONE["width"]:
            wide[path.relative_to(site.folder)] = width
    assert wide == {}
