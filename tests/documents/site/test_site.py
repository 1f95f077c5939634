"""The site of `make docs` is complete, readable and searchable, and needs no network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
import pytest_asyncio
from playwright.async_api import expect

import fast_channels
from tests.showcase.support import launched_browser

# The first test builds the site, which takes a while on a busy machine.
pytestmark = pytest.mark.timeout(240)

PHONE = {"width": 390, "height": 844}


def test_site_is_built_without_a_warning(site):
    """All references work, all pages are linked, and all code is highlighted."""
    assert site.complaints == ""


class Loaded(HTMLParser):
    """The addresses that a browser loads with a page."""

    def __init__(self, text):
        super().__init__()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") not in ("index", "search", "next", "prev"):
            self.addresses.append(attributes.get("href"))
        elif tag in ("script", "img", "source", "iframe", "video", "audio"):
            self.addresses.append(attributes.get("src"))
        self.addresses += URL.findall(attributes.get("style") or "")


URL = re.compile(r"(?:url\(|@import\s+)[\"']?([^\"')\s;]+)")


def loaded(path):
    """Return the addresses that a page or a style sheet loads, except embedded data."""
    text = path.read_text()
    found = Loaded(text).addresses if path.suffix == ".html" else URL.findall(text)
    return [address for address in found if address and not address.startswith("data:")]


def is_elsewhere(address):
    return re.match(r"(\w+:)?//", address) is not None


def test_nothing_is_loaded_from_elsewhere(site):
    """Scripts, styles, fonts and pictures are files of the site."""
    for path in [*site.folder.rglob("*.html"), *site.folder.rglob("*.css")]:
        addresses = loaded(path)
        assert [*filter(is_elsewhere, addresses)] == [], path
        if path.suffix == ".html":
            files = [path.parent / address.partition("?")[0] for address in addresses]
            assert [file for file in files if not file.exists()] == [], path


def test_what_is_loaded_from_elsewhere_is_noticed(tmp_path):
    """Addresses in tags, styles and style sheets count; plain links do not."""
    page, style = tmp_path / "page.html", tmp_path / "style.css"
    page.write_text(
        '<a href="https://a"></a><link rel="stylesheet" href="https://b">'
        '<script src="//c"></script><img src="d.png"><p style="background: url(http://e)"></p>'
        '<img src="data:image/png,">'
    )
    style.write_text("@import 'https://f'; @font-face { src: url(g.woff) }")
    assert [*filter(is_elsewhere, loaded(page))] == ["https://b", "//c", "http://e"]
    assert [*filter(is_elsewhere, loaded(style))] == ["https://f"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def page():
    """Open a tab of a phone's size."""
    async with launched_browser() as browser:
        yield await browser.new_page(viewport=PHONE)


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_search_works_without_a_server(page, site):
    """Without a server, the search finds the description of a method."""
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    await page.goto((site.folder / "search.html").as_uri() + "?q=group_send")
    found = page.locator("#search-results a[href*='group_send']").first
    await found.click()
    await expect(
        page.locator("dt[id='fast_channels.layers.BaseChannelLayer.group_send']")
    ).to_be_visible()
    assert all(request.startswith("file:") for request in requests), requests


async def width_of(page):
    """Return the width of the page's content in pixels."""
    return await page.evaluate(
        """() => Math.max(
            document.documentElement.scrollWidth,
            document.querySelector("article").scrollWidth,
        )"""
    )


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_no_page_scrolls_sideways_on_a_phone(page, site):
    """Wide content, such as a table or a line of code, scrolls by itself."""
    wide = {}
    for path in site.pages():
        await page.goto(path.as_uri(), wait_until="domcontentloaded")
        if (width := await width_of(page)) > PHONE["width"]:
            wide[path.relative_to(site.folder)] = width
    assert wide == {}


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_page_that_scrolls_sideways_is_noticed(page, site):
    """Wide content that does not scroll by itself makes the page wide."""
    await page.goto((site.folder / "index.html").as_uri())
    await page.evaluate(
        """() => document.querySelector("article p").innerHTML =
            "<span style='display: inline-block; width: 600px'>wide</span>" """
    )
    assert await width_of(page) > PHONE["width"]


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_search_shows_excerpts_without_a_server(page, site):
    """From files on a disk, a result has the text around the word that was searched for."""
    await page.goto((site.folder / "search.html").as_uri() + "?q=mailbox")
    excerpts = page.locator("#search-results li:has-text('Choosing a layer') .context")
    await expect(excerpts).to_contain_text("mailbox")


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
async def test_no_name_in_code_is_underlined_in_dark_mode(page, site):
    """Names of modules and classes look like code, not like links."""
    await page.emulate_media(color_scheme="dark")
    await page.goto((site.folder / "first-steps.html").as_uri())
    names = page.locator(".highlight .nn, .highlight .nc")
    assert await names.count() > 3
    decorations = await names.evaluate_all(
        "(names) => names.map((name) => getComputedStyle(name).textDecorationLine)"
    )
    assert set(decorations) == {"none"}
    await page.emulate_media(color_scheme=None)


def test_each_page_names_the_version_and_leads_home(site):
    """Links home and the version are above the navigation and the article."""
    for path in site.pages():
        text = path.read_text()
        assert f"version {fast_channels.__version__}</a>" in text, path
        if path != site.folder / "index.html":
            (crumbs,) = re.findall(r'<nav class="breadcrumbs".*?</nav>', text, re.DOTALL)
            home = re.search(r'<a href="([^"]+)">Fast Channels ', crumbs)[1]
            assert (path.parent / home).resolve() == (site.folder / "index.html").resolve(), path


def test_at_most_one_picture_stands_before_the_code(site):
    """A page with code shows it early."""
    many = {}
    for path in site.pages():
        article = path.read_text().partition("<article")[2].partition("</article>")[0]
        before, code, _ = article.partition('<div class="highlight-')
        if code and before.count("<img") > 1:
            many[path.relative_to(site.folder)] = before.count("<img")
    assert many == {}


@pytest.mark.browser
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("size", [PHONE, {"width": 1440, "height": 900}], ids=["phone", "desktop"])
async def test_home_page_shows_code_on_the_first_screen(page, site, size):
    """A visitor sees a consumer class without scrolling."""
    await page.set_viewport_size(size)
    await page.goto((site.folder / "index.html").as_uri())
    await expect(page.locator(".highlight .nc").first).to_be_in_viewport()
    await page.set_viewport_size(PHONE)
