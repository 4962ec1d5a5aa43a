"""A model call is charged once: whoever reports it, how often, in what order, at the same time."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.integration.ledger.conftest import Office, balanced, calling, key, started, used
from unspool.errors import CallStarted, Fenced, NotFound, UnspoolError, UsageConflict
from unspool.ledger import Ledger, Usage, calls


async def charges(ledger: Ledger, kind: str = "charge") -> list[int]:
    return [entry.amount for entry in (await ledger.entries(limit=1000)).entries if entry.kind == kind]


async def test_a_call_is_charged_when_its_usage_is_known(ledger: Ledger) -> None:
    await ledger.grant("team", 10_000_000, id="g")
    await ledger.admit(key(), "team", amount=4_000_000)
    async with calling(ledger, key()) as call:
        call.observe({"choices": [], "usage": used(1000, 500)})
    assert call.charge is not None
    assert (call.charge.outcome, call.charge.cost, call.charge.key) == ("charged", 2_000_000, "call:conv/1/main/0/1")
    balance = await ledger.balance("team")
    assert (balance.posted, balance.held, balance.available) == (8_000_000, 2_000_000, 6_000_000)
    assert await ledger.close_hold(key()) == 2_000_000
    assert await ledger.close_hold(key()) is None
    assert (await ledger.balance("team")).held == 0
    assert await balanced(ledger)


async def test_fifty_settle_one_call_at_once_and_one_charges(office: Office) -> None:
    ledgers = [await office.open() for _ in range(3)]
    await ledgers[0].admit(key(), "team")
    call_id = await started(ledgers[0], key())
    settled = await asyncio.gather(*(ledgers[n % 3].settle(call_id, used(100, 10)) for n in range(50)))
    assert sorted(charge.outcome for charge in settled) == ["charged"] + ["duplicate"] * 49
    assert {charge.cost for charge in settled} == {120_000}
    assert await charges(ledgers[0]) == [-120_000]
    assert await balanced(ledgers[0])


async def test_an_estimate_is_trued_up_once(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    call_id = await started(ledger, key())
    first = await ledger.settle(call_id, Usage(input_tokens=100, output_tokens=100, source="estimate"))
    assert (first.outcome, first.cost, first.source) == ("charged", 300_000, "estimate")
    assert (await ledger.settle(call_id, Usage(input_tokens=7, source="estimate"))).outcome == "duplicate"
    second = await ledger.settle(call_id, used(100, 40))
    assert (second.outcome, second.cost, second.amount) == ("trued_up", 180_000, 120_000)
    assert second.key == f"call:{call_id}:trueup"
    assert (await ledger.settle(call_id, used(100, 40))).outcome == "duplicate"
    assert (await ledger.settle(call_id, Usage(input_tokens=9, source="estimate"))).outcome == "duplicate"
    assert (await ledger.balance("team")).posted == -180_000
    assert await balanced(ledger)


async def test_two_words_of_the_provider_are_a_conflict_and_move_no_money(office: Office) -> None:
    reports: list[UnspoolError] = []
    ledger = await office.open(report=reports.append)
    await ledger.admit(key(), "team")
    call_id = await started(ledger, key())
    await ledger.settle(call_id, used(100, 10))
    with pytest.raises(UsageConflict) as caught:
        await ledger.settle(call_id, used(100, 11))
    assert reports == [caught.value]
    assert caught.value.details["reported"]["output_tokens"] == 11
    assert await charges(ledger) == [-120_000]
    # The same counts in other words are the same usage.
    again = await ledger.settle(call_id, {"input_tokens": 100, "output_tokens": 10})
    assert again.outcome == "duplicate"


async def test_a_conflict_within_a_metered_call_is_reported_and_not_raised(office: Office) -> None:
    reports: list[UnspoolError] = []
    ledger = await office.open(report=reports.append)
    await ledger.admit(key(), "team")
    async with calling(ledger, key()) as call:
        await ledger.settle(call.call_id, used(1, 1))
        call.observe({"choices": [], "usage": used(2, 2)})
    assert [type(report) for report in reports] == [UsageConflict]
    assert call.charge is None


async def test_a_void_call_costs_nothing_unless_the_provider_says_otherwise(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    call_id = await started(ledger, key())
    assert (await ledger.void(call_id)).outcome == "void"
    assert (await ledger.void(call_id)).outcome == "duplicate"
    assert await charges(ledger) == []
    assert await balanced(ledger)
    truth = await ledger.settle(call_id, used(10))
    assert (truth.outcome, truth.amount, truth.key) == ("trued_up", -10_000, f"call:{call_id}:trueup")
    assert (await ledger.void(call_id)).outcome == "duplicate"
    assert await balanced(ledger)


async def test_a_call_is_sent_once(office: Office) -> None:
    """Of many that start one call at the same time, exactly one may send."""
    ledgers = [await office.open() for _ in range(3)]
    await ledgers[0].admit(key(), "team")
    results = await asyncio.gather(*(started(ledgers[n % 3], key()) for n in range(12)), return_exceptions=True)
    assert sum(isinstance(result, str) for result in results) == 1
    assert sum(isinstance(result, CallStarted) for result in results) == 11
    await started(ledgers[0], key(), attempt=2)  # a retry is another call


async def test_a_start_whose_commit_was_not_answered_is_still_ones_own(ledger: Ledger) -> None:
    """The same transaction again, as after a lost connection, may send; anybody else's may not."""
    await ledger.grant("team", 100, id="g")
    await ledger.admit(key(), "team", amount=10)
    intent = calling(ledger, key(), hold=30)._intent
    for _ in range(2):
        await ledger.database.write(lambda tx: calls.start(tx, intent, 60.0))
    assert (await ledger.balance("team")).held == 30
    with pytest.raises(CallStarted):
        await started(ledger, key())
    await ledger.settle(intent.call_id, used(0))
    with pytest.raises(CallStarted):
        await ledger.database.write(lambda tx: calls.start(tx, intent, 60.0))


