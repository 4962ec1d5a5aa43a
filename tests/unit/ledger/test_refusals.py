"""A start that is refused changes nothing: what runs goes on, nothing is held, no number is used."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.unit.ledger.test_outage import COST, GRANTED, HELD, World, until, world
from unspool import ANYONE, GenerationManager
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.content import Snapshot
from unspool.errors import (
    CapacityExceeded,
    GenerationConflict,
    InsufficientBalance,
    NotFound,
    StoreUnavailable,
    TooManyGenerations,
)
from unspool.jobs import Job, Status
from unspool.producer import Generation
from unspool.protocols import Created, NewJob
from unspool.testing.contract.kit import eventually, settled


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world() as made:
        yield made


async def held(here: World, account: str = "team") -> int:
    return (await here.ledger.balance(account)).held


async def given_back(here: World, left: int, account: str = "team") -> None:
    async def is_left() -> bool:
        return await held(here, account) == left

    await eventually(is_left)


def last(manager: GenerationManager, stream: str = "s") -> Any:
    return manager.job(stream, user=ANYONE)


async def test_a_balance_that_does_not_cover_it_replaces_nothing(here: World) -> None:
    (manager,), finish = here.made, asyncio.Event()
    await here.ledger.grant("poor", HELD, id="p")
    await manager.start("s", until(finish), account="poor")
    with pytest.raises(InsufficientBalance):
        await manager.start("s", until(finish), account="poor")
    job = await last(manager)
    assert (job.generation, job.status) == (1, Status.RUNNING)
    assert await held(here, "poor") == HELD
    finish.set()
    assert (await settled(manager, user=None)).status is Status.COMPLETE
    await given_back(here, 0, "poor")


async def test_money_that_others_were_faster_to_set_aside_replaces_nothing(here: World) -> None:
    """Ten starts at once in the place of ten runs, and money for three."""
    (manager,), never = here.made, asyncio.Event()
    for number in range(10):
        await manager.start(f"s{number}", until(never))
    await here.ledger.grant("poor", 3 * HELD, id="p")
    outcomes = await asyncio.gather(
        *(manager.start(f"s{number}", until(never), account="poor") for number in range(10)), return_exceptions=True
    )
    assert sum(isinstance(one, Job) for one in outcomes) == 3
    for number, outcome in enumerate(outcomes):
        job = await last(manager, f"s{number}")
        assert job.status is Status.RUNNING
        assert job.generation == (2 if isinstance(outcome, Job) else 1)
    assert await held(here, "poor") == 3 * HELD


async def test_a_limit_of_an_account_is_exact_and_replaces_nothing() -> None:
    async with world() as here:
        never = asyncio.Event()
        for name in "bc":
            await here.replica(name, max_active_per_account=3)
        await here.ledger.grant("team", 100 * HELD, id="more")
        starts = (
            here.made[1 + number % 2].start(f"s{number % 6}", until(never), account="team", user=f"u{number % 6}")
            for number in range(24)
        )
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, TooManyGenerations)]
        assert len(refused) == len([one for one in outcomes if not isinstance(one, Job)])
        active = [job for job in await here.made[0].jobs(user=ANYONE) if not job.settled]
        assert len(active) == 3
        assert {job.stream_id for job in await here.made[0].jobs(user=ANYONE)} == {job.stream_id for job in active}
        for error in refused:  # each is told of its own only
            assert {one["stream_id"] for one in error.details["running"]} <= {job.stream_id for job in active}


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (GenerationConflict, {"expect_generation": 7}),
        (NotFound, {"user": "another"}),
        (CapacityExceeded, {}),
    ],
)
async def test_what_the_store_refuses_holds_nothing(here: World, error: type[Exception], asked: dict[str, Any]) -> None:
    (manager,), never = here.made, asyncio.Event()
    stream = "s"
    more: dict[str, Any] = {"user": "u", **asked}
    await manager.start(stream, until(never), user="u", account="team")
    if error is CapacityExceeded:
        here.inner._max_jobs, stream = 1, "t"
    with pytest.raises(error):
        await manager.start(stream, until(never), account="team", **more)
    await given_back(here, HELD)
    assert (await last(manager)).generation == 1
    assert await here.ledger.running("team") == [(await last(manager)).key]


async def test_a_start_that_attaches_holds_nothing_more(here: World) -> None:
    """Twenty at once under one request id, and money for one: one generation, one hold."""
    (manager,), never = here.made, asyncio.Event()
    await here.ledger.set_floor("team", GRANTED - HELD)
    jobs = await asyncio.gather(*(manager.start("s", until(never), account="team", request_id="r") for _ in range(20)))
    assert {job.generation for job in jobs} == {1}
    assert [job.attached for job in jobs].count(False) == 1
    await given_back(here, HELD)


async def test_a_repetition_attaches_to_what_it_began_also_where_nothing_is_left(here: World) -> None:
    """Whatever has become of the balance, of the stream, and of the time that the store takes."""
    (manager,), never = here.made, asyncio.Event()
    first = await manager.start("s", until(never), account="team", request_id="r1")
    second = await manager.start("s", until(never), account="team", request_id="r2")
    await given_back(here, HELD)
    await here.ledger.set_floor("team", GRANTED)
    for request_id, job in (("r1", first), ("r2", second)):
        again = await manager.start("s", until(never), account="team", request_id=request_id)
        assert (again.key, again.attached) == (job.key, True)
    with pytest.raises(InsufficientBalance):
        await manager.start("s", until(never), account="team", request_id="r3")
    assert await held(here) == HELD


async def test_an_end_that_is_faster_than_the_ledger_is_no_refusal(here: World) -> None:
    """Replaced or stopped before the ledger knew of it: the start has happened, and its job says what became of it."""
    (manager,), never = here.made, asyncio.Event()
    admit = manager.billing.admit

    async def slow(job: Job) -> None:
        await manager.abort(job.stream_id, user=ANYONE)
        await admit(job)

    manager.billing.admit = slow
    job = await manager.start("s", until(never), account="team")
    assert (await settled(manager, user=None)).status is Status.ABORTED
    assert job.generation == 1
    await given_back(here, 0)


async def test_what_a_creation_replaced_is_ended_also_where_its_answer_is_lost(here: World) -> None:
    """Its hook is called and its hold given back, as for one whose answer came."""
    (manager,), never = here.made, asyncio.Event()
    told: list[tuple[int, str]] = []

    async def note(job: Job, _: Snapshot) -> None:
        told.append((job.generation, job.status))

    manager.hooks.settled.append(note)
    await manager.start("s", until(never), account="team")
    create, lost = here.inner.create, asyncio.Event()

    async def unanswered(new: NewJob) -> Created:
        created = await create(new)
        if new.expect_generation is None and not lost.is_set():
            lost.set()
            raise StoreUnavailable("planted")
        return created

    here.inner.create = unanswered
    with pytest.raises(StoreUnavailable):
        await manager.start("s", until(never), account="team")

    async def ended() -> bool:
        return told == [(1, Status.REPLACED)] and await here.ledger.running("team") == [(await last(manager)).key]

    await eventually(ended)
    assert (await last(manager)).generation == 2
    await given_back(here, HELD)


async def test_a_creation_whose_answer_is_lost_holds_only_what_runs(here: World) -> None:
    (manager,), begun = here.made, asyncio.Event()
    create = here.inner.create

    async def away(new: NewJob) -> Created:
        raise StoreUnavailable("planted")

    async def unanswered(new: NewJob) -> Created:
        await create(new)
        here.inner.create = create
        raise StoreUnavailable("planted")

    async def run(gen: Generation) -> None:
        begun.set()
        await asyncio.Event().wait()

    for outcome, left in ((away, 0), (unanswered, HELD)):
        here.inner.create = outcome
        with pytest.raises(StoreUnavailable):
            await manager.start("s", run, account="team")
        await given_back(here, left)
    await begun.wait()
    assert await here.ledger.running("team") == [(await last(manager)).key]


async def test_a_start_whose_caller_is_cancelled_runs_or_has_not_happened(here: World) -> None:
    """Cancelled at every step of it: what was created is begun, and what was not holds nothing."""
    (manager,) = here.made
    ended = 0
    for steps in range(60):
        begun = asyncio.Event()

        async def run(gen: Generation, begun: asyncio.Event = begun) -> None:
            begun.set()

        starting = asyncio.create_task(manager.start(f"s{steps}", run, account="team"))
        for _ in range(steps):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])

        async def over(stream: str = f"s{steps}", begun: asyncio.Event = begun) -> bool:
            try:
                return (await last(manager, stream)).status is Status.COMPLETE and begun.is_set()
            except NotFound:
                return not manager.replica._creations

        await eventually(over)
        ended += begun.is_set()
    assert ended > 0
    await given_back(here, 0)


async def test_a_block_whose_caller_is_cancelled_is_not_left_behind(here: World) -> None:
    (manager,) = here.made

    async def block(stream: str) -> None:
        async with manager.open(stream, account="team"):
            await asyncio.Event().wait()

    for steps in range(0, 60, 3):
        opening = asyncio.create_task(block(f"s{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])

    async def none_runs() -> bool:
        return not manager.replica._creations and not await manager.active()

    await eventually(none_runs)
    await given_back(here, 0)


async def test_a_store_that_has_forgotten_a_stream_counts_above_what_was_charged(here: World) -> None:
    """The ledger remembers three generations: a call of the next must not be taken for one of theirs."""
    (manager,), over = here.made, asyncio.Event()
    over.set()
    for _ in range(3):
        await manager.start("s", until(over, calls=1), account="team")
        await settled(manager, user=None)
    await manager.start("s/2", until(over, calls=1), account="team")
    await settled(manager, "s/2", user=None)
    await here.ledger.grant("other", 10 * HELD, id="o")
    async with GenerationManager(MemoryStore(), MemoryTransport(), ledger=here.ledger) as anew:
        for stream, number in (("s", 4), ("s", 5), ("s/2", 2), ("s/", 1), ("t", 1), ("s/2/", 1)):
            job = await anew.start(stream, until(over, calls=1), account="other")
            assert job.generation == number, stream
            await settled(anew, stream, user=None)
        assert (await here.ledger.balance("other")).posted == 10 * HELD - 6 * COST
