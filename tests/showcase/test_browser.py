"""The page of the showcase in a real browser."""

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

from sandbox.apps.showcase.consumer import RELIABLE_GROUP, reliable_line
from sandbox.apps.showcase.history import LATEST_LINES
from sandbox.layers import layer_table
from tests.showcase.support import WebServer, launched_browser, run_module

# The first test starts a broker, workers, a server and a browser.
pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(150),
]

# Times of day that the tests set in a page.
MORNING = "2030-01-01T09:00:00"
NOON = "2030-01-01T12:00:00"

# All panels but the room, which the user connects.
SOCKETS = ["system", "jobs", "chat", "reliable", "notifications", "analytics"]

CHAT_LOGS = ["chat-log", "reliable-log"]

MARKUP = "<img src=x onerror=\"document.title='broken in'\"> & <b>bold</b>"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser():
    async with launched_browser() as running:
        yield running


@pytest.fixture(scope="module")
def server(broker, worker, analytics_worker, logs):
    """A separate server, because the test kills it."""
    with WebServer(logs / "browser.log", broker.url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def window(browser):
    """One window for all tests, because a shared cache makes its tabs open faster."""
    # Finer than one pixel, for the picture.
    return await browser.new_context(
        viewport={"width": 1360, "height": 900}, device_scale_factor=1.5
    )


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(browser, window, server):
    """Open tabs, and fail the test if one of them reports an error."""
    complaints = []
    # Every tab shows the history of the reliable chat, so each test begins with an empty one.
    async with layer_table(server.redis_url)["queue"]["layer"] as layer:
        await layer.flush()

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
        # The clock is shared by all tabs of a window.
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
    """Return whether the browser itself reports a failed attempt to connect."""
    return complaint.startswith("WebSocket connection to") and "failed" in complaint


async def all_connected(page) -> None:
    for name in SOCKETS:
        await expect(page.locator(f"#{name}-status")).to_have_text("connected")


async def say(page, form: str, text: str) -> None:
    """Type into a form of the page and press Enter."""
    await page.locator(f"#{form}").fill(text)
    await page.locator(f"#{form}").press("Enter")


async def activate(page, button: str) -> None:
    """Press a button by keyboard, because a click would wait until the tab is drawn."""
    await page.locator(f"#{button}").press("Enter")


def entry(page, log: str, text: str):
    """Return the entry of a log with exactly this text, by any author."""
    said = page.locator(".said").filter(has_text=re.compile(f"^{re.escape(text)}$"))
    return page.locator(f"#{log} .entry").filter(has=said)


async def shown(page, log: str) -> list[str]:
    """Return the texts of a log, each followed by its mark if it has one."""
    return await page.locator(f"#{log} .entry").evaluate_all(
        """entries => entries.map((entry) =>
            [...entry.querySelectorAll(".text, .mark")].map((e) => e.textContent).join(" | "))"""
    )


async def both_chats_have(page, text: str) -> None:
    for log in CHAT_LOGS:
        await expect(entry(page, log, text)).to_have_count(1)


async def name_of(page) -> str:
    return await page.locator("#chats-name").text_content()


async def join(page, room: str) -> None:
    await say(page, "room-name", room)
    await expect(page.locator("#room-status")).to_have_text("connected")


async def run_job(page, job_type: str, content: str):
    await page.locator("#jobs-type").select_option(job_type)
    await say(page, "jobs-content", content)
    return page.locator(".job").first


async def test_line_typed_in_one_tab_appears_in_both_over_both_layers(open_page):
    """Each chat shows the line once, with its author."""
    one, other = await open_page(), await open_page()
    await say(one, "chats-text", "to every tab")
    for page, author in ((one, "you"), (other, await name_of(one))):
        await both_chats_have(page, "to every tab")
        for log in CHAT_LOGS:
            assert await shown(page, log) == [f"{author}: to every tab"]
    await expect(one.locator("#chats-text")).to_have_value("")


async def test_reliable_chat_makes_up_for_a_dropped_connection_and_plain_chat_does_not(open_page):
    """The reliable chat shows the lines of others in order, marked as replayed."""
    # The page would reconnect by itself after a while.
    away, other = await open_page(clock=True), await open_page()
    await say(other, "chats-text", "before")
    await both_chats_have(away, "before")
    await activate(away, "chats-drop")
    for chat in ("chat", "reliable"):
        await expect(away.locator(f"#{chat}-status")).to_have_text("disconnected")
    await expect(away.locator("#chats-drop")).to_contain_text("Reconnect (in ")
    await expect(away.locator("#chats-hint")).to_contain_text("Dropped. Now write in a second tab")
    for text in ("missed 1", "missed 2", "missed 3"):
        await say(other, "chats-text", text)
        await both_chats_have(other, text)

    await activate(away, "chats-drop")
    await all_connected(away)
    hint = "The reliable chat received the 3 lines that it missed; the plain chat lost them."
    await expect(away.locator("#chats-hint")).to_contain_text(hint)
    await expect(away.locator("#chats-drop")).to_have_text("Drop connection")
    await expect(entry(away, "reliable-log", "missed 3")).to_have_count(1)
    await say(other, "chats-text", "after")
    for page in (away, other):
        await both_chats_have(page, "after")
    name = await name_of(other)
    assert await shown(away, "chat-log") == [
        f"{name}: before",
        "back: lines sent meanwhile are missing here",
        f"{name}: after",
    ]
    assert await shown(away, "reliable-log") == [
        f"{name}: before",
        "back: 3 lines missed",
        f"{name}: missed 1 | replayed",
        f"{name}: missed 2 | replayed",
        f"{name}: missed 3 | replayed",
        f"{name}: after",
    ]
    # The tab that stayed connected has the same lines without a mark.
    everything = [
        f"you: {text}" for text in ("before", "missed 1", "missed 2", "missed 3", "after")
    ]
    assert await shown(other, "chat-log") == everything
    assert await shown(other, "reliable-log") == everything


async def test_dropped_connection_comes_back_by_itself_after_a_countdown(open_page):
    """The button counts down. Sending is disabled until then, and the text stays in its field."""
    page = await open_page(clock=True)
    await expect(page.locator("#chats-send")).to_be_enabled()
    await activate(page, "chats-drop")
    await expect(page.locator("#chats-drop")).to_have_text("Reconnect (in 15 s)")
    await expect(page.locator("#chats-send")).to_be_disabled()
    await say(page, "chats-text", "kept in the field")
    await expect(page.locator("#chats-text")).to_have_value("kept in the field")
    await page.clock.run_for(14_000)
    await expect(page.locator("#chats-drop")).to_have_text("Reconnect (in 1 s)")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    await page.clock.run_for(1_000)
    await all_connected(page)
    await expect(entry(page, "reliable-log", "back: no line missed")).to_have_count(1)
    await expect(page.locator("#chats-hint")).to_contain_text("no line was sent meanwhile")
    await expect(page.locator("#chats-send")).to_be_enabled()
    await page.locator("#chats-text").press("Enter")
    await both_chats_have(page, "kept in the field")


async def test_page_that_was_away_for_too_long_shows_the_latest_lines(open_page, server):
    """The page says so and marks them. No line is missing between them and the next one."""
    page = await open_page()
    await say(page, "chats-text", "before")
    await both_chats_have(page, "before")
    await activate(page, "chats-drop")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    texts = [f"line {number}" for number in range(250)]
    async with layer_table(server.redis_url)["queue"]["layer"] as layer:
        messages = [reliable_line(f"script: {text}") for text in texts]
        await layer.group_send_many(RELIABLE_GROUP, messages)
    await activate(page, "chats-drop")
    await expect(entry(page, "reliable-log", "line 249")).to_have_count(1)
    await all_connected(page)
    await expect(page.locator("#chats-hint")).to_contain_text("more lines than the history keeps")
    await say(page, "chats-text", "after")
    await both_chats_have(page, "after")
    assert await shown(page, "reliable-log") == [
        "you: before",
        f"too long away: here are the latest {LATEST_LINES} lines",
        *(f"script: {text} | snapshot" for text in texts[-LATEST_LINES:]),
        "you: after",
    ]


async def test_reliable_chat_shows_its_history_after_a_reload(open_page):
    """The lines, their authors and their times are back; the plain chat begins anew."""
    page = await open_page()
    name = await name_of(page)
    for text in ("first", "second"):
        await say(page, "chats-text", text)
        await both_chats_have(page, text)
    await page.reload()
    await all_connected(page)
    assert await name_of(page) == name
    await expect(page.locator("#reliable-log .entry")).to_have_count(3)
    assert await shown(page, "reliable-log") == [
        "history: the latest 2 lines",
        "you: first",
        "you: second",
    ]
    for text in ("first", "second"):
        await expect(entry(page, "reliable-log", text).locator("time")).to_contain_text("sent ")
    await say(page, "chats-text", "third")
    await both_chats_have(page, "third")
    assert await shown(page, "chat-log") == ["you: third"]
    # Coming back after that is not a reload, so the same lines are not shown again.
    await activate(page, "chats-drop")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    await activate(page, "chats-drop")
    await expect(entry(page, "reliable-log", "back: no line missed")).to_have_count(1)
    await expect(page.locator("#reliable-log .entry")).to_have_count(5)


async def test_replayed_line_shows_when_it_was_sent(open_page, server):
    """The message carries its time of sending, and the page shows it instead of the arrival."""
    page = await open_page()
    await activate(page, "chats-drop")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    async with layer_table(server.redis_url)["queue"]["layer"] as layer:
        message = reliable_line("script: sent in the morning") | {"sent_at": 1_893_488_400}
        await layer.group_send(RELIABLE_GROUP, message)
    await activate(page, "chats-drop")
    shown_time = entry(page, "reliable-log", "sent in the morning").locator("time")
    await expect(shown_time).to_have_attribute("datetime", "2030-01-01T09:00:00.000Z")
    await expect(shown_time).to_have_text(re.compile(r"^sent \d\d:\d\d:00$"))


async def test_robot_writes_for_visitors_without_a_second_tab(open_page):
    """The robot's lines are replayed in the reliable chat and lost in the plain one."""
    # With its clock standing still, the page does not reconnect by itself.
    page, other = await open_page(clock=True), await open_page()
    await activate(page, "chats-drop")
    await expect(page.locator("#reliable-status")).to_have_text("disconnected")
    await activate(page, "chats-robot")
    lines = [
        "Hello, I am a robot.",
        "Who of you is disconnected?",
        "You read this later, or never.",
    ]
    for text in lines:
        await expect(page.locator("#chats-robot")).to_be_disabled()
        await both_chats_have(other, text)
        await page.clock.run_for(500)
    await expect(page.locator("#chats-robot")).to_be_enabled()
    await activate(page, "chats-drop")
    await all_connected(page)
    await expect(page.locator("#reliable-log .mark")).to_have_count(3)
    assert await shown(page, "reliable-log") == [
        "back: 3 lines missed",
        *(f"Robot: {text} | replayed" for text in lines),
    ]
    assert await shown(page, "chat-log") == ["back: lines sent meanwhile are missing here"]


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844)])
async def test_chats_come_first_and_need_no_scrolling(open_page, width, height):
    """The hint, the button, and both chats with their field fit the window, side by side."""
    page = await open_page()
    await page.set_viewport_size({"width": width, "height": height})
    first = await page.evaluate("document.querySelector('main .panel').id")
    assert first == "chats"
    for name in ("chats-hint", "chats-drop", "chat-log", "reliable-log", "chats-send"):
        await expect(page.locator(f"#{name}")).to_be_in_viewport(ratio=1)
    plain, reliable = [await page.locator(f"#{log}").bounding_box() for log in CHAT_LOGS]
    assert (plain["y"], plain["height"]) == (reliable["y"], reliable["height"])
    assert plain["x"] + plain["width"] <= reliable["x"]


