"""The connection of a replica to one server."""

from __future__ import annotations

import asyncio

from tests.servers.redis import RedisServer
from tests.waiting import until
from unspool.backends.redis.topology import Server, of_url
from unspool.errors import StoreUnavailable


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
