"""What every server under measurement does alike: take orders from standard input, stream what a model would.

One JSON object per line in, one per line out. First the server says its port and version; then it obeys:

    {"do": "prepare", "streams": 500, "events": 200, "rate": 0, …}    make the streams s-1 … s-n: see Plan
    {"do": "go"}          let the model begin; answered at once
    {"do": "wait"}        answered when every event has been emitted
    {"do": "collect"}     collect garbage
    {"do": "local", "events": 100000, "merge": true}    one job, one subscriber in this process: seconds
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PART = "msg_0190d9a7c3b2"
STEPS = ("step_7f3c9a51", "step_8a4d0b62")
PARTS = ("p0", "p1")
LONG = '{"part_id":"p1","text":"%s"}'
SHORT = '{"part_id":"p1","text":"%s","step":"%s","agent":"assistant","group":"main-0190d9a7c3b24f65a1b8e93f2"}'
MARKS = {"agent": "assistant", "group": "main-0190d9a7c3b24f65a1b8e93f2"}
"""One event is 135 bytes of JSON, a text delta: mostly text, or a short one with marks. Both hold a stamp."""

TURN = 256
"""Events after which an in-process producer lets its subscriber run."""


def _fillers(count: int, length: int) -> list[str]:
    """Words that look like prose to whoever compresses them; `worker.mjs` makes the same."""
    words = json.loads(Path(__file__).with_name("words.json").read_text())
    seed = 1
    found: list[str] = []
    for _ in range(count):
        text = ""
        while len(text) < length:
            seed = (seed * 1103515245 + 12345) & 0x7FFFFFFF
            text += " " + words[(seed >> 16) % len(words)]
        found.append(text[:length])
    return found


FILLERS = _fillers(1024, 84)


def _padding(length: int) -> str:
    """So much of that prose."""
    prose = "".join(FILLERS)
    return (prose * (length // len(prose) + 1))[:length] if length > 0 else ""


@dataclass(frozen=True, slots=True)
class Plan:
    """`rate`: events per second and stream, 0 for as fast as the loop turns. `seal`: streams end after their events;
    else they stay open. `short`: short texts with marks that keep neighbours from merging. `viewed`: each stream has
    its first viewer before it begins. `size`: characters of each text instead, at least those of a stamp; neighbours do
    not merge then. `name`: the streams are called so, for those that share a store; only unspool's server heeds it."""

    streams: int
    events: int
    rate: float = 0.0
    seal: bool = True
    short: bool = False
    viewed: bool = True
    size: int = 0
    name: str = "s"


def stamp(number: int) -> str:
    """What the load client looks for: the time of emission and the event's number."""
    return f"@{time.monotonic_ns() // 1000:016}#{number:07}"


def text_of(number: int) -> str:
    """A text as an in-process subscriber gets it, which looks for no stamp."""
    return "@0000000000000000#0000000" + FILLERS[number & 1023]


def event_of(number: int) -> str:
    """The same as JSON."""
    return LONG % text_of(number)


class Source:
    """The model: for each stream its events, one per turn of the loop, or at a rate, the streams out of step."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ended = asyncio.Event()
        self._go = asyncio.Event()
        self._begun = 0.0
        self._running = plan.streams
        self._fillers = [_padding(plan.size - len(stamp(0)))] if plan.size else [""] if plan.short else FILLERS

    def go(self) -> None:
        self._begun = asyncio.get_running_loop().time()
        self._go.set()

    async def texts(self, stream: int) -> AsyncGenerator[tuple[int, str], None]:
        """The number and the text of each event of a stream."""
        plan, fillers = self.plan, self._fillers
        last = len(fillers) - 1
        await self._go.wait()
        loop = asyncio.get_running_loop()
        pace = 1 / plan.rate if plan.rate else 0.0
        due = self._begun + pace * stream / plan.streams
        for number in range(1, plan.events + 1):
            if pace:
                due += pace
                await asyncio.sleep(due - loop.time())
            else:
                await asyncio.sleep(0)
            yield number, stamp(number) + fillers[(number + stream * 7) & last]
        self._running -= 1
        if not self._running:
            self.ended.set()

    async def events(self, stream: int) -> AsyncGenerator[str, None]:
        """The same as JSON."""
        short = self.plan.short
        async for number, text in self.texts(stream):
            yield SHORT % (text, STEPS[number & 1]) if short else LONG % text


class Server(Protocol):
    """What each peer implements."""

    version: str

    async def serve(self) -> int:
        """Start the HTTP server. Returns its port."""
        ...

    async def prepare(self, source: Source) -> None:
        """Make the streams of the source's plan, so that they can be viewed before they begin."""
        ...

    async def local(self, events: int, merge: bool) -> None:
        """One job, one subscriber in this process, until it has the last event."""
        ...


async def _lines() -> AsyncGenerator[dict[str, Any], None]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def _say(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


async def _obey(server: Server) -> None:
    _say(port=await server.serve(), version=server.version)
    source: Source | None = None
    async for order in _lines():
        match order.pop("do"):
            case "prepare":
                source = Source(Plan(**order))
                await server.prepare(source)
                _say()
            case "go" if source is not None:
                _say()
                source.go()
            case "wait" if source is not None:
                await source.ended.wait()
                _say()
            case "collect":
                gc.collect()
                _say()
            case "local":
                begun = time.perf_counter()
                await server.local(**order)
                _say(seconds=time.perf_counter() - begun)
            case other:
                raise SystemExit(f"what is {other!r}?")


def main(server: Server) -> None:
    """Obey until standard input ends."""
    import uvloop

    uvloop.run(_obey(server))


def listener() -> socket.socket:
    """A listening socket on a free port of this machine."""
    return socket.create_server(("127.0.0.1", 0), backlog=2048)


async def serve_asgi(app: Any) -> int:
    """uvicorn at its fastest: uvloop, httptools, no log, no headers of its own. Returns its port."""
    import uvicorn

    config = uvicorn.Config(
        app, interface="asgi3", http="httptools", ws="none", lifespan="off", log_level="warning", access_log=False,
        server_header=False, date_header=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    taken = listener()
    keep(server.serve(sockets=[taken]))
    while not server.started:
        await asyncio.sleep(0.01)
    return taken.getsockname()[1]


_kept: set[asyncio.Task[Any]] = set()


def keep(coroutine: Any) -> None:
    """Run it beside the rest; nobody waits for it."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _kept.add(task)
    task.add_done_callback(_kept.discard)
