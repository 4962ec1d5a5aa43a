"""A real server on a free port, for every test that wants one; and how long Hypothesis looks.

Every run of pytest loads this file: what only some tests need is imported where they ask for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    import httpx2
    from starlette.applications import Starlette

# `unspool-ci` is what every run of the suite does, the same each time; `deep` (--hypothesis-profile=deep, make fuzz)
# looks elsewhere each time, and for minutes. How fast the machine draws examples is no fault of a test.
settings.register_profile(
    "unspool-ci",
    deadline=None,
    derandomize=True,
    stateful_step_count=60,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", deadline=None, max_examples=1_000, stateful_step_count=80, print_blob=True)
settings.load_profile("unspool-ci")

# The servers of tests are on this machine: a proxy of the user's is not asked for them.
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1", "localhost", "::1"]))

Serving = Callable[["Starlette"], AbstractAsyncContextManager["httpx2.AsyncClient"]]


@asynccontextmanager
async def _serving(app: Starlette) -> AsyncGenerator[httpx2.AsyncClient, None]:
    import httpx2

    from tests.waiting import HANG
    from unspool.http.server import bind, server_for, url_of

    listener = bind("127.0.0.1", 0)
    ready = asyncio.Event()
    server = server_for(app, drain=0.0, ready=ready.set)
    task = asyncio.create_task(server._serve([listener]))
    try:
        started = asyncio.create_task(ready.wait())
        await asyncio.wait([task, started], return_when=asyncio.FIRST_COMPLETED)
        if not ready.is_set():  # the application did not start: its error, instead of a wait for ever
            started.cancel()
            task.result()
            raise RuntimeError("the application did not start")
        async with httpx2.AsyncClient(base_url=url_of(listener), timeout=HANG) as client:
            yield client
    finally:
        await app.state.manager.stop(0)
        server.should_exit = True
        await task
        listener.close()


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """A context manager that serves an application and gives a client for it."""
    import uvicorn.server

    # uvicorn looks ten times a second whether it shall stop: a fifth of a second for each server.
    quick = ModuleType("asyncio")
    quick.__dict__.update(asyncio.__dict__, sleep=lambda seconds: asyncio.sleep(seconds / 10))
    monkeypatch.setattr(uvicorn.server, "asyncio", quick)
    return _serving
