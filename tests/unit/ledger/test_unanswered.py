"""Calls whose database fails between two steps: a refused one costs nothing, a used one is charged."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest

from tests.unit.ledger.trouble import AWAY, Trouble
from unspool.errors import StoreUnavailable, UnspoolError
from unspool.jobs import GenerationKey
from unspool.ledger import Ledger, LedgerOptions, MeteredCall, Prices, Rates, metered
from unspool.ledger.usage import LARGEST
from unspool.testing.contract.kit import eventually

PRICES = Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2))})
KEY = GenerationKey("s", 1)
USED = {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
COST = 1_000 * 100 + 2_000 * 10


class Unanswered(Trouble):
    """`unanswered`: the next transaction is carried out, its answer is lost, and the database is away then.
    `failures`: so many transactions raise what is not foreseen."""

    unanswered = False
    failures = 0

    async def run(self, *args: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("not foreseen")
        found = await super().run(*args)
        if self.unanswered:
            self.unanswered, self.mode = False, AWAY
            raise ConnectionResetError
        return found


@asynccontextmanager
async def world(**settings: Any) -> AsyncGenerator[tuple[Ledger, Unanswered]]:
    options = LedgerOptions(sweep=3600.0, patience=0.05, stale_after=0.0)
    async with Ledger("sqlite://", pricer=PRICES, options=options, **settings) as ledger:
        await ledger.admit(KEY, "team")
        yield ledger, Unanswered(ledger)


def calling(ledger: Ledger) -> MeteredCall:
    return ledger.call(KEY, provider="test", model="m", input_tokens=100)


async def idle(ledger: Ledger) -> None:
    """Everything that the ledger does in tasks of its own is done."""

    async def look() -> bool:
        return ledger.statistics()["pending"] == 0

    await eventually(look)


async def test_a_call_that_was_refused_is_not_charged() -> None:
    """Its intent was committed unheard: the caller was told that nothing may be sent, and has sent nothing."""
    async with world() as (ledger, trouble):
        trouble.unanswered = True
        with pytest.raises(StoreUnavailable):
            await calling(ledger).__aenter__()
        assert trouble.mode == AWAY
        trouble.mode = None
        await idle(ledger)
        await ledger.close_hold(KEY)
        assert await ledger.sweep() == 0
        assert [call.source for call in (await ledger.usage(KEY)).calls] == ["void"]
        assert (await ledger.balance("team")).posted == 0


async def test_a_refused_call_that_is_made_again_is_charged() -> None:
    """The refused one had written nothing; withdrawing it leaves its successor of the same id alone."""
    async with world() as (ledger, trouble):
        trouble.mode = AWAY
        with pytest.raises(StoreUnavailable):
            await calling(ledger).__aenter__()
        trouble.mode = None
        async with calling(ledger) as call:
            await ledger._withdraw(calling(ledger)._intent)
            call.observe(USED)
        await idle(ledger)
        assert (await ledger.balance("team")).posted == -COST


async def test_a_settlement_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the database fails, and with what: the provider's figures are known, and are charged."""
    monkeypatch.setattr(metered, "_AGAIN", 0.0)
    async with world() as (ledger, trouble):
        async with calling(ledger) as call:
            call.observe(USED)
            trouble.failures = 200
        await idle(ledger)
        assert (await ledger.balance("team")).posted == -COST


async def test_closing_tries_a_waiting_settlement_once_more_and_does_not_wait_for_its_pause() -> None:
    async with world() as (ledger, trouble):
        call = calling(ledger)
        await call.__aenter__()
        call.observe(USED)
        trouble.mode = AWAY
        leaving = ledger._tasks.spawn(call._finish(cut=False))
        asked = trouble.asked

        async def tried() -> bool:
            return trouble.asked > asked and not ledger._tasks.closing.is_set()

        await eventually(tried)
        trouble.mode = None
        assert await ledger.close()
        assert leaving.done()
        assert call.charge is not None


async def test_a_report_that_raises_keeps_no_call_from_its_settlement() -> None:
    """A usage that is not believed is reported, and the text is charged in its place."""

    def report(_: UnspoolError) -> None:
        raise ZeroDivisionError

    async with world(report=report) as (ledger, _):
        async with calling(ledger) as call:
            call.observe({"choices": [], "usage": {"prompt_tokens": LARGEST, "completion_tokens": 0}})
        assert call.charge is not None
        assert (call.charge.source, call.charge.cost) == ("estimate", 1_000 * 100)
