"""Only the store decides who lives: a ledger that hangs, is away or breaks takes no run down, and holds up no end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.unit.ledger.trouble import BREAKS, HANGS, KINDS, Trouble
from unspool import ANYONE, GenerationManager, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import StoreUnavailable
from unspool.jobs import Status
from unspool.ledger import Ledger, LedgerOptions, Prices, Rates
from unspool.producer import Generation
from unspool.protocols import Created, NewJob
from unspool.testing.contract.kit import eventually, settled
from unspool.testing.faults import FaultyStore

PRICES = Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2))})
OPTIONS = Options(lease=1.0, poll=0.05, sweep=0.05, abort_grace=2.0, drain=0.0)
USED = {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
COST = 1_000 * 100 + 2_000 * 10
GRANTED, HELD = 10_000_000, 1_000_000


class World:
    """Replicas over one store, and one ledger in memory behind an engine that fails on demand."""

    def __init__(self, **options: Any) -> None:
        settings: dict[str, Any] = {
            "hold": HELD, "hold_lease": 0.9, "sweep": 0.1, "stale_after": 0.0, "drain_on_close": 0.5, "patience": 0.3,
        }  # fmt: skip
        self.ledger = Ledger("sqlite://", pricer=PRICES, options=LedgerOptions(**settings | options))
        self.trouble = Trouble(self.ledger)
        self.inner = MemoryStore()
        self.store, self.transport = FaultyStore(self.inner), MemoryTransport()
        self.made: list[GenerationManager] = []

    async def replica(self, name: str, **bounds: int) -> GenerationManager:
        options = replace(OPTIONS, **bounds)
        manager = GenerationManager(
            self.store.as_store(), self.transport, options=options, ledger=self.ledger, replica=name
        )
        await manager.start_up()
        self.made.append(manager)
        return manager

    async def leases_go_by(self, number: int = 3) -> None:
        """Leases were renewed so often that they would have run out so many times."""
        goal = self.store.calls.get("renew", 0) + 3 * number + 1

        async def renewed() -> bool:
            return self.store.calls.get("renew", 0) >= goal

        await eventually(renewed)

    async def books(self, posted: int) -> None:
        """The ledger is back, and its books come to this, with nothing held or open; the audit must hold."""
        self.trouble.mode = None

        async def right() -> bool:
            audit, balance = await self.ledger.audit(), await self.ledger.balance("team")
            assert audit.faults == []
            return (balance.posted, balance.held, audit.open_calls) == (posted, 0, 0)

        await eventually(right)


@asynccontextmanager
async def world(**options: Any) -> AsyncGenerator[World]:
    made = World(**options)
    try:
        async with asyncio.timeout(60):
            await made.replica("a")
            await made.ledger.grant("team", GRANTED, id="g")
            yield made
            made.trouble.mode = None
    finally:
        for manager in made.made:
            await manager.stop(drain=0)


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world() as made:
        yield made


def until(event: asyncio.Event, calls: int = 0):
    """A run that makes so many model calls, then waits for an event."""

    async def run(gen: Generation) -> None:
        for _ in range(calls):
            async with gen.model_call(provider="test", model="m") as call:
                call.observe(USED)
        await gen.text("so far")
        await event.wait()

    return run


async def said(manager: GenerationManager, stream: str) -> None:
    async def look() -> bool:
        return (await manager.snapshot(stream, user=ANYONE)).text == "so far"

    await eventually(look)


@pytest.mark.parametrize("kind", KINDS)
async def test_quiet_runs_live_on_and_their_viewers_get_the_end(here: World, kind: str) -> None:
    """With an account and without, for three leases; the books are right when the ledger is back."""
    (manager,), finish = here.made, asyncio.Event()
    for stream, account in (("paid", "team"), ("free", None)):
        await manager.start(stream, until(finish, calls=1), account=account)
        await said(manager, stream)
    viewers = [manager.follow(stream, user=ANYONE) for stream in ("paid", "free")]
    here.trouble.mode = kind
    await here.leases_go_by()
    assert [(await manager.job(stream, user=ANYONE)).status for stream in ("paid", "free")] == [Status.RUNNING] * 2
    finish.set()
    for viewer in viewers:
        assert [record.type async for record in viewer][-1] == "completed"
    await here.books(GRANTED - COST)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stop_is_answered(here: World, kind: str) -> None:
    """Also in the middle of a model call, whose settlement waits for the ledger and is made when that is back."""
    (manager,), begun = here.made, asyncio.Event()

    async def run(gen: Generation) -> None:
        async with gen.model_call(provider="test", model="m") as call:
            await gen.text("so far")
            call.observe(USED)
            begun.set()
            await asyncio.Event().wait()

    await manager.start("s", run, account="team")
    await begun.wait()
    here.trouble.mode = kind
    outcome = await manager.abort("s", user=ANYONE)
    assert (type(outcome).__name__, outcome.text) == ("Stopped", "so far")
    assert (await manager.job("s", user=ANYONE)).status is Status.ABORTED
    await here.books(GRANTED - COST)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_dead_owners_generation_is_sealed(here: World, kind: str) -> None:
    """By a survivor that cannot reach the ledger either; what was open is settled when it is back."""
    one, two = here.made[0], await here.replica("b")
    calling, never_left = asyncio.Event(), list[object]()

    async def run(gen: Generation) -> None:
        block = gen.model_call(provider="test", model="m", input_tokens=100)
        call = await block.__aenter__()
        never_left.append(block)
        await gen.emit("step.started", {"id": call.call_id, "kind": "message"})
        await gen.text("x" * 40)
        calling.set()
        await asyncio.Event().wait()

    await one.start("s", run, account="team")
    await calling.wait()
    assert one._supervisor is not None
    await one._supervisor.stop()  # as kill -9
    here.trouble.mode = kind
    job = await settled(two, user=None)
    assert (job.status, job.lease.epoch) == (Status.ERROR, 2)  # taken over once
    await here.books(GRANTED - COST)  # 100 of input, 40 bytes of text are 10 tokens


@pytest.mark.parametrize("kind", KINDS)
async def test_a_lost_run_is_resumed_and_pays_when_the_ledger_is_back(here: World, kind: str) -> None:
    """The resumed run lives; its call is refused by name while the ledger is away, and made when it is back."""
    one, two = here.made[0], await here.replica("b")
    refused, back = asyncio.Queue[Exception](), asyncio.Event()

    async def work(gen: Generation, _: dict[str, Any]) -> None:
        if gen.attempt == 1:
            await asyncio.Event().wait()
        try:
            async with gen.model_call(provider="test", model="m") as call:
                raise AssertionError("the ledger has not heard of this call")
        except (StoreUnavailable, RuntimeError) as error:
            refused.put_nowait(error)
        await back.wait()
        async with gen.model_call(provider="test", model="m") as call:
            call.observe(USED)

    for manager in (one, two):
        manager.register("work", work)
    await one.start("s", "work", args={}, on_owner_lost="resume", account="team")
    assert one._supervisor is not None
    await one._supervisor.stop()
    here.trouble.mode = kind
    error = await asyncio.wait_for(refused.get(), 60)
    assert kind == BREAKS or "ledger" in str(error)
    here.trouble.mode = None
    back.set()
    assert (await settled(two, user=None)).status is Status.COMPLETE
    await here.books(GRANTED - COST)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_start_is_refused_by_name_and_nothing_has_happened(here: World, kind: str) -> None:
    (manager,) = here.made
    running = await manager.start("s", until(asyncio.Event()))
    here.trouble.mode = kind
    with pytest.raises(StoreUnavailable, match="ledger") as refused:
        await manager.start("s", until(asyncio.Event()), account="team")
    assert refused.value.status == 503
    job = await manager.job("s", user=ANYONE)
    assert (job.key, job.status) == (running.key, Status.RUNNING)
    await here.books(GRANTED)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_start_whose_ledger_is_lost_behind_its_hold_goes_on(here: World, kind: str) -> None:
    """What is refused has not happened, so what has happened is not refused: its calls are charged all the same."""
    (manager,), back = here.made, asyncio.Event()
    create = here.inner.create

    async def creating(new: NewJob) -> Created:
        here.trouble.mode = kind
        return await create(new)

    async def run(gen: Generation) -> None:
        await back.wait()
        await until(back, calls=1)(gen)

    here.inner.create = creating
    await manager.start("s", run, account="team")
    here.trouble.mode = None
    back.set()
    assert (await settled(manager, user=None)).status is Status.COMPLETE
    await here.books(GRANTED - COST)


async def test_runs_without_an_account_never_touch_the_ledger() -> None:
    """From start to end, stopped, lost and resumed, nothing is asked."""
    async with world(sweep=3600.0) as here:
        one, two = here.made[0], await here.replica("b")
        resumed, begun = asyncio.Event(), asyncio.Event()

        async def work(gen: Generation, _: dict[str, Any]) -> None:
            async with gen.model_call(provider="test", model="m") as call:
                call.observe(USED)
            begun.set()
            if gen.attempt == 1:
                await asyncio.Event().wait()
            resumed.set()

        for manager in (one, two):
            manager.register("work", work)
        asked = here.trouble.asked
        await one.start("done", until(asyncio.Event(), calls=1))
        await one.abort("done", user=ANYONE)
        await one.start("s", "work", args={}, on_owner_lost="resume")
        await begun.wait()
        assert one._supervisor is not None
        await one._supervisor.stop()
        await resumed.wait()
        assert (await settled(two, user=None)).status is Status.COMPLETE
        assert here.trouble.asked == asked


async def test_a_call_opens_a_hold_again_that_ran_out_meanwhile(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away for longer than `hold_lease`: the hold has been given back, and the live run's next call takes it again."""
    (manager,), more = here.made, asyncio.Event()

    async def run(gen: Generation) -> None:
        await more.wait()
        async with gen.model_call(provider="test", model="m") as call:
            call.observe(USED)

    job = await manager.start("s", run, account="team")
    monkeypatch.setattr(manager.billing, "renew", _nothing)  # this replica alone is cut off from the ledger

    async def lapsed() -> bool:
        return (await here.ledger.balance("team")).held == 0

    await eventually(lapsed)
    more.set()
    assert (await settled(manager, user=None)).status is Status.COMPLETE
    await here.books(GRANTED - COST)
    assert (await here.ledger.usage(job.key)).billed.calls == 1


