"""Generations that cost something: refused, held for, charged and given back, whoever ends them and however."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest

from tests.integration.ledger.conftest import PRICES, used
from tests.waiting import HANG
from unspool import ANYONE, GenerationManager, Hooks, Options
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import ConfigurationError, InsufficientBalance, TooManyGenerations
from unspool.jobs import Job, Owner, Status, Task
from unspool.ledger import Ledger, LedgerOptions
from unspool.producer import Generation
from unspool.protocols import NewJob
from unspool.testing.contract.kit import eventually, settled

OPTIONS = Options(lease=30.0, poll=0.05, sweep=0.05, abort_grace=10.0, drain=0.0)
"""No owner is lost, and no clean-up cut short, because the machine is busy."""
LEASE = 1.0
"""Of owners that are lost."""
COST = 1_000 * 100 + 2_000 * 10  # of a call with `used(100, 10)`


class Replicas:
    """Managers over one store, each with a ledger of its own on one database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store, self.transport = MemoryStore(), MemoryTransport()
        self.made: list[GenerationManager] = []

    async def make(
        self, name: str = "a", *, hold: int = 0, hooks: Hooks | None = None, **more: Any
    ) -> GenerationManager:
        ledger = Ledger.from_url(self.url, pricer=PRICES, options=LedgerOptions(sweep=3600.0, hold=hold, stale_after=0))
        options = Options(**{**{name: getattr(OPTIONS, name) for name in OPTIONS.__slots__}, **more})
        manager = GenerationManager(
            self.store, self.transport, options=options, hooks=hooks, ledger=ledger, replica=name
        )
        manager.billing._wait = HANG  # these ledgers are well, and answer as soon as the machine lets them
        await manager.start_up()
        self.made.append(manager)
        return manager


@pytest.fixture
async def replicas(url: str) -> AsyncGenerator[Replicas]:
    made = Replicas(url)
    yield made
    for manager in made.made:
        await manager.stop(drain=0)


def ledger_of(manager: GenerationManager) -> Ledger:
    ledger = manager.billing.ledger
    assert ledger is not None
    return ledger


async def grant(manager: GenerationManager, amount: int, account: str = "team") -> None:
    await ledger_of(manager).grant(account, amount, id=f"first-{account}")


def calls(*sizes: tuple[int, int], then: Callable[[], Awaitable[object]] | None = None, fail: bool = False):
    """A run of one model call after the other, which then waits, fails or ends."""

    async def run(gen: Generation) -> None:
        for given, got in sizes:
            async with gen.model_call(provider="test", model="m") as call:
                await gen.text("x" * got)
                call.observe({"usage": used(given, got)})
        if then is not None:
            await then()
        if fail:
            raise RuntimeError("no")

    return run


async def usages(manager: GenerationManager, stream: str = "s") -> list[dict[str, Any]]:
    return (await manager.snapshot(stream, user=ANYONE)).usage


async def books(manager: GenerationManager, account: str = "team") -> tuple[int, int]:
    """What is posted and what is held; the audit must hold."""

    async def given_back() -> bool:
        return (await ledger_of(manager).balance(account)).held == 0

    await eventually(given_back)
    assert (await ledger_of(manager).audit()).balanced
    balance = await ledger_of(manager).balance(account)
    return balance.posted, balance.held


@pytest.mark.parametrize("end", ["completed", "failed", "aborted", "replaced"])
async def test_every_end_charges_each_call_once(replicas: Replicas, end: str) -> None:
    """Scenario 44: one charge per call, the hold given back, the usage with its cost on the stream."""
    manager = await replicas.make(hold=1_000_000)
    await grant(manager, 10_000_000)
    never = asyncio.Event()
    wait = None if end in ("completed", "failed") else never.wait
    job = await manager.start("s", calls((100, 10), (100, 10), then=wait, fail=end == "failed"), account="team")

    async def both() -> bool:
        return len(await usages(manager)) == 2

    await eventually(both)
    if end == "aborted":
        outcome = await manager.abort("s", user=ANYONE)
        assert [entry["cost_nano"] for entry in outcome.usage] == [COST, COST]
    elif end == "replaced":
        await manager.start("s", calls())
    assert await books(manager) == (10_000_000 - 2 * COST, 0)
    found = await ledger_of(manager).usage(job.key)
    assert (found.billed.calls, found.billed.cost, found.billed.open) == (2, 2 * COST, 0)
    assert (found.reported_input_tokens, found.reported_output_tokens) == (100, 20)