async def test_layers_and_jobs_explain_themselves(open_page):
    """Each layer's name and each kind of job has an explanation next to it."""
    page = await open_page()
    for badge in await page.locator(".layer").all():
        line = await badge.locator("xpath=..").text_content()
        assert re.search(r" layer: \w+", line), line
    for option in await page.locator("#jobs-type option").all():
        value = await option.get_attribute("value")
        assert re.fullmatch(rf"{value}: [\w ,]+", await option.text_content())


async def test_nothing_can_be_sent_without_a_connection(open_page, server):
    """Every button that needs the server is disabled while it is away, and enabled afterwards."""
    page = await open_page()
    await join(page, "lobby")
    buttons = page.locator("form.compose:not(#room-join) button")
    assert await buttons.count() == 6
    for button in await buttons.all():
        await expect(button).to_be_enabled()
    server.kill()
    for button in await buttons.all():
        await expect(button).to_be_disabled()
    server.start()
    for button in await buttons.all():
        await expect(button).to_be_enabled()


async def test_page_loads_nothing_from_elsewhere(open_page, server):
    """Every request goes to the server of the page itself."""
    page = await open_page()
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("websocket", lambda socket: requests.append(socket.url))
    await page.reload()
    await all_connected(page)
    assert len(requests) > 10
    own = (server.url, server.url.replace("http", "ws"), "data:")
    assert [url for url in requests if not url.startswith(own)] == []


