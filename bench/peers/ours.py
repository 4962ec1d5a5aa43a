"""unspool: its own application on its own server, default options, in memory or (--redis URL) over Redis."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version

from bench.peers.worker import MARKS, PARTS, STEPS, TURN, Source, keep, main, text_of
from unspool import Generation, GenerationManager, Record
from unspool.http import StartRequest, create_app
from unspool.http.server import bind, server_for


class Ours:
    version = version("unspool")

    def __init__(self) -> None:
        url = sys.argv[2] if sys.argv[1:2] == ["--redis"] else "memory://"
        self._manager = GenerationManager.from_url(url)

    async def serve(self) -> int:
        async def unused(gen: Generation, request: StartRequest) -> None: ...

        listener = bind("127.0.0.1", 0)
        ready = asyncio.Event()
        server = server_for(create_app(self._manager, run=unused, page=False), ready=ready.set)
        keep(server.serve([listener]))
        await ready.wait()
        return listener.getsockname()[1]

    async def prepare(self, source: Source) -> None:
        for stream in range(1, source.plan.streams + 1):
            await self._manager.start(f"{source.plan.name}-{stream}", self._run(source, stream))

    def _run(self, source: Source, stream: int):
        plan = source.plan

        async def run(gen: Generation) -> None:
            if plan.size:
                async for number, text in source.texts(stream):
                    await gen.text(text, part_id=PARTS[number & 1])
            elif plan.short:
                async for number, text in source.texts(stream):
                    await gen.text(text, part_id="p1", step=STEPS[number & 1], **MARKS)
            else:
                async for _, text in source.texts(stream):
                    await gen.text(text)
            if not plan.seal:
                await gen.stopping.wait()

        return run

    async def local(self, events: int, merge: bool) -> None:
        async def run(gen: Generation) -> None:
            for number in range(1, events + 1):
                if merge:
                    await gen.text(text_of(number))
                else:  # neighbours of different parts never merge
                    await gen.text(text_of(number), part_id=f"p{number & 1}")
                if number % TURN == 0:
                    await asyncio.sleep(0)

        await self._manager.start("local", run)
        last: Record | None = None
        async for record in self._manager.follow("local"):
            last = record
        assert last is not None
        assert last.terminal
        content = await self._manager.snapshot("local")  # folded, every piece of it
        assert len(content.text) == events * len(text_of(1))


if __name__ == "__main__":
    main(Ours())
