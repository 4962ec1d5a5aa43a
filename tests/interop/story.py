"""A generation whose reader is cut off again and again, and the count of what that reader got."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, NamedTuple

import httpx2
import msgspec
from starlette.datastructures import Headers, QueryParams
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.conftest import Serving
from unspool import Event, Generation, GenerationManager
from unspool.http import StartRequest, StreamOptions, create_app
from unspool.http.stream import position_of
from unspool.testing.proxy import Faults, Proxy

STREAM = "conversation 7"
PATH = "/v1/streams/conversation%207/events"
TYPES = ("text.delta", "reasoning.delta", "tool.result", "custom", "completed")
CUTS = 25
LATE = 3  # more cuts, after the run has no more reason to wait for them: some of them hit what has ended
EVENTS = 350
RETRY = 5  # milliseconds; clients that have no back-off of their own come back after these

AHEAD = 10_000
"""No connection carries more bytes than this, and the log is never much further ahead of its reader."""
HEAD = 500
"""No head of an answer is longer than this."""
AWAY = 500
"""How far ahead it gets while nobody reads."""

WORDS = (
    " the",
    " river",
    " naïve",
    " 日本語",
    " 🧵👩‍👩‍👧",
    "\n\n",
    " data: id: 9-9",
    " \u2028",
    "\t",
    "\r\n",
    '"\\',
    " {}",
)

Through = Callable[[int], AbstractAsyncContextManager[int]]
"""Something that stands before a port of this machine, such as a reverse proxy: gives the port that it listens on."""


class Got(NamedTuple):
    """An event as a client delivered it: position, type, data."""

    id: str
    type: str
    data: Any


class Returns:
    """The position of each request for events, as the server gets them."""

    def __init__(self) -> None:
        self.positions: list[int] = []
        self._changed = asyncio.Event()

    def note(self, position: int) -> None:
        self.positions.append(position)
        self._changed.set()

    async def reach(self, count: int) -> None:
        """Wait until there were so many."""
        while len(self.positions) < count:
            self._changed.clear()
            await self._changed.wait()


class Watch:
    """The middleware that notes them."""

    def __init__(self, app: ASGIApp, returns: Returns) -> None:
        self._app = app
        self._returns = returns

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and scope["path"].endswith("/events"):
            position = position_of(Headers(scope=scope), QueryParams(scope["query_string"]))
            self._returns.note(position.after)
        await self._app(scope, receive, send)


def events(random: Random) -> Iterator[Event]:
    """Mostly small deltas, at times something of several kilobytes. Neighbours never merge: the k-th has offset k."""
    for number in itertools.count(1):
        part = "ab"[number % 2]
        size = random.randint(1, 4) if random.random() < 0.94 else random.randint(150, 400)
        text = "".join(random.choices(WORDS, k=size))
        match random.randint(0, 9):
            case 0:
                yield Event("custom", {"name": "n", "value": [number, text, None, 1.5, {"é": True}]})
            case 1:
                yield Event("reasoning.delta", {"text": text, "part_id": part})
            case 2:
                yield Event("tool.result", {"call_id": f"c{number}", "output": {"text": text}})
            case _:
                yield Event("text.delta", {"text": text, "part_id": part})


class Story:
    """The generation: it goes on until its reader was cut off often enough, and stays a few kilobytes ahead of it.

    No clock decides: the run waits for its reader, and knows the position with which that came back. So every cut hits
    a generation that runs, and every connection gets something old and something new.
    """

    def __init__(self, manager: GenerationManager, *, seed: int, cuts: int, least: int, ahead: int) -> None:
        self.manager = manager
        self.returns = Returns()
        self.written: list[Got] = []
        self.live_cuts = 0
        self.url = ""
        self.page = ""
        self.proxy = Proxy(0)
        self._random = Random(seed)
        self._cuts = cuts
        self._least = least
        self._most = ahead
        self._ends = [0]  # bytes of JSON up to each offset

    async def run(self, gen: Generation) -> None:
        for event in events(self._random):
            if len(self.written) >= self._least and self.proxy.cuts >= self._cuts:
                break
            while self.proxy.cuts < self._cuts and self._ahead >= (self._most if self._followed else AWAY):
                await asyncio.sleep(0.002)
            await gen.emit_event(event)
            self.written.append(Got(f"{gen.generation}-{len(self.written) + 1}", event.type, event.data))
            self._ends.append(self._ends[-1] + len(msgspec.json.encode(event.data)))
            await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.003)))
        self.live_cuts = self.proxy.cuts

    @property
    def _followed(self) -> bool:
        return self.manager.statistics()["viewers"] > 0

    @property
    def _ahead(self) -> int:
        return self._ends[-1] - self._ends[max(self.returns.positions, default=0)]

    async def verdict(self, client: str, got: Sequence[Got]) -> str:
        """One line of counts. Raises AssertionError unless the client got exactly what was written, and its end."""
        assert got, f"{client} got nothing"
        assert got[-1].type == "completed", f"{client} gave up at {got[-1].id}, after {self.proxy.cuts} cuts"
        last = len(self.written)
        end = [record async for record in self.manager.follow(STREAM, after=last)]
        truth = [*self.written, *(Got(f"1-{record.offset}", record.type, record.data) for record in end)]
        offsets = [int(event.id.partition("-")[2]) for event in got]
        lost = len({event.id for event in truth} - {event.id for event in got})
        repeated = len(offsets) - len(set(offsets))
        disordered = sum(a > b for a, b in itertools.pairwise(offsets))
        line = (
            f"{client}: {self.proxy.connections} connections, {self.proxy.cuts} cuts ({self.live_cuts} while it ran), "
            f"{len(truth)} events, {lost} lost, {repeated} repeated, {disordered} out of order"
        )
        assert (lost, repeated, disordered) == (0, 0, 0), line
        assert text_of(got) == text_of(self.written), line
        assert list(got) == truth, line
        assert self.live_cuts >= self._cuts, line
        assert len(set(self.returns.positions)) > self._cuts // 3, line
        return line


def text_of(got: Sequence[Got]) -> str:
    return "".join(event.data["text"] for event in got if event.type == "text.delta")


def port_of(client: httpx2.AsyncClient) -> int:
    """The port of the server that this is a client of."""
    assert client.base_url.port is not None
    return client.base_url.port


async def _nothing(gen: Generation, request: StartRequest) -> None:
    raise AssertionError("nothing is started over HTTP here")


@asynccontextmanager
async def cut_off(
    serving: Serving,
    *,
    seed: int,
    cuts: int = CUTS,
    least: int = EVENTS,
    whole: int = 1,
    ahead: int = AHEAD,
    nearer: Through | None = None,
    farther: Through | None = None,
) -> AsyncGenerator[Story, None]:
    """A story under way, behind a proxy that cuts every connection at a random byte, tears what it lets through, and
    holds some of it up. `whole`, `ahead`: bytes that each connection carries at least and at most. `nearer`, `farther`:
    what else stands on the client's and on the server's side of that proxy.
    """
    manager = GenerationManager()
    story = Story(manager, seed=seed, cuts=cuts, least=least, ahead=ahead)
    app = create_app(manager, run=_nothing, stream_options=StreamOptions(retry=RETRY))
    app.add_middleware(Watch, returns=story.returns)
    # A page of one origin that follows from another, as where the API has a host of its own.
    app.add_middleware(CORSMiddleware, allow_origin_regex=r"http://127\.0\.0\.1:\d+", allow_headers=["last-event-id"])
    faults = Faults(seed=seed, cut_after=(whole, ahead), cuts=cuts + LATE, split=True, stall=(0.3, 0.03))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(app))
        story.page = str(server.base_url).rstrip("/")
        port = port_of(server)
        if farther is not None:
            port = await stack.enter_async_context(farther(port))
        story.proxy = await stack.enter_async_context(Proxy(port, faults))
        port = story.proxy.port
        if nearer is not None:
            port = await stack.enter_async_context(nearer(port))
        story.url = f"http://127.0.0.1:{port}"
        await manager.start(STREAM, story.run)
        yield story
