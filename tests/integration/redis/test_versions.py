"""Replicas of two versions share a store, as in a rolling deploy: what the older cannot read holds up nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from tests.integration.redis.newer import NEWER, TOLERATED
from tests.servers.redis import RedisServer
from unspool import GenerationManager, Options
from unspool.backends.redis import RedisStore, from_url
from unspool.errors import UnreadableRecord
from unspool.jobs import GenerationKey, Owner, Status
from unspool.protocols import NewJob

PATIENCE = 60.0
MINE = Owner("u")


@pytest_asyncio.fixture
async def orphans(store: str) -> AsyncGenerator[RedisStore]:
    """Three generations of a dead owner whose lease is over soon, and `odd`, which is changed by each test."""
    made, _ = from_url(store, retention=3600.0)
    await made.open()
    for stream_id in ("odd", "x1", "x2", "x3"):
        await made.create(NewJob(stream_id=stream_id, owner=MINE, replica="dead", lease=1.0))
    yield made
    await made.close()


def change(database: RedisServer, store: str, field: str, value: str) -> None:
    prefix = store.partition("=")[2]
    database.ask("HSET", f"{prefix}:{{odd}}:1", field, value)


@pytest.mark.parametrize("kind", NEWER)
async def test_a_job_that_cannot_be_read_holds_up_none_of_the_others(
    orphans: RedisStore, store: str, database: RedisServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Dead owners are noticed, lists are answered, live runs are renewed; the job is named in one line of the log."""
    change(database, store, *NEWER[kind])
    manager = GenerationManager.from_url(store, options=Options(lease=1.0, sweep=0.05))
    caplog.set_level(logging.ERROR, logger="unspool")
    async with manager, asyncio.timeout(PATIENCE):
        for name in ("x1", "x2", "x3"):
            records = [record async for record in manager.follow(name, user="u")]
            assert records[-1].data["code"] == "owner_lost"
        assert {job.stream_id for job in await manager.jobs(user="u")} == {"x1", "x2", "x3"}
        assert (await manager.counts()).total == 3
        assert await manager.active(user="u") == []
        with pytest.raises(UnreadableRecord, match=r"odd/1.*upgrade"):
            await manager.job("odd")
        assert manager.statistics()["passed_over"] == 1
    assert sum("odd" in record.getMessage() for record in caplog.records) == 1, caplog.text


@pytest.mark.parametrize("kind", TOLERATED)
async def test_what_is_new_is_passed_over(orphans: RedisStore, store: str, database: RedisServer, kind: str) -> None:
    """The job is read, and its dead owner is noticed, as any other's."""
    change(database, store, *TOLERATED[kind])
    manager = GenerationManager.from_url(store, options=Options(lease=1.0, sweep=0.05))
    async with manager, asyncio.timeout(PATIENCE):
        for name in ("odd", "x1"):
            records = [record async for record in manager.follow(name, user="u")]
            assert records[-1].terminal
        assert {job.stream_id for job in await manager.jobs(user="u")} == {"odd", "x1", "x2", "x3"}


async def test_a_stop_of_a_newer_version_reaches_the_owner(
    orphans: RedisStore, store: str, database: RedisServer
) -> None:
    """With its next renewal; its other leases are renewed in the same call, whatever stands beside one of them."""
    keys = [GenerationKey(name, 1) for name in ("odd", "x1")]
    change(database, store, *TOLERATED["a longer request for a stop"])
    found = await orphans.renew("dead", [(key, 1) for key in keys], 60.0)
    assert [renewal.held for renewal in found] == [True, True]
    assert found[0].abort is not None
    change(database, store, "abort", "unreadable")
    found = await orphans.renew("dead", [(key, 1) for key in keys], 60.0)
    assert [renewal.held for renewal in found] == [True, True]


async def test_a_new_turn_replaces_what_cannot_be_read(orphans: RedisStore, store: str, database: RedisServer) -> None:
    """Who asks again gets an answer."""
    change(database, store, *NEWER["a limit of another type"])
    created = await orphans.create(NewJob(stream_id="odd", owner=MINE, replica="a", lease=60.0))
    assert (created.job.generation, created.job.status) == (2, Status.RUNNING)
