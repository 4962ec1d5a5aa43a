"""The connection of a replica to one server."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers.redis import RedisServer
from tests.waiting import until
from unspool.backends.redis import from_url
from unspool.backends.redis.topology import Server, of_url
from unspool.errors import NotFound, StoreUnavailable


async def test_closing_cancels_no_caller(database: RedisServer) -> None:
    """Under way, queued, or asked for in the step in which it is closed: each caller is told that the store is away."""
    server, _ = of_url(database.url)
    assert isinstance(server, Server)
    pipe = server.pipe(b"")
    callers = [asyncio.create_task(pipe.call(b"BLPOP", "never", 0))]
    await until(lambda: pipe.commands == 1)
    callers.append(asyncio.create_task(pipe.call(b"PING")))
    await until(lambda: "queued=1" in repr(pipe))
    await server.close()
    [asked] = pipe.ask((b"PING",))
    await server.close()
    await asyncio.wait(callers)
    assert [type(caller.exception()) for caller in callers if not caller.cancelled()] == [StoreUnavailable] * 2
    assert isinstance(asked.exception(), StoreUnavailable)


async def test_what_asks_a_store_that_was_closed_connects_no_more(database: RedisServer) -> None:
    """A caller that comes late is told that the store is away, and leaves no connection; opened again, it serves."""
    store, _ = from_url(database.url, retention=3600.0)
    await store.open()
    await store.close()
    before = database.ask("CLIENT", "LIST").count(b"\n")
    with pytest.raises(StoreUnavailable):
        await store.get("s")
    assert database.ask("CLIENT", "LIST").count(b"\n") == before
    await store.open()
    with pytest.raises(NotFound):
        await store.get("s")
    await store.close()
