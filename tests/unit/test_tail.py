"""The tail: what it decides about records and hints, without any manager around it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unspool.backends.memory import MemoryStore
from unspool.errors import StoreUnavailable
from unspool.events import Record
from unspool.jobs import GenerationKey, Owner
from unspool.protocols import Checkpoint, Hint, NewJob
from unspool.tail import Tail
from unspool.testing.faults import FaultyStore

pytestmark = pytest.mark.virtual_time

KEY = GenerationKey("s", 1)


def records(first: int, last: int) -> list[Record]:
    return [Record(n, "text.delta", b'{"part_id":"p","text":"%d "}' % n) for n in range(first, last + 1)]


def tail(store: MemoryStore | None = None, *, last: int = 0, window: int = 8, window_bytes: int = 10**6) -> Tail:
    return Tail(KEY, store or MemoryStore(), last=last, window=window, window_bytes=window_bytes)


async def filled(count: int) -> MemoryStore:
    store = MemoryStore()
    await store.create(NewJob(stream_id="s", owner=Owner(), replica="a", lease=60.0))
    await store.append(KEY, 1, records(1, count))
    return store


@settings(max_examples=200, deadline=None)
@given(chunks=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), max_size=30), window=st.integers(1, 10))
def test_accept_takes_only_what_follows_on(chunks: list[tuple[int, int]], window: int) -> None:
    """Doubled, overlapping, early and late pieces: what is held is always a run without holes, within the window."""
    made = tail(window=window)
    for first, length in chunks:
        held = made.held
        fits = made.accept(records(first, first + length - 1))
        assert fits is (length == 0 or first <= held + 1)
        assert made.held == (max(held, first + length - 1) if fits and length else held)
        assert [record.offset for record in made._records] == list(range(made._first, made.held + 1))
        assert len(made._records) <= max(window, 1) + (0 if window > 1 else 1)
        assert made.last >= made.held


async def test_a_hint_with_a_gap_is_repaired_from_the_store() -> None:
    """Its records are not taken; what is missing is read."""
    store = await filled(20)
    made = tail(store, window=100)
    made.hint(Hint(KEY, 20, records(19, 20)))
    assert made.held == 0
    while made.held < 20:
        await asyncio.sleep(0)
    assert [record.offset for record in made.slice(0) or ()] == list(range(1, 21))


async def test_a_hint_without_records_is_enough() -> None:
    """It only says that there is more."""
    store = await filled(5)
    made = tail(store)
    made.hint(Hint(KEY, 5))
    while made.held < 5:
        await asyncio.sleep(0)


async def test_a_control_hint_finds_the_seal() -> None:
    """Whoever announces an end need not bring it along."""
    store = await filled(2)
    made = tail(store, last=2)
    await store.seal(KEY, 1, "completed", b"{}")
    made.hint(Hint(KEY, control=True))
    assert await made.wait_settled(5.0)
    assert made.ended_at(3)
    assert not made.ended_at(2)


async def test_waiting_for_the_seal_is_bounded() -> None:
    """False when it did not come."""
    assert not await tail().wait_settled(0.001)


async def test_a_log_trimmed_beyond_what_is_held_begins_anew() -> None:
    """The tail goes on where the log begins now; older positions are no longer its own."""
    store = await filled(5)
    made = tail(store, last=5, window=100)
    await store.append(KEY, 1, records(6, 100))
    await store.save_checkpoint(KEY, 1, Checkpoint(90, b""))
    await store.trim(KEY, 1, 50)
    await made.repair()
    assert (made.held, made._first) == (100, 51)
    assert made.slice(5) is None
    assert [record.offset for record in made.slice(50, 3) or ()] == [51, 52, 53]


class Told:
    """A follower that only notes what it is told."""

    def __init__(self) -> None:
        self.rewinds: list[int] = []

    def changed(self) -> None: ...

    def rewound(self, to: int) -> None:
        self.rewinds.append(to)


async def test_a_log_that_was_written_anew_is_read_from_where_it_parts() -> None:
    """The store has lost records and holds others in their place: whoever read further than that is told."""
    made, told = tail(await filled(20), window=100), Told()
    made.viewers[told] = None
    other = [Record(n, "text.delta", b'{"part_id":"p","text":"other "}') for n in range(13, 26)]
    made.accept(records(1, 20))
    store = await filled(12)
    await store.append(KEY, 1, other)
    made._store = store
    made.hint(Hint(KEY, 19, other[6:7]))
    while made.held < 25:
        await asyncio.sleep(0)
    assert told.rewinds == [12]
    assert made.slice(12) == other
    assert (await made.snapshot()).text == "".join(f"{n} " for n in range(1, 13)) + "other " * 13


async def test_an_end_that_comes_while_the_store_is_read_stays() -> None:
    """A page that holds the end, too, is no news then, and nothing is taken back."""
    store, told = await filled(1), Told()
    faulty = FaultyStore(store, verbs=frozenset({"read"}))
    made = tail(store, window=100)
    made._store = faulty.as_store()
    made.viewers[told] = None
    made.accept(records(1, 1))
    await store.seal(KEY, 1, "completed", b"{}")
    faulty.gate = asyncio.Event()
    made.repair_soon()
    while "read" not in faulty.calls:
        await asyncio.sleep(0)
    end = (await store.get("s")).terminal
    assert end is not None
    made.hint(Hint(KEY, 2, [end], control=True))
    faulty.gate.set()
    assert made._repair is not None
    await made._repair
    assert (made.held, made.sealed, told.rewinds) == (2, True, [])
    assert made.slice(1) == [end]


@pytest.mark.parametrize("hinted", ["lost", "true, of what was lost"])
async def test_a_hint_while_the_store_is_read_mixes_no_two_histories(hinted: str) -> None:
    """A hint brings a record that a failover has lost while the answer of the store is on its way; or such a record is
    held, and the hint brings the true one. Viewers that were shown the lost record are rewound."""
    lost, true = (Record(2, "text.delta", b'{"part_id":"p","text":"%b"}' % word) for word in (b"lost", b"true"))
    store, told = await filled(1), Told()
    await store.append(KEY, 1, [true])
    faulty = FaultyStore(store, verbs=frozenset({"read"}))
    made = tail(store, window=100)
    made._store = faulty.as_store()
    made.viewers[told] = None
    made.accept([*records(1, 1), lost] if hinted != "lost" else records(1, 1))
    faulty.gate = asyncio.Event()
    made.repair_soon()
    while "read" not in faulty.calls:
        await asyncio.sleep(0)
    made.hint(Hint(KEY, 2, [lost if hinted == "lost" else true]))
    faulty.gate.set()
    assert made._repair is not None
    await made._repair
    assert (made.held, told.rewinds) == (2, [1])
    assert made.slice(1) == [true]


async def test_a_doubt_outlasts_a_store_that_is_away() -> None:
    """What a hint said otherwise is looked at when the store is back."""
    true = Record(2, "text.delta", b'{"part_id":"p","text":"true"}')
    store, told = await filled(1), Told()
    await store.append(KEY, 1, [true])
    faulty = FaultyStore(store)
    made = tail(store, window=100)
    made._store = faulty.as_store()
    made.viewers[told] = None
    made.accept(records(1, 2))
    faulty.down = True
    made.hint(Hint(KEY, 2, [true]))
    with pytest.raises(StoreUnavailable):
        await made.repair()
    faulty.down = False
    await made.repair()
    assert (made.slice(1), told.rewinds) == ([true], [1])


async def test_hints_that_come_twice_raise_no_doubt() -> None:
    """What is said again as it was is not read again."""
    made, told = tail(await filled(20), window=6), Told()
    made.viewers[told] = None
    assert made.accept(records(1, 20))
    assert made.accept(records(1, 20))
    assert made.accept(records(12, 20))
    assert made._repair is None
    assert told.rewinds == []


async def test_frames_are_encoded_once_for_all_viewers() -> None:
    """And joined once for those at the same place: the very same bytes object."""
    calls: list[int] = []

    def encode(_: GenerationKey, record: Record) -> bytes:
        calls.append(record.offset)
        return b"%d;" % record.offset

    made = tail(window=100)
    made.accept(records(1, 3))
    first, second = made.joined(encode, 0), made.joined(encode, 0)
    assert first is not None
    assert second is not None
    assert first == (b"1;2;3;", 3)
    assert first[0] is second[0]
    made.accept(records(4, 4))
    assert made.joined(encode, 3) == (b"4;", 4)
    assert made.joined(encode, 1) == (b"2;3;4;", 4)
    assert calls == [1, 2, 3, 4]


async def test_simultaneous_snapshots_agree() -> None:
    """They share one fold, and each is whole, while records leave the window."""
    store = await filled(2000)
    made = tail(store, last=2000, window=4)
    asking = asyncio.gather(*(made.snapshot() for _ in range(5)))
    made.accept(records(2001, 2010))
    await store.append(KEY, 1, records(2001, 2010))
    for snapshot in [*await asking, await made.snapshot()]:
        assert snapshot.text == "".join(f"{n} " for n in range(1, snapshot.offset + 1))
    assert (await made.snapshot()).offset == 2010


async def test_a_record_that_cannot_be_folded_concerns_only_those_who_ask(caplog: pytest.LogCaptureFixture) -> None:
    """The tail takes what follows and keeps its window; each snapshot is refused, none leaves the record out."""
    store = await filled(2)
    bad = Record(3, "text.delta", b"no json")
    await store.append(KEY, 1, [bad, *records(4, 40)])
    made = tail(store, window=8)
    for record in [*records(1, 2), bad, *records(4, 40)]:
        assert made.accept([record])
    assert len(made._records) <= 8
    assert len(caplog.records) == 1
    for _ in range(2):
        with pytest.raises(msgspec.DecodeError):
            await made.snapshot()
