"""Faults: outages, poison, races between replicas; each once went wrong somewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import (
    ConfigurationError,
    GenerationStopped,
    Gone,
    InvalidEvent,
    RunFailed,
    ShuttingDown,
    StoreUnavailable,
    TooLarge,
)
from unspool.events import Record, encode_data
from unspool.jobs import Job, Owner, Status
from unspool.manager import GenerationManager
from unspool.options import Hooks, Options
from unspool.outcomes import Stopped, Unknown
from unspool.producer import Generation
from unspool.protocols import NewJob
from unspool.testing.contract.kit import Puppet, begin, read, settled, within
from unspool.testing.faults import FaultyStore
from unspool.testing.hostile import HostileTransport

pytestmark = pytest.mark.virtual_time

ALL = frozenset({"append", "read", "seal", "get", "renew", "request_abort", "checkpoint", "save_checkpoint"})


def over(store: Any, transport: Any = None, *, hooks: Hooks | None = None, **options: Any) -> GenerationManager:
    defaults: dict[str, Any] = {"poll": 0.02, "sweep": 0.02, "drain": 0.0, "abort_grace": 0.2}
    return GenerationManager(
        store, transport or MemoryTransport(), options=Options(**{**defaults, **options}), hooks=hooks
    )


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unspool.writer._BACKOFF", (0.005,))
    monkeypatch.setattr("unspool.settlement._PAUSES", (0.005,))


async def test_a_store_that_is_not_there_is_a_loud_start_up_error() -> None:
    """A1: never a silent fall-back to memory; nothing is left running."""
    store = FaultyStore(MemoryStore())
    store.down = True
    manager = over(store.as_store())
    before = asyncio.all_tasks()
    with pytest.raises(StoreUnavailable):
        await manager.start_up()
    with pytest.raises(ConfigurationError, match="not started"):
        await manager.start("s", Puppet())
    assert asyncio.all_tasks() == before


def test_half_a_back_end_is_a_configuration_error() -> None:
    """A1: store and transport are chosen together; a URL that no back end serves is named; the default is memory."""
    with pytest.raises(ConfigurationError):
        GenerationManager(MemoryStore())
    for url in (
        "kafka://x",
        "memory://host",
        "nonsense",
        "redis+sentinel://host",
        "redis+cluster://host:port",
        "redis://h?timeout=0",
    ):
        with pytest.raises(ConfigurationError):
            GenerationManager.from_url(url)
    assert GenerationManager().store.kind == GenerationManager.from_url().store.kind == "memory"


async def test_periodic_work_outlives_a_cancellation_that_is_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future of a library is cancelled in its hands: the next round comes all the same, and it still ends."""
    manager = over(MemoryStore(), lease=1.0)
    rounds: list[int] = []
    again = asyncio.Event()

    async def renew(*_: object) -> list[Any]:
        rounds.append(len(rounds))
        if len(rounds) > 1:
            again.set()
            return []
        raise asyncio.CancelledError

    monkeypatch.setattr(manager.store, "renew", renew)
    async with manager:
        await begin(manager)
        await within(again.wait())


async def test_an_outage_mid_stream_loses_nothing() -> None:
    """Scenario 56: away while the run goes on; everything arrives once, in order, and the run completes."""
    store = FaultyStore(MemoryStore())
    async with over(store.as_store(), backlog=8) as manager:
        run = await begin(manager, user=None)
        reader = await read(manager, user=None)
        await run.say("0 ")
        await reader.reach(1)
        store.down = True
        saying = asyncio.ensure_future(run.say(*(f"{n} " for n in range(1, 50))))
        await asyncio.sleep(0.05)
        assert reader.offsets == [1]
        store.down = False
        await within(saying)
        run.finish()
        await reader.end()
        assert reader.content.text == "".join(f"{n} " for n in range(50))


