"""An answer outlives the page: reload, second tab, closed tab, cut connection, lost server, Stop."""

from __future__ import annotations

import re
from typing import Any

import pytest

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: pip install playwright")
expect = playwright.expect

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

RESUMED = re.compile(r"^resumed at offset [1-9][0-9]*$")


def plain(paragraphs: list[str]) -> list[str]:
    """Without the marks of bold and code, which a reader sees where they were never closed."""
    return [re.sub(r"[*`]", "", paragraph).strip() for paragraph in paragraphs]


def last(tab: Any) -> Any:
    return tab.page.locator(".turn:last-child .answer")


async def reaches(tab: Any, line: int) -> None:
    await expect(last(tab)).to_contain_text(f"Line {line} of")


async def ends(tab: Any, status: str = "complete") -> None:
    await expect(last(tab)).to_have_attribute("data-status", status)


async def assert_exact(tab: Any, status: str = "complete") -> str:
    """The page shows what the server has, to the character. The text."""
    state = await tab.state()
    assert state["status"] == status
    assert await tab.kept_text() == state["text"]
    assert plain(await tab.paragraphs()) == plain(state["text"].split("\n\n"))
    return state["text"]


async def test_reload_continues_the_same_answer(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    await reaches(tab, 5)
    await tab.page.reload()
    await expect(tab.page.locator(".resumed")).to_have_text(RESUMED)
    offset = int((await tab.page.locator(".resumed").text_content()).rpartition(" ")[2])
    assert offset > 30, "it must not begin from nothing"
    await tab.let_continue()
    await ends(tab)
    assert "Line 40 of" in await assert_exact(tab)
    assert (await tab.state())["generation"] == 1
    assert await tab.page.locator(".turn").count() == 1


async def test_reload_again_and_again(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    for line in (3, 9, 15, 21):
        await reaches(tab, line)
        await tab.page.reload()
        await expect(tab.page.locator(".resumed")).to_have_text(RESUMED)
    await tab.let_continue()
    await ends(tab)
    await assert_exact(tab)


async def test_application_may_name_the_message_itself(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("renamed answer")
    await reaches(tab, 3)
    await tab.page.reload()
    await expect(tab.page.locator(".resumed")).to_have_text(RESUMED)
    await tab.page.click("#stop")
    await ends(tab, "aborted")
    await assert_exact(tab, "aborted")
    await expect(tab.page.locator(".turn")).to_have_count(1)


async def test_reload_after_the_end_shows_the_same_from_memory(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("markdown")
    await ends(tab)
    before = await last(tab).locator(".prose").inner_html()
    await tab.page.reload()
    await ends(tab)
    assert await last(tab).locator(".prose").inner_html() == before


async def test_second_tab_follows_live(server, open_tab) -> None:
    first = await open_tab(server.url)
    await first.ask("held answer")
    await reaches(first, 4)
    second = await open_tab(first.page.url, beside=first)
    await expect(second.page.locator(".turn .bubble").first).to_have_text("held answer")
    await expect(second.page.locator(".resumed")).to_have_text(RESUMED)
    await expect(second.page.locator("#connection")).to_have_attribute("data-state", "live")
    await first.let_continue()
    await ends(first)
    await ends(second)
    assert await assert_exact(first) == await assert_exact(second)


async def test_another_device_sees_question_and_answer(server, open_tab) -> None:
    first = await open_tab(server.url)
    await first.ask("held answer")
    await reaches(first, 4)
    other = await open_tab(first.page.url)  # another profile: nothing stored
    await expect(other.page.locator(".bubble")).to_have_text("held answer")
    await first.let_continue()
    await ends(other)
    await assert_exact(other)


async def test_open_tab_notices_a_turn_of_another(server, open_tab) -> None:
    first = await open_tab(server.url)
    second = await open_tab(first.page.url, beside=first)
    await expect(second.page.locator("#connection")).to_have_attribute("data-state", "ready")
    await first.ask("held answer")
    await reaches(second, 2)
    await expect(second.page.locator("#stop")).to_be_visible()
    await second.page.click("#stop")
    await ends(first, "aborted")
    await ends(second, "aborted")
    assert await assert_exact(first, "aborted") == await assert_exact(second, "aborted")


async def test_stop_keeps_the_partial_answer(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    await reaches(tab, 3)
    await tab.page.click("#stop")
    await expect(last(tab).locator(".end")).to_have_text("Stopped")
    text = await assert_exact(tab, "aborted")
    assert "Line 3 of" in text
    assert "Line 40 of" not in text
    await expect(tab.page.locator("#send")).to_be_visible()
    await tab.page.reload()
    await expect(last(tab).locator(".end")).to_have_text("Stopped")
    assert plain(await tab.paragraphs()) == plain(text.split("\n\n"))


async def test_closed_tab_does_not_stop_the_run(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    await reaches(tab, 2)
    other = await open_tab("about:blank", beside=tab)
    url = tab.page.url
    await tab.page.close()
    await other.page.goto(url)
    await other.let_continue()
    await ends(other)
    assert "Line 40 of" in await assert_exact(other)


async def test_cut_connections_lose_nothing(server, proxy, open_tab) -> None:
    tab = await open_tab(proxy.url)
    await tab.ask("held answer")
    for line in (2, 8, 14, 20):
        await reaches(tab, line)
        proxy.cut_all()
    await expect(tab.page.locator(".resumed")).to_have_text(RESUMED)
    await tab.let_continue()
    await ends(tab)
    await assert_exact(tab)


async def test_unreachable_server_is_shown_and_tried_again(server, proxy, open_tab) -> None:
    tab = await open_tab(proxy.url)
    await tab.ask("held answer")
    await reaches(tab, 2)
    proxy.refusing = True
    proxy.cut_all()
    await expect(tab.page.locator("#connection")).to_have_text(re.compile(r"^reconnecting in \d+ s$"))
    proxy.refusing = False
    await tab.let_continue()
    await ends(tab)
    await assert_exact(tab)


async def test_offline_and_back(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("stall")
    await expect(last(tab)).to_contain_text("Some words")
    await tab.page.context.set_offline(True)
    await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "offline")
    await tab.page.context.set_offline(False)
    await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "live")
    await tab.page.click("#stop")
    await ends(tab, "aborted")


async def test_server_that_lost_everything(start_server, open_tab) -> None:
    server = await start_server()
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    await reaches(tab, 4)
    await server.kill()
    await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "waiting")
    await server.start()
    await ends(tab, "lost")
    await expect(last(tab)).to_contain_text("Line 4 of")
    await last(tab).get_by_role("button", name="Try again").click()
    await tab.let_continue()
    await ends(tab)
    await assert_exact(tab)


async def test_message_is_sent_once_however_often_it_is_tried(server, proxy, open_tab) -> None:
    tab = await open_tab(proxy.url)
    await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "ready")
    proxy.refusing = True
    proxy.cut_all()
    await tab.ask("hello there")
    await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "waiting")
    proxy.refusing = False
    await ends(tab)
    assert (await tab.state())["generation"] == 1
    await expect(last(tab)).to_contain_text("You said: hello there")


async def test_two_tabs_that_ask_at_once_do_not_replace_each_other(server, open_tab) -> None:
    first = await open_tab(server.url)
    second = await open_tab(first.page.url)  # another profile: it hears nothing of the first
    await expect(second.page.locator("#connection")).to_have_attribute("data-state", "ready")
    await first.ask("held answer")
    await reaches(first, 2)
    await second.ask("hello there")
    await expect(second.page.locator(".problem-box")).to_contain_text("asked first")
    await first.let_continue()
    await ends(first)
    assert (await first.state())["generation"] == 1