async def test_starting_is_fenced_by_the_epoch_and_settling_is_not(ledger: Ledger) -> None:
    await ledger.admit(key(), "team", epoch=1)
    call_id = await started(ledger, key(), epoch=1)
    assert await ledger.take_over(key(), 2)
    with pytest.raises(Fenced):
        await started(ledger, key(), epoch=1, step="1")
    await started(ledger, key(), epoch=2, step="1")
    assert (await ledger.settle(call_id, used(1))).outcome == "charged"
    await ledger.close_hold(key())
    with pytest.raises(Fenced):
        await started(ledger, key(), epoch=2, step="2")
    with pytest.raises(Fenced):
        await started(ledger, key(99))
    with pytest.raises(Fenced):
        await ledger.admit(key(), "team")
    assert not await ledger.take_over(key(), 3)


async def test_what_was_never_started_cannot_be_settled(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        await ledger.settle("conv/1/main/0/1", used(1))
    with pytest.raises(NotFound):
        await ledger.rerate("conv/1/main/0/1")


async def test_forty_parallel_agents_share_one_hold(office: Office) -> None:
    """The hold goes down to 0, and the rest to the account."""
    ledgers = [await office.open() for _ in range(2)]
    ledger = ledgers[0]
    await ledger.grant("team", 1_000_000, id="g")
    await ledger.admit(key(), "team", amount=1_000_000)

    async def agent(number: int) -> None:
        async with calling(ledgers[number % 2], key(), agent=f"agent {number}", hold=0) as call:
            call.observe({"choices": [{"delta": {"content": "x"}}]})
            await asyncio.sleep(0)
            call.observe({"choices": [], "usage": used(100, 0)})

    await asyncio.gather(*(agent(number) for number in range(40)))
    balance = await ledger.balance("team")
    assert (balance.posted, balance.held, balance.debt) == (-3_000_000, 0, 3_000_000)
    assert await charges(ledger) == [-100_000] * 40
    usage = await ledger.usage(key())
    assert len(usage.by_agent) == 40
    assert usage.billed.cost == 4_000_000
    assert await balanced(ledger)


@pytest.mark.parametrize("seed", range(3))
async def test_a_hundred_generations_whose_ends_race(office: Office, seed: int) -> None:
    """Abort, completion and reaper at the same time, with the provider's word late or never: one charge for each call,
    and no hold is left."""
    rng = random.Random(seed)
    ledgers = [await office.open(options={"stale_after": 0.0}) for _ in range(3)]
    await ledgers[0].grant("team", 10**12, id="g")
    places = asyncio.Semaphore(10)  # more at once only wait for connections, and a busy machine lets them wait too long

    async def generation(number: int) -> None:
        async with places:
            await raced(number)

    async def raced(number: int) -> None:
        mine = rng.choice(ledgers)
        await mine.admit(key(number), "team", amount=1_000_000)
        call_id = await started(mine, key(number), input_tokens=10)

        async def completion() -> None:
            await rng.choice(ledgers).settle(call_id, used(100, number))
            await rng.choice(ledgers).close_hold(key(number))

        async def abort() -> None:
            await rng.choice(ledgers).settle(call_id, Usage(input_tokens=50, source="estimate"))
            await rng.choice(ledgers).close_hold(key(number))

        async def crash() -> None:
            await rng.choice(ledgers).take_over(key(number), 2)
            await rng.choice(ledgers).close_hold(key(number))
            await rng.choice(ledgers).reap(key(number))

        ends = [completion(), abort(), crash(), rng.choice(ledgers).settle(call_id, used(100, number))]
        rng.shuffle(ends)
        await asyncio.gather(*ends)

    await asyncio.gather(*(generation(number) for number in range(1, 101)))
    await ledgers[0].sweep()
    assert len(await charges(ledgers[0])) == 100
    balance = await ledgers[0].balance("team")
    assert (balance.posted, balance.held) == (10**12 - sum(100_000 + 2000 * n for n in range(1, 101)), 0)
    assert await balanced(ledgers[0])
