"""A server behind a proxy that cuts its clients, and a run that goes on until they were cut often enough.

Over memory it is one server; over Redis it is two replicas, and each connection goes to the other one than the last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any, Final

import httpx2

from tests.conftest import Serving
from unspool import Generation, GenerationManager
from unspool.http import StartRequest, StreamOptions, create_app
from unspool.testing.proxy import Faults, Proxy

CUTS: Final = 25
WORDS: Final = (
    " the",
    " river",
    " naïve",
    " 日本語",
    " 🧵👩‍👩‍👧",
    "\n\n",
    " data: id: 9-9",
    "\t",
    "\r\n",
    '"\\',
    " {}",
)
QUESTION: Final = "What does the river say?"
THOUGHT: Final = "Let me think about the river. Ünïcode too."
TOOL: Final[dict[str, Any]] = {"place": "Köln", "days": 3}
RESULT: Final[dict[str, Any]] = {"level": 3.45, "unit": "m"}
AWAY: Final = 40
"""Pieces that the run says while nobody is connected."""


class World:
    """`url`: through the cutting proxy; `direct`: one of the servers, uncut. `text`: all that the last run has said as
    text; `requests`: what the runs were started with."""

    def __init__(self, *, cuts: int, delay: float, least: int, seed: int, plain: bool) -> None:
        self.text = ""
        self.requests: list[StartRequest] = []
        self.managers: list[GenerationManager] = []
        self.ports: list[int] = []
        self.proxy = Proxy(0)
        self.cuts = cuts
        self.held = asyncio.Event()
        """Clear it to hold runs up in the middle; set, as it is at the beginning, they go on to their end."""
        self.held.set()
        self.half = asyncio.Event()
        """Set once a run has come to where `held` holds it up."""
        self._delay = delay
        self._least = least
        self._random = Random(seed)
        self._plain = plain

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def direct(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    async def run(self, gen: Generation, request: StartRequest) -> None:
        """Think, call a tool, speak until clients were cut off often enough, and tell the usage."""
        self.requests.append(request)
        self.text = ""
        if not self._plain:
            for word in THOUGHT.split(" "):
                await gen.reasoning(word + " ")
            await gen.tool_call("call_1", "level")
            await gen.emit("tool.args.delta", {"call_id": "call_1", "text": '{"place":"Köln",'})
            await gen.emit("tool.args.delta", {"call_id": "call_1", "text": '"days":3}'})
            await gen.tool_result("call_1", RESULT)
            await gen.emit("source", {"url": "https://example.org/river", "title": "River"})
        said = away = 0
        while said < self._least or self.proxy.cuts < self.cuts:
            away = 0 if self.proxy.open else away + 1
            if said < 20_000 and away < AWAY:
                piece = "".join(self._random.choices(WORDS, k=self._random.randint(1, 4)))
                await gen.text(piece)
                self.text += piece
                said += 1
            await asyncio.sleep(self._delay)
            if said == self._least // 2:
                self.half.set()
                await self.held.wait()
        await gen.usage("m1", provider="openai", model="m", input_tokens=11, output_tokens=said, reasoning_tokens=2)


@asynccontextmanager
async def world(
    serving: Serving,
    stores: Collection[str] = ("memory://",),
    *,
    cuts: int = CUTS,
    carried: tuple[int, int] = (300, 4000),
    seed: int = 7,
    delay: float = 0.003,
    least: int = 200,
    plain: bool = False,
    dialects: Collection[str] | None = None,
    heartbeat: float = 15.0,
) -> AsyncGenerator[World]:
    """A world whose proxy cuts `cuts` connections, each after it has carried so many bytes. `stores`: one URL for each
    replica. `plain`: the run speaks, and does nothing else."""
    made = World(cuts=cuts, delay=delay, least=least, seed=seed, plain=plain)
    async with AsyncExitStack() as stack:
        for url in stores:
            manager = GenerationManager.from_url(url)
            made.managers.append(manager)
            options = StreamOptions(retry=5, heartbeat=heartbeat)
            app = create_app(manager, run=made.run, dialects=dialects, stream_options=options, allowed_origins=["*"])
            client: httpx2.AsyncClient = await stack.enter_async_context(serving(app))
            assert client.base_url.port is not None
            made.ports.append(client.base_url.port)
        faults = Faults(seed=seed, cut_after=carried, cuts=cuts, split=True) if cuts else Faults(seed=seed, split=True)
        made.proxy = await stack.enter_async_context(Proxy(made.ports, faults))
        yield made
