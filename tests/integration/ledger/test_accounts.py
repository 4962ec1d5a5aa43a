"""Balances: admission against them, grants and refills once, debt and its repayment, re-rating."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from tests.integration.ledger.conftest import Office, balanced, calling, key, started, used
from unspool.errors import InsufficientBalance, InvalidArgument, LedgerConflict, UnknownPrice
from unspool.ledger import Ledger, Prices, Rates, in_usd


async def test_forty_admissions_of_a_hundred_on_a_thousand_are_ten(office: Office) -> None:
    ledgers = [await office.open() for _ in range(4)]
    await ledgers[0].grant("team", 1000, id="g")
    results = await asyncio.gather(
        *(ledgers[n % 4].admit(key(n), "team", amount=100) for n in range(40)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, InsufficientBalance)]
    assert len(refused) == 30
    assert refused[0].details == {"account": "team", "balance": 1000, "held": 1000, "needed": 100, "floor": 0}
    assert (refused[0].status, refused[0].fault) == (402, "caller")
    assert (await ledgers[0].balance("team")).available == 0
    assert await balanced(ledgers[0])


async def test_admission_can_be_repeated(ledger: Ledger) -> None:
    await ledger.grant("team", 100, id="g")
    first = await ledger.admit(key(), "team", amount=60)
    assert (await ledger.admit(key(), "team", amount=60)).remaining == first.remaining == 60
    assert (await ledger.balance("team")).held == 60


async def test_an_account_that_is_not_there_has_nothing(ledger: Ledger) -> None:
    assert (await ledger.balance("nobody")).posted == 0
    with pytest.raises(InsufficientBalance):
        await ledger.admit(key(), "nobody", amount=1)
    assert (await ledger.audit()).accounts == 0  # a refusal leaves nothing behind
    await ledger.admit(key(), "nobody", amount=0)
    assert (await ledger.audit()).accounts == 1


async def test_each_further_call_tops_the_hold_up(ledger: Ledger) -> None:
    await ledger.grant("team", 250_000, id="g")
    await ledger.admit(key(), "team", amount=100_000)
    for step, held in enumerate((100_000, 100_000)):
        async with calling(ledger, key(), step=str(step), hold=100_000) as call:
            assert (await ledger.balance("team")).held == held
            call.observe({"choices": [], "usage": used(80)})
    with pytest.raises(InsufficientBalance) as caught:
        await started(ledger, key(), step="2", hold=100_000)
    assert caught.value.details["needed"] == 80_000
    usage = await ledger.usage(key())
    assert [call.step for call in usage.calls] == ["0", "1"]  # nothing is left of the one that was refused
    assert (await ledger.balance("team")).held == 20_000
    assert await balanced(ledger)


async def test_a_balance_may_go_below_zero_and_the_next_grant_repays(ledger: Ledger) -> None:
    await ledger.grant("team", 1_000_000, id="g1")
    await ledger.admit(key(1), "team", amount=1_000_000)
    async with ledger.call(key(1), provider="openai", model="gpt-5") as call:
        call.observe({"usage": {**used(1000, 100), "prompt_tokens_details": {"cached_tokens": 800}}, "choices": []})
    balance = await ledger.balance("team")
    assert (balance.posted, balance.held, balance.debt) == (-350_000, 0, 350_000)
    await ledger.close_hold(key(1))
    with pytest.raises(InsufficientBalance):
        await ledger.admit(key(2), "team", amount=0)
    await ledger.grant("team", 1_000_000, id="g2")
    assert (await ledger.balance("team")).posted == 650_000
    await ledger.admit(key(2), "team", amount=650_000)
    assert await balanced(ledger)


async def test_a_floor_below_zero_is_credit(ledger: Ledger) -> None:
    await ledger.set_floor("team", -500)
    await ledger.admit(key(1), "team", amount=500)
    with pytest.raises(InsufficientBalance) as caught:
        await ledger.admit(key(2), "team", amount=1)
    assert caught.value.details["floor"] == -500


@pytest.mark.parametrize("floor", [-5, 0, 5])
async def test_what_is_available_is_what_can_be_set_aside(ledger: Ledger, floor: int) -> None:
    """Down to the floor; the balance and the refusal name one figure."""
    await ledger.grant("team", 10, id="g")
    await ledger.set_floor("team", floor)
    await ledger.admit(key(), "team", amount=2)
    available = (await ledger.balance("team")).available
    assert available == 10 - 2 - floor
    with pytest.raises(InsufficientBalance, match=f"{in_usd(available)} USD are available"):
        await ledger.admit(key(2), "team", amount=available + 1)
    await ledger.admit(key(2), "team", amount=available)
    assert (await ledger.balance("team")).available == 0


async def test_grants_refills_and_adjustments_count_once(office: Office) -> None:
    ledgers = [await office.open() for _ in range(3)]
    results = await asyncio.gather(
        *(ledgers[n % 3].grant("team", 100, id="payment 7") for n in range(9)),
        *(ledgers[n % 3].refill("team", 10, window="2026-11") for n in range(9)),
        *(ledgers[n % 3].adjust("team", -1, id="typo") for n in range(9)),
        ledgers[0].refill("team", 10, window="2026-12"),
    )
    assert sum(credit.new for credit in results) == 4
    assert (await ledgers[0].balance("team")).posted == 119
    with pytest.raises(LedgerConflict):
        await ledgers[0].grant("team", 101, id="payment 7")
    with pytest.raises(LedgerConflict):
        await ledgers[0].grant("others", 100, id="payment 7")
    assert {entry.key for entry in (await ledgers[0].entries("team")).entries} == {
        "grant:payment 7", "refill:team:2026-11", "refill:team:2026-12", "adjust:typo",
    }  # fmt: skip
    assert await balanced(ledgers[0])


@pytest.mark.parametrize("amount", [0, -1, True, 1.5, "1", 10**19])
async def test_what_is_no_amount_is_refused(ledger: Ledger, amount: object) -> None:
    with pytest.raises(InvalidArgument):
        await ledger.grant("team", amount, id="g")  # pyright: ignore[reportArgumentType]


async def test_an_unknown_model_is_recorded_without_a_price_and_priced_later(office: Office) -> None:
    """Never 0 in silence: the usage is kept, the audit counts it, a later list charges it, once."""
    ledger = await office.open()
    await ledger.admit(key(), "team")
    async with ledger.call(key(), provider="acme", model="foo-1") as call:
        call.observe({"choices": [], "usage": used(100, 10)})
    assert call.charge is not None
    assert (call.charge.outcome, call.charge.cost, call.charge.amount) == ("charged", None, 0)
    assert (await ledger.audit()).unpriced_calls == 1
    assert (await ledger.usage(key())).billed.unpriced == 1
    assert await ledger.rerate(call.call_id) is None
    priced = await office.open(pricer=Prices({"foo-1": Rates(input=Decimal(1), output=Decimal(2))}))
    rerated = await asyncio.gather(*(priced.rerate(call.call_id) for _ in range(5)))
    assert sorted(one.amount for one in rerated if one is not None) == [-120_000, 0, 0, 0, 0]
    dearer = await office.open(pricer=Prices({"foo-1": Rates(input=Decimal(2), output=Decimal(2))}))
    again = await dearer.rerate(call.call_id)
    assert again is not None
    assert (again.amount, again.key) == (-100_000, f"call:{call.call_id}:rerate:2")
    assert (await ledger.balance("team")).posted == -220_000
    found = await ledger.settled_calls(model="foo-1")
    assert [(one.cost, one.price_version) for one in found] == [(220_000, "override foo-1")]
    assert await balanced(ledger)


async def test_an_unknown_model_may_be_refused_before_it_leaves(office: Office) -> None:
    ledger = await office.open(pricer=Prices(unknown="fail"))
    await ledger.admit(key(), "team")
    with pytest.raises(UnknownPrice):
        await started(ledger, key(), provider="acme", model="foo-1")
    assert (await ledger.usage(key())).calls == []


async def test_a_pricer_that_breaks_does_not_lose_the_usage(office: Office) -> None:
    class Broken:
        def price(self, usage: object, *, provider: str, model: str, at: float) -> None:
            if usage.input_tokens:  # pyright: ignore[reportAttributeAccessIssue]
                raise ZeroDivisionError

    ledger = await office.open(pricer=Broken())
    await ledger.admit(key(), "team")
    async with calling(ledger, key()) as call:
        call.observe({"choices": [], "usage": used(5)})
    assert call.charge is not None
    assert call.charge.cost is None
    assert (await ledger.usage(key())).billed.input_tokens == 5


async def test_entries_come_in_pages_newest_first(ledger: Ledger) -> None:
    for number in range(25):
        await ledger.grant("team" if number % 5 else "others", number + 1, id=str(number))
    seen: list[int] = []
    after = None
    while True:
        page = await ledger.entries("team", after=after, limit=7)
        seen += [entry.amount for entry in page.entries]
        after = page.next
        if after is None:
            break
    assert seen == [n + 1 for n in reversed(range(25)) if n % 5]
    assert len((await ledger.entries(limit=1000)).entries) == 25
    for cursor in ("x", "AAAA", "é", ""):
        with pytest.raises(InvalidArgument):
            await ledger.entries("team", after=cursor)
    with pytest.raises(InvalidArgument):
        await ledger.entries("team", limit=0)


@pytest.mark.parametrize("statement", ["UPDATE entry SET amount = 0", "DELETE FROM entry"])
async def test_entries_are_append_only(ledger: Ledger, statement: str) -> None:
    await ledger.grant("team", 5, id="g")
    with pytest.raises(DBAPIError, match="append-only"):
        await ledger.database.write(lambda tx: tx.run(text(statement)))


COPY = (
    "INSERT INTO model_call SELECT 'x', generation, agent, step, 2, account_id, provider, model, state, source, usage, "
    "usage_hash, raw, price_version, unit_prices, 0, context, started_at, settled_at FROM model_call"
)


@pytest.mark.parametrize(
    ("spoil", "equation"),
    [
        ("UPDATE account SET posted = posted + 1 WHERE account_id = 'a'", "posted is the sum of the entries"),
        ("UPDATE account SET held = held + 1 WHERE account_id = 'a'", "held is the sum of the open holds"),
        ("UPDATE hold SET state = 'closed' WHERE generation = 'conv/1'", "closed holds are empty"),
        ("DELETE FROM outbox WHERE key = 'call:conv/1/main/0/1'", "each entry has an outbox row"),
        ("UPDATE model_call SET cost_nano = 1", "the cost of the calls is what was charged for them"),
        (
            COPY,
            "each settled call has its entry",
        ),
    ],
)
async def test_the_audit_names_the_account_and_the_equation(ledger: Ledger, spoil: str, equation: str) -> None:
    for account in ("a", "b"):
        await ledger.grant(account, 1000, id=account)
    await ledger.admit(key(1), "a", amount=10)
    await ledger.settle(await started(ledger, key(1)), used(0))
    assert await balanced(ledger)
    await ledger.database.write(lambda tx: tx.run(text(spoil)))
    faults = [fault for fault in (await ledger.audit()).faults if fault.equation == equation]
    assert [fault.account for fault in faults] == ["a"]