async def test_notification_appears_in_every_tab(open_page):
    """The notification names the tab that sent it."""
    one, other = await open_page(), await open_page()
    await say(one, "notifications-text", "lunch is ready")
    arrived = other.locator("#notifications-log .entry")
    await expect(arrived).to_contain_text(f"From {await name_of(one)} lunch is ready")


async def test_system_socket_echoes(open_page):
    """The log has both the typed line and the echo."""
    page = await open_page()
    await say(page, "system-text", "anybody?")
    await expect(entry(page, "system-log", "echo: anybody?")).to_have_count(1)
    assert "you: anybody?" in await shown(page, "system-log")


async def test_room_is_entered_and_left(open_page):
    """Other members see it, and nothing can be typed without a room."""
    one, other = await open_page(), await open_page()
    await expect(one.locator("#room-text")).to_be_disabled()
    await join(one, "corner")
    await join(other, "corner")
    await say(other, "room-text", "made it")
    await expect(one.locator("#room-log")).to_contain_text("made it")
    await activate(other, "room-toggle")
    await expect(other.locator("#room-status")).to_have_text("disconnected")
    await expect(one.locator("#room-log .entry").last).to_contain_text(" left")


@pytest.mark.parametrize(
    "room", ["two words", "a/b", "crème brûlée", "☕ 日本", "50% & #1?", "x joined y", ".."]
)
async def test_room_may_have_any_name(open_page, room):
    """Both tabs get into the room that was typed, and read each other there."""
    one, other = await open_page(), await open_page()
    await join(one, room)
    await expect(entry(one, "room-log", f"{await name_of(one)} joined {room}")).to_have_count(1)
    await join(other, f"  {room} ")
    await say(other, "room-text", "made it")
    await expect(entry(one, "room-log", "made it")).to_have_count(1)
    assert await shown(one, "room-log") == [
        f"{await name_of(one)} joined {room}",
        f"{await name_of(other)} joined {room}",
        f"{await name_of(other)}: made it",
    ]


