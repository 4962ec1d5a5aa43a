"""The writer: group commit, exactly once, whatever the store does."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import virtual
from unspool.backends.memory import MemoryStore
from unspool.errors import Fenced, GenerationStopped, RunFailed
from unspool.events import Record, encode_data
from unspool.jobs import GenerationKey, Owner
from unspool.protocols import NewJob
from unspool.testing.faults import FaultyStore
from unspool.turns import Turns
from unspool.writer import BATCH_BYTES, MERGED_CHARS, LogWriter, Part

pytestmark = pytest.mark.virtual_time

KEY = GenerationKey("s", 1)


class Log:
    """A writer over a faulty store, and what it published."""

    def __init__(self, *, backlog: int = 8, log_bytes: int = 0, at_hand: bool = False, **faults: Any) -> None:
        self.inner = MemoryStore()
        self.store = FaultyStore(self.inner, **faults)
        self.published: list[Record] = []
        self.lost: list[Exception] = []
        self.writer = LogWriter(
            self.inner if at_hand else self.store.as_store(), KEY, 1, self._publish, self.lost.append, self._held,
            Turns(), last=0, backlog=backlog, log_bytes=log_bytes,
        )  # fmt: skip

    async def create(self) -> Log:
        await self.inner.create(NewJob(stream_id="s", owner=Owner(), replica="a", lease=60.0))
        return self

    def _publish(self, records: Sequence[Record]) -> None:
        self.published += records

    def _held(self, after: int) -> Sequence[Record]:
        return [record for record in self.published if record.offset > after]

    def put(self, text: str, id: str = "p", internal: bool = False, **marks: str) -> None:
        self.writer.put_delta(Part("text.delta", id, encode_data(marks) if marks else b"", internal), text)

    async def stored(self) -> list[Record]:
        return list((await self.inner.read(KEY, 0, 100_000)).records)


_steps = st.lists(
    st.tuples(st.sampled_from("pqr"), st.text(max_size=3), st.sampled_from(["delta"] * 3 + ["event", "pause"])),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps=_steps, seed=st.integers(0, 2**16), before=st.sampled_from([0, 0.2]), after=st.sampled_from([0, 0.2]))
def test_merging_keeps_the_text_and_offsets_stay_dense(steps: Any, seed: int, before: float, after: float) -> None:
    """However the store dawdles and fails, before the step or after it: each part's text is whole, nothing twice."""

    async def run() -> None:
        log = await Log(seed=seed, before=before, after=after, delay=0.0005).create()
        expected: dict[str, str] = defaultdict(str)
        order: list[str] = []
        for part, text, kind in steps:
            if kind == "pause":
                await asyncio.sleep(0.0005)
            elif kind == "event":
                log.writer.put("custom", b'{"name":"n"}', False)
                order.append("custom")
            else:
                log.put(text, part)
                expected[part] += text
                if not order or order[-1] != part:
                    order.append(part)
            if log.writer.full:
                await log.writer.room()
        await log.writer.flush()
        stored = await log.stored()
        assert [record.offset for record in stored] == list(range(1, len(stored) + 1))
        assert stored == log.published
        found: dict[str, str] = defaultdict(str)
        seen: list[str] = []
        for record in stored:
            name = record.data["part_id"] if record.type == "text.delta" else "custom"
            if record.type == "text.delta":
                found[name] += record.data["text"]
            if name == "custom" or not seen or seen[-1] != name:
                seen.append(name)
        assert found == expected
        assert seen == order

    virtual.run(_quickly(run()))


