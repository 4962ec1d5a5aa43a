"""Clients in Chromium through a bad network: the browser's own EventSource, and our client in a page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import Serving
from tests.interop.story import AHEAD, HEAD, PATH, STREAM, TYPES, Got, Story, cut_off, port_of
from unspool import Generation, GenerationManager
from unspool.http import StartRequest, StreamOptions, create_app
from unspool.testing.proxy import Proxy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="session"),
]
Tell = Callable[[str], None]
HANG = 120_000
"""Milliseconds after which a wait counts as a hang."""

# Nobody closes it: it comes back after the terminal event too, and must be told for good that there is no more.
EVENT_SOURCE = """
([address, types]) => new Promise((resolve) => {
  const got = [];
  const source = new EventSource(address);
  for (const type of types)
    source.addEventListener(type, ({ lastEventId, data }) => got.push([lastEventId, type, JSON.parse(data)]));
  source.onmessage = () => got.push(['', 'message', null]);
  source.onerror = () => source.readyState === EventSource.CLOSED && resolve(got);
})
"""
OUR_CLIENT = """
async ([url, streamId]) => {
  const { Client } = await import('/static/client/index.js');
  const got = [];
  for await (const { generation, offset, type, data } of new Client(url).follow(streamId))
    got.push([`${generation}-${offset}`, type, data]);
  return got;
}
"""


@asynccontextmanager
async def page_of(story: Story, browser: Any) -> AsyncGenerator[Any, None]:
    """An empty page of the server's own origin; what it follows comes through the proxy, which is another."""
    context = await browser.new_context()
    context.set_default_timeout(HANG)
    page = await context.new_page()
    await page.goto(f"{story.page}/healthz")
    yield page
    await context.close()


async def test_event_source(serving: Serving, browser: Any, tell: Tell) -> None:
    """Chromium's EventSource, which stops by itself once the server says that nothing follows.

    Heads of answers stay whole. Over plain HTTP, Chromium takes one that was cut for whole, and an EventSource gives up
    for good where the type is missing; over TLS it knows better.
    """
    async with cut_off(serving, seed=8, whole=HEAD) as story, page_of(story, browser) as page:
        got = await page.evaluate(EVENT_SOURCE, [story.url + PATH, list(TYPES)])
        tell(await story.verdict("EventSource in Chromium", [Got(*event) for event in got]))


async def test_our_client(serving: Serving, browser: Any, tell: Tell) -> None:
    """`unspool-client`, as the chat page loads it.

    When a connection breaks, Chromium drops what it has received of it and the page has not read yet. It is asked for
    again, but where every connection dies at once a page does not get far; so these last a little longer.
    """
    async with cut_off(serving, seed=9, ahead=2 * AHEAD) as story, page_of(story, browser) as page:
        got = await page.evaluate(OUR_CLIENT, [story.url, STREAM])
        tell(await story.verdict("unspool-client in Chromium", [Got(*event) for event in got]))


class Beheading(Proxy):
    """Cuts the next head of an answer that has this in it, with a clean end, after `after` bytes."""

    after = 0
    marked = b""

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if self.marked and self.marked in data:
                self.marked = b""
                self.cuts += 1
                writer.write(data[: self.after])
                return
            writer.write(data)


FOLLOW = """
async (streamId) => {
  const { Client } = await import('/static/client/index.js');
  const got = [];
  for await (const { type } of new Client().follow(streamId)) got.push(type);
  return got;
}
"""
STATUS = """
async (streamId) => {
  const { Client } = await import('/static/client/index.js');
  return (await new Client().status(streamId)).text;
}
"""
# In the version, the status, the date and the type; the last is behind them.
PLACES = (4, 11, 40, 70, 90)


async def test_our_client_and_heads_that_are_cut(serving: Serving, browser: Any) -> None:
    """Over plain HTTP, Chromium takes a head that was cut for a whole one; our client does not."""

    async def run(gen: Generation, request: StartRequest) -> None:
        await gen.text("word")

    app = create_app(GenerationManager(), run=run, stream_options=StreamOptions(retry=1))
    async with serving(app) as server:
        proxy = Beheading(port_of(server))
        await server.post("/v1/streams/s/generations", json={"messages": [{"role": "user", "content": "hi"}]})
        context = await browser.new_context()
        context.set_default_timeout(HANG)
        page = await context.new_page()
        async with proxy:
            await page.goto(f"{proxy.url}/healthz")
            for proxy.after in PLACES:
                proxy.marked = b"\r\ncontent-type: text/event-stream"
                assert await page.evaluate(FOLLOW, "s") == ["text.delta", "completed"], proxy.after
                proxy.marked = b"\r\ncontent-type: application/json"
                assert await page.evaluate(STATUS, "s") == "word", proxy.after
            assert proxy.cuts == 2 * len(PLACES)
        await context.close()
