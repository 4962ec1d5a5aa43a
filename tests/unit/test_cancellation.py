"""Cancellation, at every await where it can arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import GenerationStopped
from unspool.events import Event
from unspool.jobs import Status
from unspool.manager import GenerationManager
from unspool.options import Hooks, Options
from unspool.outcomes import Stopped
from unspool.producer import Generation
from unspool.testing.contract.kit import Puppet, begin, read, settled, within
from unspool.testing.faults import FaultyStore

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def manager() -> AsyncIterator[GenerationManager]:
    options = Options(lease=2.0, poll=0.02, sweep=0.02, abort_grace=0.1, drain=0.0)
    async with GenerationManager(MemoryStore(), MemoryTransport(), options=options) as made:
        yield made


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_stop_reaches_an_awaiting_tool_at_once(manager: GenerationManager) -> None:
    """Deep inside a tool call, through whatever it awaits; its clean-up runs before the seal."""
    waiting, cleaned = asyncio.Event(), asyncio.Event()

    async def tool() -> None:
        try:
            waiting.set()
            await asyncio.gather(asyncio.Event().wait(), asyncio.sleep(60))
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    async def run(generation: Generation) -> None:
        await generation.tool_call("t", "slow")
        await tool()

    await manager.start("s", run)
    await within(waiting.wait())
    outcome = await within(manager.abort("s"))
    assert isinstance(outcome, Stopped)
    assert cleaned.is_set()


async def test_a_stop_closes_the_models_stream(manager: GenerationManager) -> None:
    """`relay` leaves nothing of the model behind."""
    closed, waiting = asyncio.Event(), asyncio.Event()

    async def model() -> AsyncIterator[Event]:
        try:
            yield Event("text.delta", {"text": "x"})
            waiting.set()
            await asyncio.Event().wait()
        finally:
            closed.set()

    await manager.start("s", lambda generation: generation.relay(model()))
    await within(waiting.wait())
    assert (await within(manager.abort("s"))).text == "x"
    assert closed.is_set()


async def test_a_stop_frees_a_run_that_waits_for_the_store() -> None:
    """Paced by a slow store, a run still hears of its Stop; what it had queued is in the log."""
    store = FaultyStore(MemoryStore())
    options = Options(poll=0.02, sweep=0.02, backlog=2, drain=0.0)
    async with GenerationManager(store.as_store(), MemoryTransport(), options=options) as manager:
        store.gate = asyncio.Event()

        async def run(generation: Generation) -> None:
            for n in range(100):
                await generation.text(str(n), part_id=str(n))

        await manager.start("s", run)
        await turns(10)
        abort = asyncio.ensure_future(manager.abort("s"))
        await turns(10)
        assert not abort.done()
        store.gate.set()
        outcome = await within(abort)
        assert isinstance(outcome, Stopped)
        assert outcome.text == "01"


async def test_a_run_that_swallows_cancellation_is_fenced_after_its_grace(manager: GenerationManager) -> None:
    """The answer is bounded; the deaf run meets a closed door."""
    begun, leave, refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def deaf(generation: Generation) -> None:
        begun.set()
        while not leave.is_set():
            try:
                await asyncio.sleep(0.001)
                await generation.usage("late", output_tokens=1)
            except asyncio.CancelledError:
                pass
            except GenerationStopped:
                refused.set()
                await leave.wait()

    await manager.start("s", deaf)
    await within(begun.wait())
    outcome = await within(manager.abort("s"))
    assert isinstance(outcome, Stopped)
    await within(refused.wait())
    assert await manager.job("s") == outcome.job
    leave.set()


async def test_a_run_that_cancels_itself_is_aborted_by_its_owner(manager: GenerationManager) -> None:
    """Cancellation that nobody asked for is told from a Stop by a user."""

    async def run(_: Generation) -> None:
        raise asyncio.CancelledError

    await manager.start("s", run)
    job = await settled(manager, user=None)
    assert job.terminal is not None
    assert (job.status, job.terminal.data["by"]) == (Status.ABORTED, "owner")


async def test_open_passes_an_outside_cancellation_on(manager: GenerationManager) -> None:
    """The generation is sealed as aborted first."""
    inside = asyncio.Event()
    went_on = False

    async def work() -> None:
        nonlocal went_on
        async with manager.open("s") as generation:
            await generation.text("x")
            inside.set()
            await asyncio.Event().wait()
        went_on = True

    task = asyncio.create_task(work())
    await within(inside.wait())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    job = await manager.job("s")
    assert job.terminal is not None
    assert (job.status, job.terminal.data["by"], went_on) == (Status.ABORTED, "owner", False)


@pytest.mark.parametrize("how", ["cancelled", "swallowed", "refused"])
async def test_open_is_left_by_a_stop_and_the_code_after_it_goes_on(manager: GenerationManager, how: str) -> None:
    """However the block ends after its Stop; no trace of our cancellation is left in the task."""
    inside = asyncio.Event()
    left: list[tuple[bool, int]] = []

    async def work() -> None:
        async with manager.open("s") as generation:
            inside.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "cancelled":
                    raise
                if how == "refused":
                    await generation.text("last words")
        task = asyncio.current_task()
        assert task is not None
        left.append((generation.stopping.is_set(), task.cancelling()))
        await asyncio.sleep(0)

    task = asyncio.create_task(work())
    await within(inside.wait())
    assert isinstance(await within(manager.abort("s")), Stopped)
    await within(task)
    assert left == [(True, 0)]


async def test_open_with_both_kinds_of_cancellation_obeys_the_outer_one(manager: GenerationManager) -> None:
    """A Stop does not hide that the caller itself was cancelled."""
    inside = asyncio.Event()

    async def work() -> None:
        async with manager.open("s"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await within(inside.wait())
    abort = asyncio.create_task(manager.abort("s"))
    while not task.cancelling():
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await within(task)
    assert isinstance(await within(abort), Stopped)


async def test_open_turns_an_exception_into_an_error_and_raises_it(manager: GenerationManager) -> None:
    """The caller sees its own exception; the viewers only its name."""

    async def work() -> None:
        async with manager.open("s") as generation:
            await generation.text("x")
            raise ZeroDivisionError("secret")

    with pytest.raises(ZeroDivisionError):
        await work()
    job = await manager.job("s")
    assert job.terminal is not None
    assert job.status is Status.ERROR
    assert "ZeroDivisionError" in job.terminal.data["message"]
    assert "secret" not in str(job.terminal.data)


async def test_open_that_was_replaced_is_left(manager: GenerationManager) -> None:
    """The next turn began: the block is cancelled as by a Stop."""
    inside = asyncio.Event()

    async def work() -> str:
        async with manager.open("s"):
            inside.set()
            await asyncio.Event().wait()
        return "went on"

    task = asyncio.create_task(work())
    await within(inside.wait())
    await manager.start("s", Puppet())
    assert await within(task) == "went on"
    assert (await manager.job("s", generation=1)).status is Status.REPLACED


async def test_following_cancelled_in_its_wait_detaches(manager: GenerationManager) -> None:
    """Nothing of the viewer is left behind, and the run goes on."""
    run = await begin(manager, user=None)
    got: list[int] = []

    async def follow() -> None:
        async for record in manager.follow("s"):
            got.append(record.offset)  # noqa: PERF401  (what came before the cancellation counts)

    tasks = [asyncio.create_task(follow()) for _ in range(5)]
    await run.say("x")
    while len(got) < 5:
        await asyncio.sleep(0)
    await turns(3)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await turns(5)
    assert manager.statistics()["viewers"] == 0
    (tail,) = manager.replica.tails.values()
    assert tail.viewers == {}
    await run.say("y")
    assert (await manager.snapshot("s")).text == "xy"


async def test_a_viewer_cancelled_at_any_turn_loses_nothing(manager: GenerationManager) -> None:
    """`records` may be given up at any moment, snapshot included: the next call brings what was not handed over."""
    run = await begin(manager, user=None)
    await run.say("a", "b")
    for snapshot in (False, True):
        for count in range(6):
            viewer = await manager.view("s", snapshot=snapshot)
            task = asyncio.ensure_future(viewer.records())
            await turns(count)
            if task.done():
                got = task.result()
            else:
                task.cancel()
                await asyncio.wait([task])
                got = await within(viewer.records())
            assert got is not None
            assert got[-1].offset == 2
            assert got[0].type == ("sync" if snapshot else "text.delta")
            viewer.close()


async def test_an_abort_whose_caller_is_cancelled_still_happens(manager: GenerationManager) -> None:
    """The request was written: the run is stopped all the same."""
    run = await begin(manager, user=None)
    abort = asyncio.create_task(manager.abort("s"))
    await turns(1)
    abort.cancel()
    await asyncio.wait([abort])
    assert (await settled(manager, user=None)).status is Status.ABORTED
    assert run.signalled.is_set()


async def test_stopping_the_manager_survives_the_cancellation_of_its_caller() -> None:
    """Half a shutdown is none: it goes on to its end."""
    manager = GenerationManager(options=Options(abort_grace=0.1))
    await manager.start_up()
    run = await begin(manager, user=None)
    stopping = asyncio.create_task(manager.stop(drain=0))
    await turns(3)
    stopping.cancel()
    await asyncio.wait([stopping])
    await within(manager.stop())
    assert run.signalled.is_set()
    assert manager.closing


async def test_a_hook_that_is_cancelled_by_its_own_means_does_not_stop_the_seal() -> None:
    """It counts as failed: awaiting a cancelled task raises CancelledError, too."""

    async def hook(*_: object) -> None:
        other = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        other.cancel()
        await other

    options = Options(sweep=0.02, poll=0.02, drain=0.0)
    async with GenerationManager(options=options, hooks=Hooks(save_partial=[hook])) as manager:
        run = await begin(manager, user=None)
        run.fail(ValueError("no"))
        job = await settled(manager, user=None)
        assert job.terminal is not None
        assert job.terminal.data["code"] == "run_failed"


async def test_a_hook_that_hangs_has_its_time() -> None:
    """Then the seal comes, as if it had failed."""

    async def hook(*_: object) -> None:
        await asyncio.Event().wait()

    options = Options(sweep=0.02, poll=0.02, drain=0.0, hook_timeout=0.05)
    async with GenerationManager(options=options, hooks=Hooks(save_partial=[hook])) as manager:
        await begin(manager, user=None)
        reader = await read(manager, user=None)
        outcome = await within(manager.abort("s"))
        assert outcome.final is not None
        assert outcome.final.data["code"] == "save_failed"
        await reader.end()