async def test_a_call_that_is_stopped_half_way_is_charged_as_an_estimate(replicas: Replicas) -> None:
    """Its text is counted; the charge says what it is, on the stream as well."""
    manager = await replicas.make()
    await grant(manager, 10_000_000)
    begun = asyncio.Event()

    async def run(gen: Generation) -> None:
        async with gen.model_call(provider="test", model="m", input_tokens=100) as call:
            call.observe({"choices": [{"delta": {"content": "x" * 40}}]})
            begun.set()
            await asyncio.Event().wait()

    await manager.start("s", run, account="team")
    await begun.wait()
    await manager.abort("s", user=ANYONE)
    assert await books(manager) == (10_000_000 - COST, 0)  # 100 of input, 40 bytes of text are 10 tokens
    (told,) = await usages(manager)
    assert (told["source"], told["cost_nano"]) == ("estimate", COST)


async def test_what_the_balance_does_not_cover_is_refused_and_nothing_has_happened(replicas: Replicas) -> None:
    """Typed, with the figures; the stream's running generation is not even replaced."""
    manager = await replicas.make(hold=1_000)
    await manager.start("s", calls(then=asyncio.Event().wait))
    with pytest.raises(InsufficientBalance) as refused:
        await manager.start("s", calls(), account="team")
    assert refused.value.status == 402
    assert (refused.value.details["balance"], refused.value.details["needed"]) == (0, 1_000)
    assert (await manager.job("s", user=ANYONE)).generation == 1


async def test_ten_of_forty_at_once_are_let_in(replicas: Replicas) -> None:
    """Whatever the race: holds are taken one by one, and who came too late is told so in its log as well."""
    manager = await replicas.make(hold=100)
    await grant(manager, 1_000)
    never = asyncio.Event()
    answers = await asyncio.gather(
        *(manager.start(f"s{n}", calls(then=never.wait), account="team") for n in range(40)), return_exceptions=True
    )
    assert sum(isinstance(answer, Job) for answer in answers) == 10
    assert sum(isinstance(answer, InsufficientBalance) for answer in answers) == 30
    assert len(await manager.jobs(status=Status.RUNNING)) == 10


async def test_a_repeated_start_attaches_whatever_became_of_the_balance(replicas: Replicas) -> None:
    """The first try has taken the hold; the second takes nothing and is refused nothing."""
    manager = await replicas.make(hold=1_000)
    await grant(manager, 1_000)
    never = asyncio.Event()
    first = await manager.start("s", calls(then=never.wait), account="team", request_id="r")
    again = await manager.start("s", calls(then=never.wait), account="team", request_id="r")
    assert (again.key, again.attached) == (first.key, True)


async def test_a_dead_owners_call_is_charged_by_whoever_takes_over(replicas: Replicas) -> None:
    """What its log tells of the text is counted, once, and the hold is given back."""
    one, two = [await replicas.make(name, hold=1_000_000, lease=LEASE) for name in "ab"]
    await grant(one, 10_000_000)
    never_left: list[object] = []

    async def run(gen: Generation) -> None:
        block = gen.model_call(provider="test", model="m", input_tokens=100)
        call = await block.__aenter__()
        never_left.append(block)
        await gen.emit("step.started", {"id": call.call_id, "kind": "message"})
        await gen.text("x" * 40)
        await asyncio.Event().wait()

    job = await one.start("s", run, account="team")

    async def said() -> bool:
        return (await two.snapshot("s", user=ANYONE)).text == "x" * 40

    await eventually(said)
    assert one._supervisor is not None
    await one._supervisor.stop()  # as kill -9: nothing renews, nothing seals
    assert (await settled(two, user=None)).status is Status.ERROR
    assert await books(two) == (10_000_000 - COST, 0)
    (call,) = (await ledger_of(two).usage(job.key)).calls
    assert (call.state, call.source) == ("settled", "estimate")
    (told,) = await usages(two)  # said in the log, before its end
    assert (told["cost_nano"], told["source"]) == (COST, "estimate")


async def test_a_run_that_is_gone_on_with_pays_for_calls_of_its_own(replicas: Replicas) -> None:
    """Another attempt is another charge, under the same hold and the new epoch."""
    finish = asyncio.Event()

    async def work(gen: Generation, _: dict[str, Any]) -> None:
        async with gen.model_call(provider="test", model="m") as call:
            call.observe({"usage": used(100, 10)})
        if gen.attempt == 1:
            await asyncio.Event().wait()
        await finish.wait()

    one, two = await replicas.make("a", lease=LEASE), await replicas.make("b", lease=LEASE)
    for manager in (one, two):
        manager.register("work", work)
    await grant(one, 10_000_000)
    job = await one.start("s", "work", args={}, on_owner_lost="resume", account="team")

    async def charged(number: int) -> bool:
        return (await ledger_of(two).usage(job.key)).billed.calls == number

    await eventually(lambda: charged(1))
    assert one._supervisor is not None
    await one._supervisor.stop()
    await eventually(lambda: charged(2))
    finish.set()
    assert (await settled(two, user=None)).status is Status.COMPLETE
    assert await books(two) == (10_000_000 - 2 * COST, 0)


