"""What the page shows, and how it is used: hostile answers, tools, errors, keyboard, phone, colours, token."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from tests.waiting import HANG

playwright = pytest.importorskip("playwright.async_api", reason="needs playwright: pip install playwright")
expect = playwright.expect

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PHONE = {"viewport": {"width": 375, "height": 720}, "is_mobile": True, "has_touch": True}


def last(tab: Any) -> Any:
    return tab.page.locator(".turn:last-child .answer")


async def ends(tab: Any, status: str = "complete") -> None:
    await expect(last(tab)).to_have_attribute("data-status", status)


async def colour(tab: Any) -> str:
    return await tab.page.evaluate("getComputedStyle(document.body).backgroundColor")


async def test_markup_in_an_answer_has_no_effect(server, open_tab) -> None:
    tab = await open_tab(server.url)
    requests: list[str] = []
    tab.page.on("request", lambda request: requests.append(request.url))
    await tab.ask("attack <img src=x onerror='window.pwned=40'>")
    await ends(tab)
    for _ in range(2):
        assert await tab.page.evaluate("window.pwned") is None
        turns = tab.page.locator("#turns")
        assert await turns.locator("img, script, iframe, svg:not(.icon), style, object").count() == 0
        assert await turns.locator("[onerror], [onload], [onmouseover], [style]").count() == 0
        links = await turns.locator("a").evaluate_all("all => all.map(a => [a.protocol, a.rel, a.target])")
        assert links
        assert all(protocol in {"http:", "https:", "mailto:"} for protocol, _, _ in links)
        assert all("noopener" in rel and target == "_blank" for _, rel, target in links)
        assert "<img src=x" in await last(tab).locator(".prose").inner_text()
        # The same from what the browser kept.
        await tab.page.reload()
        await ends(tab)
    assert all(url.startswith(server.url) for url in requests)


async def test_page_may_not_run_anything_but_its_own_files(server, open_tab) -> None:
    tab = await open_tab(server.url)
    response = await tab.page.context.request.get(server.url)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_tools_and_reasoning_are_shown(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("tools stall")
    tools = tab.page.locator(".tool")
    await expect(tools).to_have_count(3)
    await expect(tools.nth(0)).to_have_attribute("data-status", "done")
    await expect(tools.nth(1)).to_have_attribute("data-status", "failed")
    await expect(tools.nth(2)).to_have_attribute("data-status", "running")
    await expect(tools.nth(1)).to_contain_text("The forecast service did not answer in time.")
    await expect(tools.nth(2)).to_contain_text("https://example.org")
    await expect(tab.page.locator("#title")).to_have_text("Weather and words")
    await tools.nth(0).locator("summary").click()
    await expect(tools.nth(0)).to_contain_text('"temperature": 21')
    await tab.page.locator(".reasoning summary").click()
    await expect(tab.page.locator(".reasoning .card-body")).to_contain_text("First the outline")
    source = tab.page.get_by_role("link", name="Weather today")
    await expect(source).to_have_attribute("href", "https://example.org/weather")
    assert await tab.page.get_by_role("link", name="A bad source").count() == 0
    await tab.page.click("#stop")
    await ends(tab, "aborted")
    await expect(tools.nth(2)).to_have_attribute("data-status", "ended")


async def test_reasoning_is_open_while_it_is_written(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("think")
    await expect(tab.page.locator(".reasoning[open] .card-body")).to_contain_text("an example")
    await expect(tab.page.locator(".reasoning summary")).to_contain_text("Thinking…")
    await tab.page.keyboard.press("Escape")
    await ends(tab, "aborted")
    await expect(tab.page.locator(".reasoning[open]")).to_have_count(0)


async def test_markdown_and_usage(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("markdown")
    await ends(tab)
    prose = last(tab).locator(".prose")
    await expect(prose.locator("h2")).to_have_text("A heading")
    await expect(prose.locator("ul > li > ol > li")).to_have_text(["nested", "list"])
    await expect(prose.locator("td strong")).to_have_text("14")
    await expect(prose.locator("pre code")).to_have_text("def reverse(items):\n    return items[::-1]")
    usage = "412 tokens in · 1,280 out · 96 of them reasoning · scripted"
    await expect(last(tab).locator(".usage")).to_have_text(usage)
    await expect(tab.page.locator("#note")).to_have_text("A scripted model answers here.")


async def test_failed_answer_says_why_and_can_be_asked_again(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("fail please")
    await ends(tab, "error")
    await expect(last(tab)).to_contain_text("It began well")
    await expect(last(tab).locator(".problem-box")).to_contain_text("The model is overloaded.")
    async with tab.page.expect_response("**/generations") as answered:
        await last(tab).get_by_role("button", name="Try again").click()
    assert (await (await answered.value).json())["generation"] == 2
    await ends(tab, "error")
    assert (await tab.state())["generation"] == 2
    assert len(await tab.kept()) == 1


async def test_conversation_goes_to_the_model(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("one")
    await ends(tab)
    async with tab.page.expect_request("**/generations") as started:
        await tab.ask("two")
    body = (await started.value).post_data_json
    assert [(message["role"], message["content"]) for message in body["messages"]] == [
        ("user", "one"), ("assistant", "You said: one"), ("user", "two"),
    ]  # fmt: skip


async def test_new_chat_and_back(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("one")
    await ends(tab)
    await tab.page.click("#new")
    await expect(tab.page.locator(".turn")).to_have_count(0)
    await expect(tab.page.locator("#empty")).to_be_visible()
    await tab.page.go_back()
    await expect(last(tab)).to_contain_text("You said: one")


async def test_keyboard_alone(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await expect(tab.page.locator("#input")).to_be_focused()
    keyboard = tab.page.keyboard
    await keyboard.type("held answer")
    await keyboard.press("Shift+Enter")
    await keyboard.type("in two lines")
    await keyboard.press("Enter")
    await expect(tab.page.locator(".bubble")).to_have_text("held answer\nin two lines")
    await expect(last(tab)).to_contain_text("Line 3 of")
    await keyboard.press("Escape")
    await expect(last(tab).locator(".end")).to_have_text("Stopped")
    await expect(tab.page.locator("#announcer")).to_have_text("Stopped.")
    await expect(tab.page.locator("#input")).to_be_focused()
    await keyboard.press("Shift+Tab")
    await expect(last(tab).get_by_role("button", name="Try again")).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert await tab.page.evaluate(outline) == "solid"
    await keyboard.press("Enter")
    await expect(last(tab)).to_have_attribute("data-status", "running")
    await expect(last(tab)).to_contain_text("Line 1 of")


async def test_controls_have_names(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("markdown")
    await ends(tab)
    nameless = await tab.page.locator("button:visible, textarea, a").evaluate_all(
        "all => all.filter(e => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length))"
        ".map(e => e.outerHTML)"
    )
    assert nameless == []


async def test_phone_has_no_horizontal_scroll(server, open_tab) -> None:
    tab = await open_tab(server.url, **PHONE)
    for question in ("wide " + "w" * 300, "tools", "markdown", "fail"):
        await tab.ask(question)
        await expect(last(tab)).to_have_attribute("data-status", re.compile("complete|error"))
        widths = await tab.page.evaluate(
            "[document.documentElement, document.body, document.getElementById('scroller')]"
            ".map(e => [e.scrollWidth, e.clientWidth])"
        )
        assert all(content <= room for content, room in widths), widths
    for button in await tab.page.locator("header button, #send").all():
        box = await button.bounding_box()
        assert min(box["width"], box["height"]) >= 32


async def becomes(tab, expression: str) -> None:
    """Wait until it is true in the page, whose own policy lets nobody evaluate text there again and again."""
    async with asyncio.timeout(HANG):
        while not await tab.page.evaluate(expression):
            await asyncio.sleep(0.02)


async def test_dark_and_light(server, open_tab) -> None:
    dark = await open_tab(server.url, color_scheme="dark")
    light = await open_tab(server.url, color_scheme="light")
    night, day = await colour(dark), await colour(light)
    assert night != day
    await light.page.get_by_role("button", name="Switch between dark and light").click()
    assert await colour(light) == night
    await light.page.reload()
    assert await colour(light) == night
    await light.page.get_by_role("button", name="Switch between dark and light").click()
    assert await colour(light) == day


async def test_reader_who_scrolled_up_is_left_alone(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    await expect(last(tab)).to_contain_text("Line 18 of")
    top = "document.getElementById('scroller').scrollTop"
    at_top = f"{top} === 0"
    await becomes(tab, f"!({at_top})")
    await tab.page.mouse.move(600, 400)
    # A browser turns smoothly, over many frames, and the page's own jump may have cut the first turn short.
    async with asyncio.timeout(HANG):
        while not await tab.page.evaluate(at_top):
            await tab.page.mouse.wheel(0, -2000)
            await asyncio.sleep(0.1)
    await expect(tab.page.locator("#jump")).to_be_visible()
    await expect(last(tab)).to_contain_text("Line 26 of")
    assert await tab.page.evaluate(at_top)
    await tab.page.click("#jump")
    await expect(tab.page.locator("#jump")).to_be_hidden()
    await tab.let_continue()
    await ends(tab)
    await becomes(tab, "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 4)(document.getElementById('scroller'))")


async def test_turn_of_the_wheel_outlives_the_pages_own_jump(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.ask("held answer")
    await expect(last(tab)).to_contain_text("Line 26 of")
    # The scroll event of the page's own jump arrives only after the wheel has been turned.
    jumped, stayed = await tab.page.evaluate(
        """async () => {
          const scroller = document.getElementById('scroller');
          scroller.scrollTop = scroller.scrollHeight;
          await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
          const jumped = document.getElementById('jump').hidden;
          scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: -100 }));
          scroller.dispatchEvent(new Event('scroll'));
          return [jumped, !document.getElementById('jump').hidden];
        }"""
    )
    assert jumped
    assert stayed


async def test_token_is_asked_for_and_used(start_server, open_tab) -> None:
    server = await start_server("--token", "secret-7")
    tab = await open_tab(server.url)
    await expect(tab.page.locator("#token-dialog")).to_be_visible()
    await tab.page.fill("#token", "wrong")
    await tab.page.keyboard.press("Enter")
    await tab.ask("hello")
    await expect(tab.page.locator("#token-text")).to_contain_text("not accepted")
    await tab.page.fill("#token", "secret-7")
    await tab.page.keyboard.press("Enter")
    await expect(last(tab)).to_contain_text("You said: hello")
    await tab.page.reload()
    await ends(tab)
    await expect(tab.page.locator("#token-dialog")).to_be_hidden()


async def test_broken_storage_does_not_break_the_page(server, open_tab) -> None:
    tab = await open_tab(server.url)
    await tab.page.evaluate("localStorage.setItem('unspool.chat.' + location.hash.slice(1), '{\"x\": [')")
    await tab.page.reload()
    await tab.ask("hello")
    await expect(last(tab)).to_contain_text("You said: hello")
