"""What the memory store does beyond the contract: its own bounds, with a clock in the test's hands."""

from __future__ import annotations

import gc
import time
from typing import Any

import pytest

from unspool.backends.memory import MemoryStore
from unspool.errors import CapacityExceeded, Gone, NotFound
from unspool.jobs import GenerationKey, Job, Metadata, Owner
from unspool.protocols import NewJob

OWNER = Owner("u")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def made(store: MemoryStore, stream_id: str, **more: Any) -> Job:
    new = NewJob(stream_id=stream_id, owner=OWNER, replica="a", lease=10.0, **more)
    return (await store.create(new)).job


async def ended(store: MemoryStore, stream_id: str) -> Job:
    job = await made(store, stream_id)
    return (await store.seal(job.key, 1, "completed", b"{}")).job


def titles(store: MemoryStore) -> set[str | None]:
    """Titles that anything in the store still refers to."""
    seen: set[int] = set()
    found: set[str | None] = set()
    left: list[Any] = [value for name, value in vars(store).items() if name != "_clock"]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        if isinstance(one, Metadata):
            found.add(one.title)
        left += gc.get_referents(one)
    return found - {None}


async def test_numbers_are_never_reused_when_streams_are_forgotten() -> None:
    """Beyond its bound of remembered streams the store folds the oldest into a floor: numbers still only rise."""
    store = MemoryStore(max_streams=2)
    seen: dict[str, list[int]] = {}
    for turn in range(60):
        name = f"s{turn % 5}"
        job = await ended(store, name)
        seen.setdefault(name, []).append(job.generation)
        await store.delete(job.key)
    for numbers in seen.values():
        assert numbers == sorted(set(numbers))
    assert len(store._streams) <= 2


@pytest.mark.parametrize("max_streams", [0, 1, 2])
async def test_making_room_does_not_lose_the_stream_that_is_being_created(max_streams: int) -> None:
    """With one place, creating on a dormant stream evicts another one, whose end pushes the first out of memory."""
    store = MemoryStore(max_jobs=1, max_streams=max_streams)
    before = (await ended(store, "a")).generation
    await ended(store, "b")
    job = await made(store, "a")
    assert job.generation > before
    assert await store.get("a") == job
    assert [found.key for found in await store.active(OWNER)] == [job.key]


async def test_the_one_that_ended_first_goes_first() -> None:
    """Not the one that began first; a running one never."""
    store = MemoryStore(max_jobs=3)
    first, second = await made(store, "first"), await made(store, "second")
    await store.seal(second.key, 1, "completed", b"{}")
    await store.seal(first.key, 1, "completed", b"{}")
    await made(store, "third")
    await made(store, "fourth")
    with pytest.raises(Gone):
        await store.get("second")
    assert (await store.get("first")).settled
    await made(store, "fifth")
    with pytest.raises(CapacityExceeded) as raised:
        await made(store, "sixth")
    assert raised.value.details == {"limit": 3}
    with pytest.raises(NotFound):
        await store.get("sixth")


async def test_a_creation_that_is_refused_has_evicted_nothing() -> None:
    """A running generation was replaced in a full store: what ended makes room only for what is made."""
    store = MemoryStore(max_jobs=2)
    for name in "aba":
        await made(store, name)
    with pytest.raises(CapacityExceeded):
        await made(store, "c")
    assert (await store.get("a", 1)).settled


async def test_replacing_needs_no_free_place() -> None:
    """A full store still takes the next turn of a running stream; the count stays within the bound once it ends."""
    store = MemoryStore(max_jobs=1)
    await made(store, "s")
    assert (await made(store, "s")).generation == 2
    assert (await made(store, "s")).generation == 3
    assert (await store.counts()).total <= 2


async def test_an_evicted_generation_takes_its_request_id_along() -> None:
    """The id is free again: the retry makes a new generation with a new number."""
    store = MemoryStore(max_jobs=1)
    job = await made(store, "s", request_id="r")
    await store.seal(job.key, 1, "completed", b"{}")
    await ended(store, "t")
    assert (await made(store, "s", request_id="r")).generation == 2


async def test_times_come_from_the_stores_clock() -> None:
    """Creation, activity, lease, seal and retention, to the second."""
    clock = Clock()
    store = MemoryStore(clock=clock)
    job = await made(store, "s")
    assert (job.created_at, job.lease.expires_at) == (1000.0, 1010.0)
    clock.now = 1009.9
    assert (await store.expired(9)).jobs == []
    clock.now = 1010.0
    assert [found.key for found in (await store.expired(9)).jobs] == [job.key]
    await store.append(job.key, 1, [])
    assert (await store.get("s")).lease.expires_at == 1020.0
    await store.renew("a", [(job.key, 1)], 3.0)
    assert (await store.get("s")).lease.expires_at == 1013.0
    clock.now = 1014.0
    lease = await store.take_over(job.key, 1, "b", 5.0, expires_at=1013.0)
    assert lease is not None
    assert lease.expires_at == 1019.0
    await store.seal(job.key, 2, "completed", b"{}")
    clock.now = 1023.9
    assert await store.delete_expired(10.0, 10.0) == []
    clock.now = 1024.0
    assert await store.delete_expired(10.0, 10.0) == [GenerationKey("s", 1)]


async def test_trimming_needs_a_checkpoint() -> None:
    """What no checkpoint covers is not forgotten."""
    store = MemoryStore()
    job = await made(store, "s")
    with pytest.raises(ValueError, match="no checkpoint"):
        await store.trim(job.key, 1, 1)


async def test_nothing_is_left_of_what_is_deleted() -> None:
    """A thousand short lives leave only their streams' numbers."""
    store = MemoryStore(max_streams=10)
    for n in range(1000):
        job = await ended(store, f"s{n}")
        await store.delete(job.key)
    first = await made(store, "t", metadata=Metadata(title="first"))
    second = await made(store, "t", metadata=Metadata(title="second"))
    await store.delete(first.key)
    assert titles(store) == {"second"}
    await store.seal(second.key, 1, "completed", b"{}")
    await store.delete(second.key)
    assert titles(store) == set()
    assert (len(store._streams), len(store._dormant), store._by_owner, store._settled) == (10, 10, {}, {})


async def test_a_step_of_the_machines_clock_ends_no_lease_and_no_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours forward, as NTP or a resumed machine may do: what runs is alive, and what has ended is kept."""
    store = MemoryStore()
    running = await made(store, "running")
    await ended(store, "ended")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 7200)
    assert (await store.expired(9)).jobs == []
    assert await store.delete_expired(3600.0, 3600.0) == []
    assert (await store.get("running")).key == running.key


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_attempts_under_one_request_id_are_forgotten_in_any_order(order: tuple[int, int]) -> None:
    """The first failed before it said anything and gave its id back; the second has it, and may be deleted first."""
    store = MemoryStore()
    attempts: list[Job] = []
    for _ in range(2):
        job = await made(store, "s", request_id="r")
        attempts.append((await store.seal(job.key, 1, "failed", b'{"retryable":true}')).job)
    for number in order:
        assert await store.delete(attempts[number].key)
    assert (await made(store, "s", request_id="r")).generation == 3