async def test_an_outage_at_the_end_is_waited_out() -> None:
    """The run returns while the store is away: it is completed when it is back, not reported as lost."""
    saved: list[str] = []

    async def save(_: Job, content: Any) -> None:
        saved.append(content.text)

    store = FaultyStore(MemoryStore())
    async with over(store.as_store(), hooks=Hooks(save_partial=[save])) as manager:
        for end, status in (("fine", Status.COMPLETE), ("bad", Status.ERROR)):
            run = await begin(manager, end, user=None)
            await run.say("x")
            store.down = True
            if end == "bad":
                run.fail(RunFailed("no"))
            else:
                run.finish()
            await asyncio.sleep(0.05)
            store.down = False
            assert (await settled(manager, end, user=None)).status is status
        assert saved == ["x"]


async def test_a_checkpoint_that_cannot_be_saved_is_tried_when_the_next_is_due(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not at every append: it is logged once, and the run completes."""
    inner = MemoryStore()
    tried = 0

    async def large(*_: Any) -> None:
        nonlocal tried
        tried += 1
        raise TooLarge("a checkpoint of 512 MB")

    inner.save_checkpoint = large  # pyright: ignore[reportAttributeAccessIssue]
    async with over(FaultyStore(inner).as_store(), checkpoint_every=10, log_records=80) as manager:
        run = await begin(manager, user=None)
        for _ in range(100):
            await run.emit("custom", name="x")
        run.finish()
        assert (await settled(manager, user=None)).status is Status.COMPLETE
    assert 5 <= tried <= 10
    assert len([record for record in caplog.records if "checkpoint" in record.getMessage()]) == 1


async def test_stopping_while_the_store_is_away_ends() -> None:
    """It gives up on the seal after its time, and leaves no task behind."""
    store = FaultyStore(MemoryStore())
    before = asyncio.all_tasks()
    manager = over(store.as_store(), abort_grace=0.05, hook_timeout=0.05)
    await manager.start_up()
    run = await begin(manager, user=None)
    store.down = True
    await (await run.generation()).text("x")
    await within(manager.stop(drain=0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("seed", range(8))
async def test_random_failures_of_every_verb_lose_nothing(seed: int) -> None:
    """Before or after the step, on the owner and on a follower, with hostile hints: exact all the same."""
    inner, transport = MemoryStore(), MemoryTransport()
    faults: dict[str, Any] = {"before": 0.15, "after": 0.15, "delay": 0.001, "verbs": ALL}
    stores = [FaultyStore(inner, seed=seed * 2 + n, **faults) for n in range(2)]
    managers = [
        over(store.as_store(), HostileTransport(transport, seed=seed + n), window=8, lease=5.0)
        for n, store in enumerate(stores)
    ]
    for manager in managers:
        await manager.start_up()

    async def run(generation: Generation) -> None:
        for n in range(120):
            await generation.text(f"{n} ", part_id=str(n % 3))

    await managers[0].start("s", run)

    async def follow(manager: GenerationManager) -> list[Record]:
        seen: list[Record] = []
        while True:
            try:
                async for record in manager.follow("s", after=seen[-1].offset if seen else 0):
                    seen.append(record)  # noqa: PERF401  (what came before an error counts)
            except StoreUnavailable:
                continue
            return seen

    logs = await within(asyncio.gather(*(follow(manager) for manager in managers * 2)))
    stored = list((await inner.read((await inner.get("s")).key, 0, 1000)).records)
    assert [record.offset for record in stored] == list(range(1, len(stored) + 1))
    assert logs == [stored] * 4
    text = "".join(record.data.get("text", "") for record in stored if record.data.get("part_id") == "1")
    assert text == "".join(f"{n} " for n in range(1, 120, 3))
    for manager, store in zip(managers, stores, strict=True):
        store.before = store.after = 0
        await manager.stop(drain=0)


async def test_a_viewer_of_a_log_that_was_deleted_is_told() -> None:
    """Its end was missed, since every hint was lost, and retention was short: Gone, never a hang."""
    store, transport = MemoryStore(), MemoryTransport()
    async with (
        over(store, transport, completed_retention=0, sweep=0.005) as one,
        over(store, HostileTransport(transport, seed=1, drop=1), poll=0.1, sweep=60) as two,
    ):
        run = await begin(one, user=None)
        await run.say("x")
        viewer = await two.view("s", after=1)
        run.finish()
        with pytest.raises(Gone):
            await within(viewer.records())
        assert two.statistics()["viewers"] == 0


async def test_an_abort_of_what_ends_and_vanishes_meanwhile_is_answered() -> None:
    """Completed and deleted while the Stop was waiting: unknown, not an exception."""
    store, transport = MemoryStore(), MemoryTransport()
    async with over(store, transport) as one, over(store, HostileTransport(transport, seed=1, drop=1)) as two:
        run = await begin(one, user=None)
        job = await one.job("s")
        abort = asyncio.ensure_future(two.abort("s"))
        await asyncio.sleep(0.005)
        run.finish()
        await settled(one, user=None)
        await store.delete(job.key)
        outcome = await within(abort)
        assert isinstance(outcome, Unknown) or outcome.final is not None


async def test_an_abort_answer_is_whole_when_its_replica_lagged_behind() -> None:
    """B knew three records of ten, and no hint ever came: the answer has all ten."""
    store, transport = MemoryStore(), MemoryTransport()
    async with (
        over(store, transport, lease=0.9) as one,
        over(store, HostileTransport(transport, seed=1, drop=1), poll=60, abort_grace=0.6) as two,
    ):
        run = await begin(one, user=None)
        await run.say("a", "b", "c")
        assert (await two.snapshot("s")).text == "abc"
        await run.say(*"defghij")
        outcome = await within(two.abort("s"))
        assert isinstance(outcome, Stopped)
        assert outcome.text == "abcdefghij"


async def test_two_survivors_that_abort_at_once_seal_once() -> None:
    """Both find the owner deaf, both are slow to save: each gets the same answer, and nobody an error."""
    saved: list[str] = []

    async def save(*_: object) -> None:
        saved.append("x")
        await asyncio.sleep(0.1)

    store, transport = MemoryStore(), MemoryTransport()
    hooks = Hooks(save_partial=[save])
    async with (
        over(store, HostileTransport(transport, seed=1, drop=1), lease=60.0) as one,
        over(store, transport, hooks=hooks, abort_grace=0.05, lease=60.0) as two,
        over(store, transport, hooks=hooks, abort_grace=0.05, lease=60.0) as three,
    ):
        run = await begin(one, user=None)
        await run.say("x")
        for manager in (two, three):
            object.__setattr__(manager.options, "lease", 0.03)  # so that their patience is short
        outcomes = await within(asyncio.gather(*(manager.abort("s") for manager in (two, three, two, three))))
        assert all(isinstance(outcome, Stopped) for outcome in outcomes)
        assert len({outcome.final for outcome in outcomes}) == 1
        assert saved == ["x"]


@pytest.mark.parametrize(
    "error",
    [
        lambda: RunFailed("lone \ud800 surrogate", code="c\udfff"),
        lambda: RunFailed(7, code=None),  # pyright: ignore[reportArgumentType]
        lambda: type("Ünpräntable", (Exception,), {})(),
    ],
)
async def test_whatever_a_run_raises_its_log_is_sealed(error: Callable[[], Exception]) -> None:
    """An error that no JSON can carry is told as well as it can be."""
    async with over(MemoryStore()) as manager:
        run = await begin(manager, user=None)
        run.fail(error())
        assert (await settled(manager, user=None)).status is Status.ERROR


async def test_a_stop_that_no_log_could_hold_is_refused() -> None:
    """Its words go into the terminal record; they are checked before the request is written."""
    async with over(MemoryStore()) as manager:
        await begin(manager, user=None)
        with pytest.raises(InvalidEvent):
            await manager.abort("s", reason="\ud800")
        assert (await manager.job("s")).abort is None


async def test_events_that_no_fold_could_place_are_refused() -> None:
    """Marks that are no strings would poison every snapshot of the log."""
    async with over(MemoryStore(), window=2) as manager:
        run = await begin(manager, user=None)
        generation = await run.generation()
        for kind, data in (("file", {"part_id": [1]}), ("text.delta", {"text": "x", "part_id": {}})):
            with pytest.raises(InvalidEvent):
                await generation.emit(kind, data)
        with pytest.raises(InvalidEvent):
            await generation.text("x", agent=["list"])  # pyright: ignore[reportArgumentType]
        await run.say("a", "b", "c")
        run.finish()
        assert (await settled(manager, user=None)).status is Status.COMPLETE


async def test_one_log_that_cannot_be_settled_does_not_hold_up_the_others() -> None:
    """Poison in one abandoned log: the sweep settles the next one, and keeps retention."""
    store = MemoryStore()
    poisoned, sound = [(await store.create(new)).job for new in (_new(name) for name in ("poisoned", "sound"))]
    await store.append(poisoned.key, 1, [Record(1, "text.delta", b"no json")])
    await store.append(sound.key, 1, [Record(1, "text.delta", encode_data({"part_id": "p", "text": "x"}))])
    async with over(store) as manager:
        assert (await settled(manager, "sound", user=None)).status is Status.ERROR


def _new(stream_id: str) -> NewJob:
    return NewJob(stream_id=stream_id, owner=Owner(), replica="dead", lease=0.01)


async def test_a_viewer_that_has_everything_is_finished_not_released() -> None:
    """Its terminal record was delivered: the shutdown is no news to it."""
    manager = over(MemoryStore())
    await manager.start_up()
    run = await begin(manager, user=None)
    run.finish()
    await settled(manager, user=None)
    viewer = await manager.view("s")
    assert [record.type for record in await viewer.records() or ()] == ["completed"]
    await manager.stop()
    assert await viewer.records() is None


async def test_a_viewer_closed_while_it_reads_delivers_nothing() -> None:
    """Neither the page nor the snapshot that was on its way."""
    store = FaultyStore(MemoryStore(), delay=0.005, verbs=frozenset({"read", "get"}))
    async with over(store.as_store(), window=2) as manager:
        run = await begin(manager, user=None)
        await run.say(*"abcdef")
        for snapshot in (False, True):
            viewer = await manager.view("s", snapshot=snapshot)
            reading = asyncio.ensure_future(viewer.records())
            await asyncio.sleep(0)
            viewer.close()
            assert await within(reading) is None


async def test_a_run_that_was_lost_leaves_no_append_behind() -> None:
    """Found by the simulator: an append that hangs when its run is lost is given up with it."""
    inner, transport = MemoryStore(), MemoryTransport()
    hanging = FaultyStore(inner)
    manager, other = over(hanging.as_store(), transport), over(inner, transport)
    async with other:
        async with manager:
            puppet = await begin(manager)
            generation = await puppet.generation()
            hanging.gate = asyncio.Event()
            await generation.text("never arrives")
            flushed = asyncio.ensure_future(generation._writer.flush())
            await begin(other)  # replaces it
            with pytest.raises(GenerationStopped):
                await within(flushed)
        assert not [task for task in asyncio.all_tasks() if "s/1" in task.get_name()]


async def test_what_is_being_created_when_the_replica_stops_is_interrupted_with_the_rest() -> None:
    """Found by the simulator: no run begins on a replica that has stopped, and none is left without an end."""
    inner = MemoryStore()
    slow = FaultyStore(inner, verbs=frozenset({"create"}))
    manager = over(slow.as_store())
    await manager.start_up()
    slow.gate = asyncio.Event()
    starting = asyncio.ensure_future(manager.start("s", Puppet()))
    await asyncio.sleep(0)
    stopping = asyncio.ensure_future(manager.stop())
    await asyncio.sleep(0)
    slow.gate.set()
    assert (await within(starting)).status is Status.RUNNING
    await within(stopping)
    terminal = (await inner.get("s")).terminal
    assert terminal is not None
    assert terminal.data["code"] == "interrupted"


async def test_what_is_created_after_the_replica_has_stopped_does_not_begin() -> None:
    """A store that answers too late: the caller is told, the run is never called, the lease runs out."""
    slow = FaultyStore(MemoryStore(), verbs=frozenset({"create"}))
    manager = over(slow.as_store(), abort_grace=0.01)
    await manager.start_up()
    slow.gate = asyncio.Event()
    puppet = Puppet()
    starting = asyncio.ensure_future(manager.start("s", puppet))
    await asyncio.sleep(0)
    await within(manager.stop())
    slow.gate.set()
    with pytest.raises(ShuttingDown):
        await within(starting)
    assert not puppet._generation.done()