async def _quickly(work: Any) -> None:
    """With the writer's back-off taken out: its pauses are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unspool.writer._BACKOFF", (0.0,))
        await work


async def test_events_gather_while_an_append_is_in_flight() -> None:
    """One append for the first, one for all that came meanwhile; neighbours of one part are one record."""
    log = await Log(backlog=100).create()
    log.store.gate = asyncio.Event()
    log.put("a")
    while "append" not in log.store.calls:
        await asyncio.sleep(0)
    for text in "bcd":
        log.put(text)
    log.put("x", "q")
    log.put("e")
    log.store.gate.set()
    await log.writer.flush()
    assert [(record.data["part_id"], record.data["text"]) for record in log.published] == [
        ("p", "a"), ("p", "bcd"), ("q", "x"), ("p", "e"),
    ]  # fmt: skip
    assert log.store.calls["append"] == 2


async def test_only_what_is_alike_merges() -> None:
    """Another type, mark or visibility begins a new record; so does a full one."""
    log = await Log(backlog=100).create()
    log.put("a")
    log.put("b", internal=True)
    log.put("c", agent="x")
    log.put("d", agent="y")
    thought = Part("reasoning.delta", "p", b'{"agent":"y"}', False)
    for text in ("e", "x" * MERGED_CHARS, "f"):
        log.writer.put_delta(thought, text)
    await log.writer.flush()
    assert [len(record.data["text"]) for record in log.published] == [1, 1, 1, 1, 1 + MERGED_CHARS, 1]


async def test_a_slow_store_paces_the_run() -> None:
    """The backlog is bounded: a run that emits without pause waits, and goes on when the store does."""
    log = await Log(backlog=8).create()
    log.store.gate = asyncio.Event()
    emitted = 0

    async def run() -> None:
        nonlocal emitted
        for n in range(100):
            log.put("x", str(n))
            emitted += 1
            if log.writer.full:
                await log.writer.room()

    task = asyncio.create_task(run())
    for _ in range(50):
        await asyncio.sleep(0)
    assert emitted == 8
    log.store.gate.set()
    await task
    await log.writer.flush()
    assert len(log.published) == 100


@pytest.mark.parametrize("waits", ["flush", "room"])
async def test_later_events_block_no_task_that_waits(waits: str) -> None:
    """A busy task of the run keeps the backlog full; another task waits for the events before its call, no longer."""
    log = await Log(backlog=4, delay=0.01).create()

    async def busy() -> None:
        while True:
            log.writer.put("custom", b"{}", False)
            if log.writer.full:
                await log.writer.room()

    task = asyncio.create_task(busy())
    while not log.writer.full:
        await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await getattr(log.writer, waits)()
    assert len(log.published) <= 2 * 4
    task.cancel()


async def test_a_change_of_the_job_shortens_no_wait_for_events() -> None:
    """It is written with the first of several appends; a task that waits for the events waits for the last of them."""
    log = await Log(backlog=100).create()
    for _ in range(2):
        log.writer.put("custom", b'{"name":"%b"}' % (b"x" * BATCH_BYTES), False)
    flushed = asyncio.create_task(log.writer.flush())
    await asyncio.sleep(0)
    log.writer.put_metadata({"title": "T"})
    await flushed
    assert len(log.published) == 2
    await log.writer.flush()
    assert log.store.calls["append"] == 2


async def test_an_outage_loses_and_reorders_nothing() -> None:
    """Down in the midst of an append: the run waits, and everything arrives once, in order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unspool.writer._BACKOFF", (0.001,))
        log = await Log(backlog=4).create()
        log.put("a", "1")
        await log.writer.flush()
        log.store.down = True
        log.put("b", "2")
        for _ in range(5):
            await asyncio.sleep(0.001)
        log.put("c", "3")
        log.store.down = False
        await log.writer.flush()
    assert [record.data["text"] for record in await log.stored()] == ["a", "b", "c"]


@pytest.mark.parametrize("at_hand", [True, False])
async def test_a_lost_lease_breaks_the_writer(at_hand: bool) -> None:
    """What was queued is refused, and so is everything later; the run is told why, once."""
    log = await Log(at_hand=at_hand).create()
    await log.inner.take_over(KEY, 1, "b", 60.0)
    log.put("a")
    with pytest.raises(Fenced):
        await log.writer.flush()
    with pytest.raises(Fenced):
        log.put("b")
    assert len(log.lost) == 1
    assert log.published == await log.stored() == []


async def test_an_unforeseen_error_of_the_store_breaks_the_writer_too() -> None:
    """It does not look like success, and nobody waits for ever."""
    log = await Log(backlog=1).create()

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    log.inner.append = broken  # pyright: ignore[reportAttributeAccessIssue]
    log.put("a")
    with pytest.raises(Fenced):
        await log.writer.room()
    with pytest.raises(Fenced):
        await log.writer.flush()
    assert len(log.lost) == 1


async def test_refusing_lets_what_is_queued_through() -> None:
    """And raises what it was told for everything after."""
    log = await Log().create()
    log.put("a")
    log.writer.refuse(GenerationStopped("stopped"))
    with pytest.raises(GenerationStopped, match="stopped"):
        log.put("b")
    await log.writer.flush()
    assert [record.data["text"] for record in await log.stored()] == ["a"]


async def test_a_log_has_its_bound_of_bytes() -> None:
    """The event beyond it fails the run, by name."""
    log = await Log(log_bytes=len("p") + 10).create()
    log.put("x" * 10)
    with pytest.raises(RunFailed) as raised:
        log.put("x")
    assert raised.value.reason == "limit_exceeded"


async def test_ids_and_marks_of_deltas_count_for_the_bounds() -> None:
    """Once for each record: in the bytes of the log, and in those of an append."""
    log = await Log(backlog=100, log_bytes=2 * 400_000 + 500).create()
    log.put("a", blob="x" * 400_000)
    log.put("b", blob="x" * 400_000)
    log.put("c", "y" * 400_000)
    with pytest.raises(RunFailed):
        log.put("d", blob="y" * 400_000)
    await log.writer.flush()
    assert [record.data["text"] for record in log.published] == ["ab", "c"]
    log = await Log(backlog=100).create()
    for part in "pqr":
        log.put("a", part, blob="x" * 400_000)
    await log.writer.flush()
    assert log.store.calls["append"] == 2


async def test_a_store_at_hand_needs_no_task() -> None:
    """What comes in one step of a run is one append in the next turn of the loop, and nobody waits for it."""
    log = await Log(backlog=100, at_hand=True).create()
    tasks = asyncio.all_tasks()
    for _ in range(3):
        for text in "ab":
            log.put(text)
        assert asyncio.all_tasks() == tasks
        await asyncio.sleep(0)
    assert [record.data["text"] for record in log.published] == ["ab", "ab", "ab"]
    assert await log.stored() == log.published
