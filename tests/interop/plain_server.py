"""The application on hypercorn: a server that lends no connection, and answers HTTP/1.0 without chunks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx2
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette

from unspool.http.server import bind, url_of


@asynccontextmanager
async def on_hypercorn(app: Starlette) -> AsyncGenerator[httpx2.AsyncClient, None]:
    """Serves an application and gives a client for it, as the fixture `serving` does."""
    listener = bind("127.0.0.1", 0)
    config = Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]  # it closes what it is given
    config.loglevel = "ERROR"
    config.graceful_timeout = 1.0
    ended = asyncio.Event()
    task = asyncio.create_task(serve(cast("Any", app), config, shutdown_trigger=ended.wait))
    try:
        async with httpx2.AsyncClient(base_url=url_of(listener), timeout=60) as client:
            yield client
    finally:
        await app.state.manager.stop(0)
        ended.set()
        await task
        listener.close()
