"""The sweep of a ledger: each item fails alone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from unspool.errors import Gone, StoreUnavailable
from unspool.jobs import GenerationKey
from unspool.ledger import CallRecord, Ledger, LedgerOptions, Prices, Rates, Usage
from unspool.ledger.tables import hold

PRICES = Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2))})
COST = 1_000 * 100 + 2_000 * 10


async def test_one_call_that_cannot_be_settled_holds_up_no_other() -> None:
    """Of 250, more than a sweep looks at in one go, all but the last raise: that one is settled, and the others are
    counted, logged once, and tried again later and later."""
    now, asked = [1_000_000.0], list[str]()

    async def recall(call: CallRecord) -> Usage | None:
        asked.append(call.call_id)
        if not call.call_id.startswith("z"):
            raise Gone
        return Usage(input_tokens=100, output_tokens=10)

    async with Ledger(
        "sqlite://", pricer=PRICES, recall=recall, clock=lambda: now[0], options=LedgerOptions(sweep=3600.0)
    ) as ledger:
        for number in range(250):
            key = GenerationKey("z" if number == 249 else f"a{number}", 1)
            await ledger.admit(key, "team")
            await ledger.call(key, provider="test", model="m").__aenter__()
        now[0] += 100
        assert await ledger.sweep() == 1
        assert ledger.statistics()["setbacks"] == 249
        assert (await ledger.balance("team")).posted == -COST
        tried = len(asked)
        assert await ledger.sweep() == 0
        assert len(asked) == tried  # too early
        now[0] += 1
        await ledger.sweep()
        assert len(asked) == tried + 249
        ledger.recall = None
        now[0] += 3600
        assert await ledger.sweep() == 249
        assert ledger.statistics()["setbacks"] == 0


async def test_one_call_that_is_too_slow_is_no_outage() -> None:
    """Its time-out makes the database seem away; that answers, so the sweep goes on, and the call has its pause."""

    async def recall(call: CallRecord) -> Usage | None:
        if call.call_id.startswith("a"):
            ledger.database.health.failed(False, TimeoutError())
            raise StoreUnavailable("too slow")
        return Usage(input_tokens=100, output_tokens=10)

    ledger = Ledger("sqlite://", pricer=PRICES, recall=recall, options=LedgerOptions(sweep=3600.0, stale_after=0.0))
    async with ledger:
        for stream in "abc":
            await ledger.admit(GenerationKey(stream, 1), "team")
            await ledger.call(GenerationKey(stream, 1), provider="test", model="m").__aenter__()
            await ledger.close_hold(GenerationKey(stream, 1))
        assert await ledger.sweep() == 2
        assert list(ledger.setbacks.items) == ["a/1/main/0/1"]
        assert not ledger.database.health.away


async def test_a_call_that_another_replica_settled_is_no_setback_any_more(tmp_path: Any) -> None:
    async def recall(_: CallRecord) -> Usage | None:
        raise Gone

    options, url = LedgerOptions(sweep=3600.0, stale_after=0.0), f"sqlite:///{tmp_path}/ledger.db"
    async with Ledger(url, recall=recall, options=options) as ledger, Ledger(url, options=options) as other:
        key = GenerationKey("s", 1)
        await ledger.admit(key, "team")
        await ledger.call(key, provider="test", model="m").__aenter__()
        await ledger.close_hold(key)
        await ledger.sweep()
        assert ledger.statistics()["setbacks"] == 1
        await other.sweep()
        await ledger.sweep()
        assert ledger.statistics()["setbacks"] == 0


@pytest.mark.parametrize("held", [0, 5])
async def test_a_reserved_hold_whose_start_has_died_is_deleted(held: int) -> None:
    """Also one that holds nothing; that of a generation stays."""
    now = [1_000_000.0]
    options = LedgerOptions(sweep=3600.0, hold=held)
    async with Ledger("sqlite://", clock=lambda: now[0], options=options) as ledger:
        await ledger.grant("team", 10, id="g")
        await ledger.admit(GenerationKey("s", 1), "team")
        await ledger.reserve("s", "token", "team")
        now[0] += 3600
        await ledger.sweep()
        rows = await ledger.database.read(lambda tx: tx.all(select(hold.c.generation, hold.c.state)))
        assert [tuple(row) for row in rows] == [("s/1", "open")]
        assert (await ledger.balance("team")).held == 0