async def _nothing(_: object) -> None: ...


@pytest.mark.parametrize("kind", KINDS)
async def test_an_outage_is_logged_once_and_so_is_its_end(
    here: World, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    (manager,), finish = here.made, asyncio.Event()
    await manager.start("s", until(finish), account="team")
    caplog.set_level(logging.WARNING)
    here.trouble.mode = kind
    asked = here.trouble.asked

    async def rounds() -> bool:
        return here.trouble.asked >= asked + (2 if kind == HANGS else 20)

    await eventually(rounds)
    here.trouble.mode = None

    async def back() -> bool:
        return "holds are renewed again" in caplog.text and not here.ledger.database.health.away

    await eventually(back)
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("holds are not renewed") for line in lines) == 1
    assert lines.count("holds are renewed again") == 1
    away = sum(line.startswith("the ledger's database is away") for line in lines)
    assert away == lines.count("the ledger's database is back") <= 1
    assert not any("store is unavailable" in line for line in lines)
    assert len(lines) <= 5


@pytest.mark.parametrize("kind", KINDS)
async def test_a_manager_stops_while_the_ledger_fails(here: World, kind: str) -> None:
    """Its runs are interrupted and sealed, and the store is closed."""
    (manager,), closed = here.made, here.store.calls
    await manager.start("s", until(asyncio.Event(), calls=1), account="team")
    await said(manager, "s")
    here.trouble.mode = kind
    await manager.stop(drain=0)
    assert closed["close"] == 1
    here.made.clear()
