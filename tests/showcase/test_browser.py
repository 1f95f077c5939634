"""The page, in a real browser: what people see."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from sandbox.apps.showcase.consumer import RELIABLE_GROUP, SNAPSHOT_SIZE
from sandbox.layers import LAYERS
from tests.showcase.support import WebServer, launched_browser, run_module

# The first test starts a broker, workers, a server and a browser.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(150),
]

# What the clock of a page says whose time is in a test's hands.
MORNING = "2030-01-01T09:00:00"
NOON = "2030-01-01T12:00:00"

# All but the room, which the user connects.
SOCKETS = ["system", "jobs", "chat", "reliable", "notifications", "analytics"]

CHAT_LOGS = ["chat-log", "reliable-log"]

MARKUP = "<img src=x onerror=\"document.title='broken in'\"> & <b>bold</b>"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser():
    async with launched_browser() as running:
        yield running


@pytest.fixture(scope="module")
def server(broker, worker, analytics_worker, logs):
    """A server of our own, since we kill it."""
    with WebServer(logs / "browser.log", broker.url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def window(browser):
    """One window for all tests: its tabs share the cache, which makes them quicker to open."""
    # Finer than one pixel, for the picture.
    return await browser.new_context(
        viewport={"width": 1360, "height": 900}, device_scale_factor=1.5
    )


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(browser, window, server):
    """Opens tabs, and fails the test for what they complain about."""
    complaints = []

    async def open_one(*, clock=False):
        """Open a tab; with `clock`, its time stands still until the test says otherwise."""
        page = await (await frozen() if clock else window).new_page()
        if clock:
            await page.clock.install(time=MORNING)
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.goto(server.url)
        await all_connected(page)
        if clock:
            await page.clock.pause_at(NOON)
            await all_connected(page)
        return page

    async def frozen():
        # A clock is one of all tabs of a window.
        windows.append(await browser.new_context())
        return windows[-1]

    windows = []
    yield open_one
    for other in windows:
        await other.close()
    for page in window.pages:
        await page.close()
    assert [text for text in complaints if not is_failed_attempt(text)] == []


def is_failed_attempt(complaint: str) -> bool:
    """Whether the browser reports, on its own, that nobody was there to connect to."""
    return complaint.startswith("WebSocket connection to") and "failed" in complaint


async def all_connected(page) -> None:
    for name in SOCKETS:
        await expect(page.locator(f"#{name}-status")).to_have_text("connected")


async def say(page, form: str, text: str) -> None:
    """Type into a form of the page and press Enter."""
    await page.locator(f"#{form}").fill(text)
    await page.locator(f"#{form}").press("Enter")


async def activate(page, button: str) -> None:
    """Press a button by keyboard; a click waits for the tab to be drawn, and some are hidden."""
    await page.locator(f"#{button}").press("Enter")


def entry(page, log: str, text: str):
    """The entry of a log with exactly this text."""
    return page.locator(f"#{log} .entry").filter(has=page.get_by_text(text, exact=True))


async def shown(page, log: str) -> list[str]:
    """Return the texts of a log, each followed by its mark if it has one."""
    return await page.locator(f"#{log} .entry").evaluate_all(
        """entries => entries.map((entry) =>
            [...entry.querySelectorAll(".text, .mark")].map((e) => e.textContent).join(" | "))"""
    )


async def both_chats_have(page, text: str) -> None:
    for log in CHAT_LOGS:
        await expect(entry(page, log, text)).to_have_count(1)


async def join(page, room: str) -> None:
    await say(page, "room-name", room)
    await expect(page.locator("#room-status")).to_have_text("connected")


async def run_job(page, job_type: str, content: str):
    await page.locator("#jobs-type").select_option(job_type)
    await say(page, "jobs-content", content)
    return page.locator(".job").first


async def test_line_typed_in_one_tab_appears_in_both_over_both_layers(open_page):
    """Once in each chat."""
    one, other = await open_page(), await open_page()
    await say(one, "chats-text", "to every tab")
    for page in (one, other):
        for log in CHAT_LOGS:
            await expect(entry(page, log, "to every tab")).to_have_count(1)
    await expect(one.locator("#chats-text")).to_have_value("")


async def test_reliable_chat_makes_up_for_a_dropped_connection_and_plain_chat_does_not(open_page):
    """In one of them is what others wrote meanwhile, in order and marked as replayed."""
    # It would come back by itself after a while.
    away, other = await open_page(clock=True), await open_page()
    await say(other, "chats-text", "before")
    await both_chats_have(away, "before")
    await activate(away, "chats-drop")
    for chat in ("chat", "reliable"):
        await expect(away.locator(f"#{chat}-status")).to_have_text("disconnected")
    await expect(away.locator("#chats-drop")).to_contain_text("Reconnect (in ")
    await expect(away.locator("#chats-hint")).to_contain_text("Dropped. Let others write")
    for text in ("missed 1", "missed 2", "missed 3"):
        await say(other, "chats-text", text)
        await both_chats_have(other, text)

    await activate(away, "chats-drop")
    await all_connected(away)
    await expect(away.locator("#chats-hint")).to_contain_text("Back.")
    await expect(away.locator("#chats-drop")).to_have_text("Drop connection")
    await expect(entry(away, "reliable-log", "missed 3")).to_have_count(1)
    await say(other, "chats-text", "after")
    for page in (away, other):
        await both_chats_have(page, "after")
    assert await shown(away, "chat-log") == [
        "before",
        "back: what was said meanwhile is missing here",
        "after",
    ]
    assert await shown(away, "reliable-log") == [
        "before",
        "back: 3 messages were missed",
        "missed 1 | replayed",
        "missed 2 | replayed",
        "missed 3 | replayed",
        "after",
    ]
    # Who was there all the time has the same, and without a mark.
    everything = ["before", "missed 1", "missed 2", "missed 3", "after"]
    assert await shown(other, "chat-log") == everything
    assert await shown(other, "reliable-log") == everything


async def test_dropped_connection_comes_back_by_itself_after_a_countdown(open_page):
    """The button says when, and nothing can be sent until then."""
    page = await open_page(clock=True)
    await activate(page, "chats-drop")
    await expect(page.locator("#chats-drop")).to_have_text("Reconnect (in 15 s)")
    await say(page, "chats-text", "kept in the field")
    for log in CHAT_LOGS:
        await expect(entry(page, log, "not sent: there is no connection now")).to_have_count(1)
    await expect(page.locator("#chats-text")).to_have_value("kept in the field")
    await page.clock.run_for(14_000)
    await expect(page.locator("#chats-drop")).to_have_text("Reconnect (in 1 s)")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    await page.clock.run_for(1_000)
    await all_connected(page)
    await expect(entry(page, "reliable-log", "back: no message was missed")).to_have_count(1)
    await page.locator("#chats-text").press("Enter")
    await both_chats_have(page, "kept in the field")


async def test_page_that_was_away_for_too_long_shows_the_last_messages(open_page, server):
    """It says so, and marks them; there is no gap between them and what comes next."""
    page = await open_page()
    await say(page, "chats-text", "before")
    await both_chats_have(page, "before")
    await activate(page, "chats-drop")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    texts = [f"line {number}" for number in range(250)]
    async with LAYERS["queue"](server.redis_url) as layer:
        messages = [{"type": "reliable.message", "text": text} for text in texts]
        await layer.group_send_many(RELIABLE_GROUP, messages)
    await activate(page, "chats-drop")
    await expect(entry(page, "reliable-log", "line 249")).to_have_count(1)
    await all_connected(page)
    await say(page, "chats-text", "after")
    await both_chats_have(page, "after")
    assert await shown(page, "reliable-log") == [
        "before",
        f"too long away: here are the last {SNAPSHOT_SIZE} messages",
        *(f"{text} | snapshot" for text in texts[-SNAPSHOT_SIZE:]),
        "after",
    ]


async def test_notification_appears_in_every_tab(open_page):
    """With its title."""
    one, other = await open_page(), await open_page()
    await say(one, "notifications-text", "lunch is ready")
    arrived = other.locator("#notifications-log .entry")
    await expect(arrived).to_contain_text("From the page lunch is ready")


async def test_system_socket_echoes(open_page):
    """What was typed and what came back are both in the log."""
    page = await open_page()
    await say(page, "system-text", "anybody?")
    await expect(entry(page, "system-log", "echo: anybody?")).to_have_count(1)


async def test_room_is_entered_and_left(open_page):
    """Others see it, and nothing can be typed without a room."""
    one, other = await open_page(), await open_page()
    await expect(one.locator("#room-text")).to_be_disabled()
    await join(one, "corner")
    await join(other, "corner")
    await say(other, "room-text", "made it")
    await expect(one.locator("#room-log")).to_contain_text("made it")
    await activate(other, "room-toggle")
    await expect(other.locator("#room-status")).to_have_text("disconnected")
    await expect(one.locator("#room-log .entry").last).to_contain_text(" left")


async def test_room_that_is_refused_says_why_and_is_not_tried_again(open_page):
    """The reason of the close frame is in the log, and the name can be changed."""
    page = await open_page()
    await say(page, "room-name", "two words")
    await expect(page.locator("#room-log")).to_contain_text("room name 'two words' is not allowed")
    await expect(page.locator("#room-status")).to_have_text("disconnected")
    await join(page, "two-words")


async def test_bar_of_a_job_reaches_the_end_and_its_result_shows(open_page):
    """Only in the tab that asked."""
    one, other = await open_page(), await open_page()
    job = await run_job(one, "translate", "hello apple")
    await expect(job).to_have_attribute("data-state", "finished")
    await expect(job.locator("progress")).to_have_js_property("value", 100)
    await expect(job.locator(".percent")).to_have_text("100 %")
    await expect(job.locator(".outcome")).to_have_text("ellohay appleway")
    await expect(other.locator(".job")).to_have_count(0)


async def test_job_that_fails_says_so(open_page):
    """In words, not by colour alone."""
    page = await open_page()
    job = await run_job(page, "analyze", "?!")
    await expect(job.locator(".job-state")).to_have_text("failed")
    await expect(job.locator(".outcome")).to_have_text("ValueError: there is no word in '?!'")


async def test_messages_of_the_outside_script_appear(open_page, server):
    """Over all four layers, and in the chart."""
    page = await open_page()
    done = await asyncio.to_thread(
        run_module,
        *("sandbox.external_sender", "--count", "1", "--interval", "0.1", "--rounds", "2"),
        redis_url=server.redis_url,
    )
    assert done.returncode == 0, done.stderr
    for name, text in (
        ("chat", "Announcement: hello from a script outside the server"),
        ("reliable", "This one waits for you if you are away"),
        ("notifications", "version 2.0 is live"),
        ("chat", "Maintenance tonight, told over three layers"),
        ("reliable", "Maintenance tonight, told over three layers"),
        ("chat", "Periodic announcement 1 of 1"),
        ("reliable", "Periodic announcement 1 of 1"),
    ):
        await expect(page.locator(f"#{name}-log .entry", has_text=text)).to_have_count(1)
    for kind in ("user_login", "page_view", "button_click", "session_duration", "error"):
        await expect(page.locator(f"#analytics-log .entry:has-text('{kind}')")).not_to_have_count(0)
        await expect(page.locator(f'#analytics-chart [data-series="{kind}"]')).not_to_have_count(0)
    # What is under way still would be counted by the pages of the next test.
    events = page.locator("#analytics-log .entry:not(:has-text('socket_connected'))")
    await expect(events).to_have_count(11)


async def test_button_sends_an_analytics_event_that_the_chart_counts(open_page):
    """In every tab."""
    one, other = await open_page(), await open_page()
    await one.locator("#analytics-event").select_option("user_login")
    for _ in range(3):
        await activate(one, "analytics-send")
    for page in (one, other):
        counter = page.locator('#analytics-legend [data-series="user_login"] b')
        await expect(counter).to_have_text("3")
        await expect(
            page.locator('#analytics-chart [data-series="user_login"]').first
        ).to_be_visible()


async def test_page_reconnects_by_itself_when_the_server_is_back(open_page, server, worker):
    """Every socket waits, returns, and works as before; the reliable chat has missed nothing."""
    one, other = await open_page(), await open_page()
    await join(one, "harbour")
    # It must not end too soon.
    worker.process.send_signal(signal.SIGSTOP)
    try:
        unfinished = await run_job(one, "generate", "a job whose asker is cut off")
        await expect(unfinished.locator(".job-state")).to_have_text("queued")
        server.kill()
    finally:
        worker.process.send_signal(signal.SIGCONT)
    for name in [*SOCKETS, "room"]:
        await expect(one.locator(f"#{name}-status")).to_have_attribute("data-state", "waiting")
    await expect(one.locator("#chat-status")).to_contain_text("retry in")
    await expect(unfinished.locator(".job-state")).to_have_text("lost")
    await say(one, "chats-text", "kept in the field")
    await expect(one.locator("#chat-log")).to_contain_text("not sent: there is no connection")
    await expect(one.locator("#chats-text")).to_have_value("kept in the field")
    async with LAYERS["queue"](server.redis_url) as layer:
        message = {"type": "reliable.message", "text": "said while there was no server"}
        await layer.group_send(RELIABLE_GROUP, message)

    server.start()
    await all_connected(one)
    missed = entry(one, "reliable-log", "said while there was no server")
    await expect(missed.locator(".mark")).to_have_text("replayed")
    await all_connected(other)
    await expect(one.locator("#room-status")).to_have_text("connected")
    await one.locator("#chats-text").press("Enter")
    for page in (one, other):
        await both_chats_have(page, "kept in the field")
    await say(one, "room-text", "back again")
    await expect(one.locator("#room-log")).to_contain_text("back again")
    job = await run_job(one, "default", "works again")
    await expect(job.locator(".job-state")).to_have_text("finished")


async def test_markup_is_shown_as_text(open_page):
    """Whatever panel it comes through, it makes no element and runs no script."""
    page = await open_page()
    await join(page, "markup")
    await say(page, "system-text", MARKUP)
    await say(page, "room-text", MARKUP)
    await say(page, "chats-text", MARKUP)
    await say(page, "notifications-text", MARKUP)
    job = await run_job(page, "default", MARKUP)
    await expect(job.locator(".job-content")).to_have_text(MARKUP)
    await expect(job.locator(".outcome")).to_contain_text(MARKUP)
    await expect(entry(page, "system-log", f"echo: {MARKUP}")).to_have_count(1)
    await expect(page.locator("#room-log")).to_contain_text(MARKUP)
    await both_chats_have(page, MARKUP)
    await expect(page.locator("#notifications-log")).to_contain_text(MARKUP)
    await expect(page.locator(":is(.log, .joblist) :is(img, b, script)")).to_have_count(0)
    assert await page.title() == "Fast Channels showcase"


async def test_log_keeps_the_latest_200(open_page):
    """The oldest entries go first."""
    page = await open_page()
    await page.evaluate(
        """() => {
            for (let number = 0; number < 105; number += 1) {
                document.querySelector("#system-text").value = `line ${number}`;
                document.querySelector("#system-form").requestSubmit();
            }
        }"""
    )
    await expect(entry(page, "system-log", "echo: line 104")).to_have_count(1)
    assert await page.locator("#system-log .entry").count() == 200
    await expect(entry(page, "system-log", "line 0")).to_have_count(0)


async def test_everything_has_a_name_and_can_be_reached_by_keyboard(open_page):
    """Fields have labels, and Tab gets to every field, button and log that can be used."""
    page = await open_page()
    unnamed = await page.evaluate(
        """() => [...document.querySelectorAll("input, select, button, [role=log]")]
            .filter((e) => !e.labels?.length && !e.textContent.trim() && !e.ariaLabel)
            .map((e) => e.id)"""
    )
    assert unnamed == []
    wanted = await page.evaluate(
        """() => [...document.querySelectorAll("input, select, button[id], [role=log]")]
            .filter((e) => !e.disabled).map((e) => e.id)"""
    )
    reached = set()
    for _ in range(60):
        await page.keyboard.press("Tab")
        reached.add(await page.evaluate("document.activeElement.id"))
    assert set(wanted) <= reached


async def test_page_fits_a_narrow_window(open_page):
    """Nothing is cut off to the side."""
    page = await open_page()
    await say(page, "chats-text", "a-word-without-any-space-" * 10)
    await expect(page.locator("#reliable-log .entry")).to_have_count(1)
    for width in (320, 390, 800, 1100):
        await page.set_viewport_size({"width": width, "height": 844})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.skipif(
    "SHOWCASE_SCREENSHOT" not in os.environ,
    reason="makes a picture of a minute of traffic where SHOWCASE_SCREENSHOT says; "
    "what is done for it is tested above",
)
@pytest.mark.timeout(150)
async def test_picture_of_the_page_with_messages_from_every_source(open_page, server):
    """It is kept for the README."""
    page, other = await open_page(), await open_page()
    # In a tab of its own, since it takes the focus away from what is typed.
    traffic = asyncio.create_task(events(await open_page(), seconds=50))
    await join(page, "lobby")
    await join(other, "lobby")
    await say(page, "system-text", "Is anybody there?")
    await say(other, "room-text", "Hello from the other tab")
    await say(page, "room-text", "Good to see you here")
    for job_type, content in (("analyze", "?!"), ("translate", "every message counts")):
        await run_job(page, job_type, content)
    await expect(page.locator('.job[data-state="finished"]')).to_have_count(1)
    await traffic
    await say(page, "chats-text", "Typed once, sent over both chats")
    await both_chats_have(page, "Typed once, sent over both chats")
    await activate(page, "chats-drop")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    for text in ("Has anybody heard of Ada?", "She is on a train, in a tunnel"):
        await say(other, "chats-text", text)
        await both_chats_have(other, text)
    await activate(page, "chats-drop")
    await all_connected(page)
    await say(other, "notifications-text", "The build is green")
    await asyncio.to_thread(
        run_module,
        *(
            "sandbox.external_sender",
            "--count",
            "1",
            "--interval",
            "0.1",
            "--rounds",
            "4",
        ),
        redis_url=server.redis_url,
    )
    await expect(page.locator("#reliable-log")).to_contain_text("Periodic announcement")
    running = await run_job(page, "generate", "a small town by the sea")
    await expect(running.locator(".outcome")).to_have_text(re.compile("draft [2-6]"))
    picture = Path(os.environ["SHOWCASE_SCREENSHOT"])
    await page.evaluate("document.activeElement.blur()")
    await page.bring_to_front()
    await page.screenshot(path=picture, full_page=True)
    assert os.path.getsize(picture) > 50_000  # noqa: ASYNC240, PTH202 - a moment


async def events(page, seconds: float) -> None:
    """Traffic as it might be: rising and falling, some kinds more often than others."""
    kinds = ["page_view"] * 5 + ["button_click"] * 3 + ["user_login", "session_duration", "error"]
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await page.locator("#analytics-event").select_option(random.choice(kinds))
        await activate(page, "analytics-send")
        await asyncio.sleep(random.choice([0.02, 0.05, 0.1, 0.1, 0.2, 0.6]))
