"""PyPI `rakaia-streams`: its own ASGI application on uvicorn, its in-memory store, JSON mode; appended in process."""

from __future__ import annotations

import asyncio
from importlib.metadata import version

from rakaia import StreamStore, create_app

from bench.peers.worker import TURN, Source, event_of, keep, main, serve_asgi

_JSON = "application/json"


class Rakaia:
    version = version("rakaia-streams")

    def __init__(self) -> None:
        self._store = StreamStore()

    async def serve(self) -> int:
        return await serve_asgi(create_app(store=self._store))

    async def prepare(self, source: Source) -> None:
        for stream in range(1, source.plan.streams + 1):
            self._store.create(f"/s-{stream}", content_type=_JSON)
            keep(self._run(source, stream))

    async def _run(self, source: Source, stream: int) -> None:
        path = f"/s-{stream}"
        async for event in source.events(stream):
            self._store.append(path, event.encode())
        if source.plan.seal:
            self._store.close_stream(path)

    async def local(self, events: int, merge: bool) -> None:
        """The subscriber waits as its own server does: the event taken before the read."""
        store = self._store
        store.create("/local", content_type=_JSON)

        async def produce() -> None:
            for number in range(1, events + 1):
                store.append("/local", event_of(number).encode())
                if number % TURN == 0:
                    await asyncio.sleep(0)

        keep(produce())
        seen, offset = 0, "-1"
        while seen < events:
            arrived = store.new_messages_event("/local")
            messages, _ = store.read("/local", offset)
            if messages:
                seen += len(messages)
                offset = messages[-1].offset
            else:
                await arrived.wait()


if __name__ == "__main__":
    main(Rakaia())