async def test_room_that_is_refused_says_why_and_is_not_tried_again(open_page):
    """The reason of the close frame is in the log, and the name can be changed."""
    page = await open_page()
    await say(page, "room-name", "x" * 100)
    await expect(page.locator("#room-log")).to_contain_text("is too long: 94 letters or digits fit")
    await expect(page.locator("#room-status")).to_have_text("disconnected")
    await join(page, "x" * 94)


async def test_bar_of_a_job_reaches_the_end_and_its_result_shows(open_page):
    """Only the tab that asked shows the job."""
    one, other = await open_page(), await open_page()
    job = await run_job(one, "translate", "hello apple")
    await expect(job).to_have_attribute("data-state", "finished")
    await expect(job.locator("progress")).to_have_js_property("value", 100)
    await expect(job.locator(".percent")).to_have_text("100 %")
    await expect(job.locator(".outcome")).to_have_text("ellohay appleway")
    await expect(other.locator(".job")).to_have_count(0)


async def test_job_that_fails_says_so(open_page):
    """The page says so in words, not only by colour."""
    page = await open_page()
    job = await run_job(page, "analyze", "?!")
    await expect(job.locator(".job-state")).to_have_text("failed")
    await expect(job.locator(".outcome")).to_have_text("ValueError: there is no word in '?!'")


