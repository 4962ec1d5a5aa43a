"""A metered call settles however it is left: by its end, by an error, by a cancellation, by the process's shutdown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from sqlalchemy import insert, select

from tests.integration.ledger.conftest import Office, balanced, broken_off, calling, key, started, used
from unspool.errors import UnspoolError
from unspool.ledger import CallRecord, Ledger, MeteredCall, Usage, holds
from unspool.ledger.database import Transaction
from unspool.ledger.usage import LARGEST

TEXT = {"choices": [{"delta": {"content": "twelve bytes"}, "finish_reason": None}]}
START = {"type": "message_start", "message": {"usage": {"input_tokens": 40, "output_tokens": 1}}}


async def closed(office: Office, ledger: Ledger) -> Ledger:
    """The same books, after everything under way is settled."""
    await ledger.close()
    return await office.open()


@pytest.mark.parametrize("policy", ["estimate", "input_only"])
async def test_a_call_that_fails_is_charged(ledger: Ledger, policy: Any) -> None:
    await ledger.admit(key(), "team")
    call = calling(ledger, key(), policy=policy)
    await broken_off(call, START, TEXT)
    assert call.charge is not None
    assert call.charge.source == "estimate"
    assert call.charge.cost == {"estimate": 40_000 + 3 * 2_000, "input_only": 40_000}[policy]


async def test_a_cancelled_call_is_charged_and_stays_cancelled(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    entered = asyncio.Event()

    async def run() -> None:
        async with calling(ledger, key(), input_tokens=7) as call:
            call.observe(TEXT)
            entered.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(run())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await ledger.balance("team")).posted == -(7_000 + 3 * 2_000)
    assert await balanced(ledger)


@pytest.mark.parametrize("hops", range(0, 40, 3))
async def test_cancelled_at_any_moment_and_twice(office: Office, hops: int) -> None:
    """Wherever the cancellation falls, in the start, in the call, in the settlement: the books balance, the call is
    settled at most once, and what was observed is charged."""
    ledger = await office.open()
    await ledger.admit(key(), "team")

    async def run() -> None:
        async with calling(ledger, key()) as call:
            call.observe({"choices": [], "usage": used(10)})
            await asyncio.sleep(0)

    task = asyncio.create_task(run())
    for _ in range(hops):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    books = await closed(office, ledger)
    calls = (await books.usage(key())).calls
    assert all(call.state == "settled" for call in calls)
    assert (await books.balance("team")).posted == -sum(call.cost or 0 for call in calls)
    assert await balanced(books)


async def test_the_providers_word_counts_even_when_the_call_is_cut(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    call = calling(ledger, key())
    await broken_off(call, TEXT, {"choices": [], "usage": used(10, 50)})
    assert call.charge is not None
    assert (call.charge.source, call.charge.cost) == ("provider", 110_000)


async def test_an_estimate_is_capped_at_the_hold_and_the_truth_is_not(ledger: Ledger) -> None:
    await ledger.grant("team", 50_000, id="g")
    await ledger.admit(key(), "team", amount=50_000)
    call = calling(ledger, key(), input_tokens=1_000)
    await broken_off(call)
    assert call.charge is not None
    assert call.charge.cost == 50_000
    assert (await ledger.settle(call.call_id, used(1_000))).cost == 1_000_000
    assert await balanced(ledger)


async def test_a_call_of_which_nothing_is_known(ledger: Ledger) -> None:
    """Unknown is a state: no cost, no usage, counted by the audit, and open to the truth."""
    await ledger.admit(key(), "team")
    call = calling(ledger, key())
    await broken_off(call)
    assert call.charge is not None
    assert (call.charge.usage, call.charge.cost, call.charge.amount) == (None, None, 0)
    assert (await ledger.audit()).unpriced_calls == 1
    event = call.event()
    assert event is not None
    assert event.data["cost_nano"] is None
    assert (await ledger.settle(call.call_id, used(1))).amount == -1_000
    assert await balanced(ledger)


async def test_void_counts_only_while_nothing_came(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    call = calling(ledger, key())
    call.void()
    await broken_off(call)
    assert call.charge is not None
    assert call.charge.outcome == "void"
    assert call.event() is None
    async with calling(ledger, key(), step="1") as call:
        call.observe(TEXT)
        call.void()
    assert call.charge is not None
    assert call.charge.outcome == "charged"


async def test_the_usage_event_carries_the_cost_and_the_key(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    async with calling(ledger, key(), agent="a") as call:
        assert call.event() is None
        call.observe({"choices": [], "usage": used(10, 1)})
    event = call.event()
    assert event is not None
    assert event.type == "usage"
    wanted = {"call_id": call.call_id, "agent": "a", "input_tokens": 10, "cost_nano": 12_000, "source": "provider"}
    assert wanted.items() <= event.data.items()
    assert event.data["key"] == f"call:{call.call_id}"


async def test_a_usage_that_is_not_believed_gives_way_to_the_text(office: Office) -> None:
    reports: list[UnspoolError] = []
    ledger = await office.open(report=reports.append)
    await ledger.admit(key(), "team")
    async with calling(ledger, key()) as call:
        call.observe(TEXT)
        call.observe({"choices": [], "usage": {"prompt_tokens": LARGEST, "completion_tokens": 0}})
    assert call.charge is not None
    assert (call.charge.source, call.charge.cost) == ("estimate", 6_000)
    assert len(reports) == 1
    assert await balanced(ledger)


@pytest.mark.parametrize("raw", [{"a": "\x00"}, {"a": object()}, {"a": "\ud800"}, {"a": float("nan")}, {"a": 2**80}])
async def test_hostile_payloads_are_kept_as_far_as_they_can_be(ledger: Ledger, raw: dict[str, Any]) -> None:
    await ledger.admit(key(), "team")
    async with calling(ledger, key(), agent="ü 日本", step="ü") as call:
        call.observe({"choices": [], "usage": {**used(10), **raw}})
    assert call.charge is not None
    assert call.charge.cost == 10_000
    assert await balanced(ledger)


@pytest.mark.parametrize(
    "details", [{"agent": ""}, {"agent": "a\x00"}, {"step": "\ud800"}, {"attempt": 0}, {"input_tokens": -1},
                {"input_tokens": True}, {"hold": 1.5}]
)  # fmt: skip
async def test_names_that_cannot_be_kept_are_refused_before_the_call(ledger: Ledger, details: dict[str, Any]) -> None:
    with pytest.raises(UnspoolError):
        calling(ledger, key(), **details)


async def chunks(read: list[int], usage: bool = True) -> AsyncGenerator[dict[str, Any]]:
    for number in range(6):
        await asyncio.sleep(0)
        read.append(number)
        yield TEXT
    if usage:
        yield {"choices": [], "usage": used(10, 100)}


async def read_whole(call: MeteredCall, stream: AsyncGenerator[Any]) -> None:
    async with call:
        async for _ in call.over(stream):
            pass


async def stopped_half_way(call: MeteredCall, stream: AsyncGenerator[Any]) -> None:
    """Fails at the first chunk."""

    async def block() -> None:
        async with call:
            async for _ in call.over(stream):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await block()


async def test_drain_reads_on_for_the_truth(office: Office) -> None:
    ledger = await office.open(options={"policy": "drain"})
    await ledger.admit(key(), "team")
    read: list[int] = []
    call = calling(ledger, key())
    await stopped_half_way(call, chunks(read))
    assert read == list(range(6))
    assert call.charge is not None
    assert (call.charge.source, call.charge.cost) == ("provider", 210_000)


async def test_drain_keeps_its_bounds(office: Office) -> None:
    ledger = await office.open(options={"policy": "drain", "drain_chunks": 2})
    await ledger.admit(key(), "team")
    read: list[int] = []
    async with calling(ledger, key()) as call:
        async for _ in call.over(chunks(read)):
            break
    assert call.charge is not None
    assert call.charge.source == "estimate"
    assert len(read) < 6
    hung = asyncio.Event()

    async def hanging() -> AsyncGenerator[dict[str, Any]]:
        yield TEXT
        try:
            await asyncio.sleep(3600)
        finally:
            hung.set()

    ledger = await office.open(options={"policy": "drain", "drain_seconds": 0.0})
    call = calling(ledger, key(), step="1")
    await stopped_half_way(call, hanging())
    assert hung.is_set()
    assert call.charge is not None
    assert call.charge.source == "estimate"


@pytest.mark.parametrize("policy", ["estimate", "drain"])
async def test_a_stream_read_to_its_end(ledger: Ledger, policy: Any) -> None:
    await ledger.admit(key(), "team")
    read: list[int] = []
    async with calling(ledger, key(), policy=policy) as call:
        assert len([chunk async for chunk in call.over(chunks(read))]) == 7
    assert call.charge is not None
    assert (call.charge.source, call.charge.cost) == ("provider", 210_000)

    async def failing() -> AsyncGenerator[dict[str, Any]]:
        yield TEXT
        raise KeyError("x")

    call = calling(ledger, key(), policy=policy, step="1")
    with pytest.raises(KeyError):
        await read_whole(call, failing())
    assert call.charge is not None
    assert call.charge.source == "estimate"


async def test_closing_waits_for_settlements(office: Office) -> None:
    ledger = await office.open()
    await ledger.admit(key(), "team")
    for step in range(20):
        call = calling(ledger, key(), step=str(step))
        await call.__aenter__()
        call.observe({"choices": [], "usage": used(1)})
        leaving = asyncio.ensure_future(call.__aexit__(None, None, None))
        await asyncio.sleep(0)
        leaving.cancel()
    assert await ledger.close()
    books = await office.open()
    assert (await books.balance("team")).posted == -20_000
    assert await balanced(books)


async def test_a_counter_counts_the_text(office: Office) -> None:
    ledger = await office.open(counter=lambda text, model: len(text.split()))
    await ledger.admit(key(), "team")
    async with calling(ledger, key()) as call:
        call.observe(TEXT)
    assert call.charge is not None
    assert call.charge.cost == 2 * 2_000


# the reaper


async def test_what_a_dead_process_left_is_settled(office: Office) -> None:
    now = [1_000_000.0]
    ledger = await office.open(clock=lambda: now[0])
    await ledger.grant("team", 10_000_000, id="g")
    for number in (1, 2):
        await ledger.admit(key(number), "team", amount=1_000_000)
        await started(ledger, key(number), input_tokens=50)
    now[0] += 50
    assert await ledger.renew({key(2): 1, key(3): 1}) == {"conv/2"}
    assert await ledger.sweep() == 0
    now[0] += 15
    assert await ledger.sweep() == 1  # of the one whose hold ran out
    balance = await ledger.balance("team")
    assert (balance.posted, balance.held) == (10_000_000 - 50_000, 1_000_000)
    now[0] += 3600
    await ledger.renew({key(2): 1})
    assert await ledger.sweep() == 1  # and of the one that takes too long
    assert await ledger.close_hold(key(2)) == 950_000
    assert (await ledger.balance("team")).held == 0
    truth = await ledger.settle("conv/1/main/0/1", used(60))
    assert truth.outcome == "trued_up"
    assert await balanced(ledger)


async def test_leases_run_on_the_databases_clock(office: Office) -> None:
    """Without an injected clock; a lease of a moment runs out, another does not."""
    ledger = await office.open(options={"hold_lease": 0.001})
    patient = await office.open()
    await ledger.grant("team", 20, id="g")
    await ledger.admit(key(1), "team", amount=5)
    await patient.admit(key(2), "team", amount=10)
    await asyncio.sleep(0.01)
    await ledger.sweep()
    assert (await ledger.balance("team")).held == 10
    assert await ledger.running("team") == [key(2)]


async def test_a_hold_that_was_renewed_after_the_look_stays_open(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    assert not await ledger.database.write(lambda tx: holds.lapse(tx, str(key())))
    assert await ledger.renew({key(): 1}) == {"conv/1"}


async def test_ten_thousand_holds_are_renewed_within_the_bound_of_a_renewal(ledger: Ledger) -> None:
    """In pieces, each under its own epoch. Those of others and closed ones are not renewed."""
    generations, far = [key(number) for number in range(1, 10_001)], 4e9
    await ledger.admit(key(0), "team")

    def fill(tx: Transaction) -> None:
        row = {"account_id": "team", "remaining": 0, "expires_at": far}
        rows = [row | {"generation": str(one), "state": "open", "epoch": 1 + one.generation % 3} for one in generations]
        rows[0]["epoch"], rows[1]["state"] = 9, "closed"
        tx.connection.execute(insert(holds.hold), rows)

    await ledger.database.unhurried().write(fill)
    renewed = await ledger.within(3.0).renew(dict.fromkeys(generations[:6], 3) | dict.fromkeys(generations[6:], 2))
    refused = {str(one) for one in generations[6:] if one.generation % 3 == 2}
    assert renewed == {str(one) for one in generations[2:]} - refused
    found = await ledger.database.read(lambda tx: tx.all(select(holds.hold).where(holds.hold.c.expires_at < far)))
    assert {row.generation for row in found} == renewed | {"conv/0"}


async def test_an_open_call_is_as_old_as_the_database_says(office: Office) -> None:
    """The clock of a replica that is two hours slow takes no call for abandoned that has just begun."""
    ledger = await office.open()
    await ledger.admit(key(), "team")
    ledger._clock = lambda: time.time() - 7200
    await started(ledger, key())
    other = await office.open()
    assert await other.sweep() == 0
    assert (await other.usage(key())).billed.open == 1


async def test_the_reaper_asks_what_the_application_remembers(office: Office) -> None:
    async def recall(call: CallRecord) -> Usage | None:
        return {"0": Usage(input_tokens=9), "1": Usage(output_tokens=2, source="estimate")}.get(call.step)

    ledger = await office.open(recall=recall)
    await ledger.admit(key(), "team")
    for step in "012":
        await started(ledger, key(), step=step, input_tokens=1)
    assert await ledger.reap(key()) == 3
    assert await ledger.reap(key()) == 0
    calls = (await ledger.usage(key())).calls
    assert [(call.source, call.cost) for call in calls] == [
        ("provider", 9_000), ("estimate", 4_000), ("estimate", 1_000)
    ]  # fmt: skip


async def test_five_sequential_calls_are_five_charges(ledger: Ledger) -> None:
    """What is reported is the first call's input and everybody's output; what is billed is everything."""
    await ledger.admit(key(), "team")
    for step in range(5):
        async with calling(ledger, key(), step=str(step)) as call:
            call.observe({"choices": [], "usage": used(100 + step, 10)})
    usage = await ledger.usage(key())
    assert (usage.reported_input_tokens, usage.reported_output_tokens) == (100, 50)
    assert (usage.billed.calls, usage.billed.input_tokens, usage.billed.output_tokens) == (5, 510, 50)
    assert usage.billed.cost == -(await ledger.balance("team")).posted == 510_000 + 100_000


async def test_two_agents_stopped_half_way_are_charged_each_by_its_own_model(ledger: Ledger) -> None:
    await ledger.admit(key(), "team")
    both = asyncio.Barrier(3)

    async def agent(name: str, provider: str, model: str) -> None:
        async with ledger.call(key(), agent=name, provider=provider, model=model, input_tokens=1000) as call:
            call.observe("x" * 400)
            await both.wait()
            await asyncio.sleep(3600)

    tasks = [
        asyncio.create_task(agent("a", "openai", "gpt-5")),
        asyncio.create_task(agent("b", "anthropic", "claude-opus-4-5")),
    ]
    await both.wait()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    usage = await ledger.usage(key())
    assert usage.by_model["openai/gpt-5"].cost == 1000 * 1_250 + 100 * 10_000
    assert usage.by_model["anthropic/claude-opus-4-5"].cost == 1000 * 5_000 + 100 * 25_000
    assert await balanced(ledger)


async def test_a_memory_that_fails_keeps_no_other_call_from_its_settlement(office: Office) -> None:
    async def recall(call: CallRecord) -> Usage | None:
        if call.step == "0":
            raise ZeroDivisionError
        return Usage(input_tokens=LARGEST)  # not to be believed

    reports: list[UnspoolError] = []
    ledger = await office.open(recall=recall, report=reports.append)
    await ledger.admit(key(), "team")
    for step in "01":
        await started(ledger, key(), step=step, input_tokens=3)
    assert await ledger.reap(key()) == 1
    assert [call.cost for call in (await ledger.usage(key())).calls] == [None, 3_000]
    assert len(reports) == 1


async def test_whoever_stops_waiting_stops_nothing_else(office: Office) -> None:
    """A report that has begun comes to its end, though the reporter is cancelled."""
    ledger = await office.open()
    await ledger.admit(key(), "team")
    for step in range(20):
        call_id = await started(ledger, key(), step=str(step))
        reporting = asyncio.create_task(ledger.settle(call_id, used(1)))
        for _ in range(2 + step % 5):
            await asyncio.sleep(0)
        reporting.cancel()
        await asyncio.wait({reporting})
    books = await closed(office, ledger)
    assert (await books.balance("team")).posted == -20_000
    assert await balanced(books)