async def test_a_run_whose_owner_died_before_it_was_admitted_pays_for_its_calls(replicas: Replicas) -> None:
    """Created in the store, and not yet known to the ledger: who resumes it opens the hold."""

    async def work(gen: Generation, _: dict[str, Any]) -> None:
        async with gen.model_call(provider="test", model="m") as call:
            call.observe({"usage": used(100, 10)})

    manager = await replicas.make(hold=1_000_000, lease=LEASE)
    manager.register("work", work)
    await grant(manager, 10_000_000)
    await replicas.store.create(
        NewJob(
            stream_id="s", owner=Owner(None), replica="dead", lease=LEASE, account="team",
            task=Task("work", {}, resume=True),
        )
    )  # fmt: skip
    assert (await settled(manager, user=None)).status is Status.COMPLETE
    assert await books(manager) == (10_000_000 - COST, 0)


async def test_parallel_agents_are_charged_under_their_own_models(replicas: Replicas) -> None:
    """Also when one of them fails."""
    manager = await replicas.make()
    await grant(manager, 10_000_000)

    async def agent(gen: Generation, name: str) -> None:
        async with gen.model_call(provider="test", model=name, agent=name) as call:
            call.observe({"usage": used(100, 10)})
            if name == "b":
                raise ValueError(name)

    async def run(gen: Generation) -> None:
        await asyncio.gather(*(agent(gen, name) for name in "abc"), return_exceptions=True)

    job = await manager.start("s", run, account="team")
    assert (await settled(manager, user=None)).status is Status.COMPLETE
    assert await books(manager) == (10_000_000 - 3 * COST, 0)
    found = await ledger_of(manager).usage(job.key)
    assert {name: totals.calls for name, totals in found.by_model.items()} == {f"test/{name}": 1 for name in "abc"}


async def test_users_and_accounts_have_so_many_at_once(replicas: Replicas) -> None:
    """The refusal lists what is running; an end makes room; the next turn on a stream takes its own place."""
    manager = await replicas.make(max_active_per_user=2, max_active_per_account=3)
    await grant(manager, 1_000)
    never = asyncio.Event()
    for name in "ab":
        await manager.start(name, calls(then=never.wait), user="u", account="team")
    with pytest.raises(TooManyGenerations) as refused:
        await manager.start("c", calls(), user="u", account="team")
    assert refused.value.status == 429
    assert [one["stream_id"] for one in refused.value.details["running"]] == ["a", "b"]
    await manager.start("b", calls(then=never.wait), user="u", account="team")
    await manager.start("d", calls(then=never.wait), user="v", account="team")
    for user, own in (("w", []), ("v", ["d"])):
        with pytest.raises(TooManyGenerations) as refused:
            await manager.start("e", calls(), user=user, account="team")
        assert [one["stream_id"] for one in refused.value.details["running"]] == own, "not those of other users"
        assert refused.value.details["limit"] == 3
    await manager.abort("a", user="u")  # answered by the seal; the hold is given back behind it

    async def room() -> bool:
        return len(await ledger_of(manager).running("team")) == 2

    await eventually(room)
    await manager.start("c", calls(then=never.wait), user="u", account="team")


async def test_an_account_without_a_ledger_is_a_configuration_error() -> None:
    """Never free in silence; a call without an account is only counted."""
    async with GenerationManager(options=OPTIONS) as manager:
        with pytest.raises(ConfigurationError, match="ledger"):
            await manager.start("s", calls(), account="team")
        await manager.start("s", calls((100, 10)))
        await settled(manager, user=None)
        (told,) = await usages(manager)
        assert (told["input_tokens"], told["output_tokens"], "cost_nano" in told) == (100, 10, False)


async def test_numbers_that_were_charged_are_not_used_again_after_a_restart(url: str) -> None:
    """A store in memory forgets its numbers; the ledger does not, and nobody's call is taken for another's."""
    numbers, posted = list[int](), 0
    for _ in range(3):
        ledger = Ledger.from_url(url, pricer=PRICES)
        async with GenerationManager(options=OPTIONS, ledger=ledger) as manager:
            await grant(manager, 10_000_000)
            job = await manager.start("s", calls((100, 10)), account="team")
            assert (await settled(manager, user=None)).status is Status.COMPLETE
            numbers.append(job.generation)
            posted, _ = await books(manager)
    assert numbers == [1, 2, 3]
    assert posted == 10_000_000 - 3 * COST