async def test_messages_of_the_outside_script_appear(open_page, server):
    """The messages appear over all four layers, and in the chart."""
    page = await open_page()
    done = await asyncio.to_thread(
        run_module,
        *("sandbox.external_sender", "--count", "1", "--interval", "0.1", "--rounds", "2"),
        redis_url=server.redis_url,
    )
    assert done.returncode == 0, done.stderr
    for name, text in (
        ("chat", "script: hello from outside the server"),
        ("reliable", "script: This line waits for you if you are disconnected"),
        ("notifications", "version 2.0 is live"),
        ("chat", "script: maintenance tonight, sent over three layers"),
        ("reliable", "script: maintenance tonight, sent over three layers"),
        ("chat", "script: announcement 1 of 1"),
        ("reliable", "script: announcement 1 of 1"),
    ):
        await expect(page.locator(f"#{name}-log .entry", has_text=text)).to_have_count(1)
    for kind in ("user_login", "page_view", "button_click", "session_duration", "error"):
        await expect(page.locator(f"#analytics-log .entry:has-text('{kind}')")).not_to_have_count(0)
        await expect(page.locator(f'#analytics-chart [data-series="{kind}"]')).not_to_have_count(0)
    # Events still in transit would be counted by the pages of the next test.
    events = page.locator("#analytics-log .entry:not(:has-text('started'))")
    await expect(events).to_have_count(11)
    await expect(page.locator("#rate-counted")).to_have_text("11")


async def test_button_sends_an_analytics_event_that_the_chart_counts(open_page):
    """The chart in every tab counts it."""
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
    """Every socket waits, reconnects and works as before; the reliable chat has missed nothing."""
    one, other = await open_page(), await open_page()
    await join(one, "harbour")
    # The pause must not end too soon.
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
    await expect(one.locator("#chats-send")).to_be_disabled()
    await expect(one.locator("#chats-text")).to_have_value("kept in the field")
    async with layer_table(server.redis_url)["queue"]["layer"] as layer:
        message = reliable_line("script: said while there was no server")
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
    """No panel turns it into an element or runs a script in it."""
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
    """The oldest entries are removed first."""
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
    """No content is cut off at the side."""
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
    """The test saves it for the README."""
    page, other = await open_page(), await open_page()
    # In a separate tab, because it takes the focus away from typing.
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
    await expect(page.locator("#reliable-log")).to_contain_text("announcement 1 of 1")
    running = await run_job(page, "generate", "a small town by the sea")
    await expect(running.locator(".outcome")).to_have_text(re.compile("draft [2-6]"))
    picture = Path(os.environ["SHOWCASE_SCREENSHOT"])
    await page.evaluate("document.activeElement.blur()")
    await page.bring_to_front()
    await page.screenshot(path=picture, full_page=True)
    assert os.path.getsize(picture) > 50_000  # noqa: ASYNC240, PTH202 - a moment


async def events(page, seconds: float) -> None:
    """Yield realistic traffic: rising and falling, with some kinds more often than others."""
    kinds = ["page_view"] * 5 + ["button_click"] * 3 + ["user_login", "session_duration", "error"]
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while loop.time() < end:
        await page.locator("#analytics-event").select_option(random.choice(kinds))
        await activate(page, "analytics-send")
        await asyncio.sleep(random.choice([0.02, 0.05, 0.1, 0.1, 0.2, 0.6]))
