"""A real server on a free port, for every test that wants one; and how long Hypothesis looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest
from hypothesis import settings
from starlette.applications import Starlette

from unspool.http.server import bind, server_for, url_of

# `unspool-ci` is what every run of the suite does, the same each time; `deep` (--hypothesis-profile=deep, make fuzz)
# looks elsewhere each time, and for minutes.
settings.register_profile("unspool-ci", deadline=None, derandomize=True, stateful_step_count=60, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=1_000, stateful_step_count=80, print_blob=True)
settings.load_profile("unspool-ci")

Serving = Callable[[Starlette], AbstractAsyncContextManager[httpx2.AsyncClient]]


@asynccontextmanager
async def _serving(app: Starlette) -> AsyncGenerator[httpx2.AsyncClient, None]:
    listener = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    server = server_for(app, drain=0.0, ready=ready.set)
    task = asyncio.create_task(server._serve([listener]))
    await ready.wait()
    try:
        async with httpx2.AsyncClient(base_url=url_of(listener), timeout=20) as client:
            yield client
    finally:
        await app.state.manager.stop(0)
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
def serving() -> Serving:
    """A context manager that serves an application and gives a client for it."""
    return _serving
