"""Starting and stopping a manager: nothing is left open, and nothing is begun that would have no end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.errors import ConfigurationError, ShuttingDown, StoreUnavailable
from unspool.jobs import Owner, Status
from unspool.manager import GenerationManager
from unspool.options import Hooks, Options
from unspool.producer import Generation
from unspool.protocols import Created, NewJob
from unspool.testing.contract.kit import begin, eventually, settled, within
from unspool.testing.faults import FaultyStore

pytestmark = pytest.mark.virtual_time


class Opened(MemoryStore):
    """A store that knows whether it is open; closing it takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = 0

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        await asyncio.sleep(0.3)
        self.opened -= 1


def over(store: Any, transport: Any = None, *, hooks: Hooks | None = None, **options: Any) -> GenerationManager:
    given: dict[str, Any] = {"lease": 5.0, "sweep": 0.1, "poll": 0.1, "abort_grace": 0.2, "drain": 0.0}
    return GenerationManager(
        store, transport or MemoryTransport(), options=Options(**{**given, **options}), hooks=hooks
    )


async def forever(gen: Generation) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "error", [OSError("no route"), ConfigurationError("tables are missing"), asyncio.CancelledError()]
)
@pytest.mark.parametrize("where", ["store", "ledger"])
async def test_a_start_that_fails_leaves_nothing_open(
    error: BaseException, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, transport = Opened(), MemoryTransport()
    manager = over(store, transport)

    async def fail() -> None:
        raise error

    with monkeypatch.context() as patched:
        if where == "store":
            patched.setattr(store, "ping", fail)
        else:
            patched.setattr(manager.billing, "open", fail)
        with pytest.raises(type(error)):
            await manager.start_up()
    assert (store.opened, len(transport._channels)) == (0, 0)
    async with manager:
        assert (store.opened, len(transport._channels)) == (1, 1)


async def test_stopping_twice_waits_twice_and_starting_waits_for_the_stop() -> None:
    store = Opened()
    manager = over(store)
    await manager.start_up()
    first = asyncio.create_task(manager.stop())
    await asyncio.sleep(0.1)
    await manager.stop()
    assert store.opened == 0
    await first
    await manager.start_up()
    again = asyncio.create_task(manager.stop())
    await asyncio.sleep(0.1)
    await manager.start_up()
    assert again.done()
    assert (store.opened, manager.closing) == (1, False)
    await manager.stop()


async def test_what_asks_a_manager_that_has_stopped_is_told_to_come_back() -> None:
    """A request on a connection that is still open: 503, which a client repeats, and no error of configuration."""
    manager = over(MemoryStore())
    with pytest.raises(ConfigurationError):
        await manager.start("s", forever)
    async with manager:
        pass
    with pytest.raises(ShuttingDown):
        await manager.start("s", forever)


async def test_a_creation_that_is_answered_after_the_close_is_sealed_at_once() -> None:
    """It has replaced the running answer, and has no owner: nobody waits for its lease, and the error names it."""
    inner, transport = MemoryStore(), MemoryTransport()
    store = FaultyStore(inner, verbs=frozenset({"create"}))
    one, two = over(store.as_store(), transport), over(inner, transport)
    await one.start_up()
    async with two:
        await begin(two, user=None)
        store.gate = asyncio.Event()
        starting = asyncio.create_task(one.start("s", forever))
        while "create" not in store.calls:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(one.stop())
        await asyncio.sleep(1.0)
        store.gate.set()
        with pytest.raises(ShuttingDown) as refused:
            await within(starting)
        assert refused.value.details["generation"] == 2
        job = await two.job("s")
        assert job.terminal is not None
        assert (job.status, job.terminal.data["code"]) == (Status.ERROR, "shutting_down")
        await stopping


@pytest.mark.parametrize("late", [False, True], ids=["soon", "after half a lease"])
async def test_what_a_lost_creation_has_replaced_is_told(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block that was to run it never begins: it is sealed, and the one that it has replaced is settled."""
    store, told = MemoryStore(), list[tuple[int, Status]]()
    create, get = store.create, store.get

    async def tell(job: Any, _: object) -> None:
        told.append((job.generation, job.status))

    async def away(*_: object, **__: object) -> Any:
        raise StoreUnavailable("away")

    async def lost(new: NewJob) -> Created:
        monkeypatch.setattr(store, "create", create)
        if late:
            monkeypatch.setattr(store, "get", away)
        await create(new)
        raise StoreUnavailable("the answer was lost")

    async with over(store, hooks=Hooks(settled=[tell])) as manager:
        await begin(manager, user=None)
        monkeypatch.setattr(store, "create", lost)
        with pytest.raises(StoreUnavailable):
            async with manager.open("s"):
                raise AssertionError("it must not be entered")
        if late:
            await asyncio.sleep(3.0)
            monkeypatch.setattr(store, "get", get)
        assert (await settled(manager, user=None)).generation == 2
        assert told[0] == (1, Status.REPLACED)
        assert [generation for generation, _ in told] == [1, 2]


async def test_a_stop_during_the_admission_cancels_the_block_of_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look at the limits takes its time: the generation exists already, and can be stopped."""
    store = MemoryStore()
    active, asked, go = store.active, list[object](), asyncio.Event()

    async def slow(owner: Any) -> Any:
        asked.append(owner)
        if len(asked) == 2:
            await go.wait()
        return await active(owner)

    monkeypatch.setattr(store, "active", slow)
    async with over(store, max_active_per_user=5) as manager:
        left = list[str]()

        async def block() -> None:
            async with manager.open("s", user="u"):
                left.append("entered")
                await asyncio.Event().wait()
            left.append("left")

        task = asyncio.create_task(block())
        while len(asked) < 2:
            await asyncio.sleep(0)
        stopping = asyncio.create_task(manager.abort("s", user="u"))
        await asyncio.sleep(0.05)
        go.set()
        await within(task)
        await within(stopping)
        assert left[-1] == "left"
        assert (await manager.job("s", user="u")).status is Status.ABORTED


async def test_hooks_in_the_background_do_not_outlive_the_store() -> None:
    store, after = Opened(), list[int]()

    async def hook(*_: object) -> None:
        try:
            await asyncio.sleep(0.25)
        finally:
            after.append(store.opened)

    async with over(store, hooks=Hooks(first_viewer=[hook] * 4), hook_timeout=0.3) as manager:
        await begin(manager, user=None)
        await manager.view("s")
        await asyncio.sleep(0.05)
    await asyncio.sleep(5.0)
    assert set(after) == {1}


@pytest.mark.parametrize("seconds", [0.2, 5.0], ids=["in time", "too long"])
async def test_no_hook_outlives_a_stop_that_is_asked_of_a_replica_that_ends(seconds: float) -> None:
    """It has taken the generation over for a Stop, and saves it, when it is told to end itself."""
    store, saving, after = Opened(), asyncio.Event(), list[int]()

    async def save(*_: object) -> None:
        saving.set()
        try:
            await asyncio.sleep(seconds)
        finally:
            after.append(store.opened)

    await store.create(NewJob(stream_id="s", owner=Owner(), replica="dead", lease=1000.0))
    manager = over(store, hooks=Hooks(save_partial=[save]), hook_timeout=1.0)
    await manager.start_up()
    before = asyncio.all_tasks()
    stopping = asyncio.create_task(manager.abort("s"))
    await within(saving.wait())
    await manager.stop()
    assert after == [1]
    stopping.cancel()
    await asyncio.wait((stopping,))
    assert asyncio.all_tasks() <= before


async def test_a_hook_that_swallows_its_cancellation_holds_up_no_seal() -> None:
    cancelled, go = list[int](), asyncio.Event()

    async def deaf(*_: object) -> None:
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                cancelled.append(1)

    async with over(MemoryStore(), hooks=Hooks(save_partial=[deaf]), hook_timeout=0.3) as manager:
        await begin(manager, user=None)
        await within(manager.abort("s"))
        job = await settled(manager, user=None)
        assert job.terminal is not None
        assert job.terminal.data["code"] == "save_failed"
        assert cancelled
        go.set()


async def test_a_settled_hook_that_takes_long_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The renewals meanwhile find a log that is sealed: by its own owner."""
    done = asyncio.Event()

    async def slow(*_: object) -> None:
        await asyncio.sleep(2.0)
        done.set()

    async with over(MemoryStore(), hooks=Hooks(settled=[slow]), lease=0.6) as manager:
        run = await begin(manager, user=None)
        run.finish()
        await within(done.wait())

        async def ended() -> bool:
            return not manager.replica.runs

        await eventually(ended)
        assert manager.statistics()["totals"].get("lost", 0) == 0
    assert "no longer owned" not in caplog.text


async def test_a_run_that_is_replaced_is_no_loss(caplog: pytest.LogCaptureFixture) -> None:
    """A user asks the next question: nothing to warn of, here or where the run was."""
    store, transport = MemoryStore(), MemoryTransport()
    async with over(store, transport) as one, over(store, transport) as two:
        await begin(one, user=None)
        await begin(one, user=None)
        await begin(two, user=None)

        async def ended() -> bool:
            return not one.replica.runs

        await eventually(ended)
        assert one.statistics()["totals"].get("lost", 0) == 0
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
