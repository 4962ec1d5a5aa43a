"""An application for servers that are started by name."""

from __future__ import annotations

import asyncio

from unspool import GenerationManager
from unspool.http import StartRequest, create_app
from unspool.producer import Generation

WORDS = 30


async def answer(gen: Generation, request: StartRequest) -> None:
    for number in range(WORDS):
        await gen.emit("custom", {"name": "n", "value": number})
        await asyncio.sleep(0.01)
    if request.model == "endless":
        await asyncio.Event().wait()


manager = GenerationManager()
app = create_app(manager, run=answer, page=False)
