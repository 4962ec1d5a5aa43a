"""One log as one replica sees it: recent records in memory, hints in, viewers out.

There is one `Tail` per generation and replica, shared by all viewers there. What it holds came from the store or from
the local producer after the store had accepted it; a hint only says that there may be more. The decisions (`accept`,
`slice`, `joined`) are plain functions; `repair` and `snapshot` do the reading around them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

import msgspec

from unspool.content import Fold, Snapshot
from unspool.errors import Gone, NotFound, StoreUnavailable
from unspool.events import TERMINAL, Record
from unspool.followers import Followers
from unspool.jobs import GenerationKey, Job, Status
from unspool.lanes import Encoder, Lane, lane_of
from unspool.projection import P, Projection, Projector, stored
from unspool.protocols import Hint, JobStore, Page, current, lost
from unspool.resume import sync_record

_log = logging.getLogger("unspool.tail")

PAGE: Final = 512
"""Records that one read of the store asks for."""


class Tail:
    """The end of a log. `held` is the offset of the last record in memory, `last` the highest one known to exist."""

    def __init__(self, key: GenerationKey, store: JobStore, *, last: int, window: int, window_bytes: int) -> None:
        self.key = key
        self.last = last
        self.held = last
        self.sealed = False
        self.local = False  # the producer is here and feeds this tail itself
        self.viewers = Followers()
        self.idle_since = 0.0
        self.synced = False
        self._store = store
        self._window = window
        self._window_bytes = window_bytes
        self._first = last + 1
        self._records: list[Record] = []
        self._bytes = 0
        self._lanes: dict[Encoder | type[Projection], Lane] = {}
        self._kept: dict[str, type[Projection]] = {}
        self._projected: dict[type[Projection], Projection] = {}  # of the records that a checkpoint covers
        self._fold = Fold()
        self._sync: Record | None = None
        self._sync_kind: tuple[int, Status, str | None] | None = None  # offset, status and reason in it
        self._sync_frames: dict[Encoder, bytes] = {}  # of that very record
        self._repair: asyncio.Task[None] | None = None
        self._doubt = False  # somebody said something else than is held here
        self._settled = asyncio.Event()
        self.gone: NotFound | Gone | None = None  # the log was deleted before its end was seen here

    def __repr__(self) -> str:
        return f"<Tail {self.key} offset={self.held} last={self.last} viewers={len(self.viewers)} sealed={self.sealed}>"

    # what is decided without I/O

    def accept(self, records: Sequence[Record]) -> bool:
        """Take in records that follow on what is held, and wake the viewers; False when there is a gap before them, or
        they are not what is held."""
        if not records:
            return True
        if records[0].offset != self.held + 1:
            final = records[-1].offset
            self.last = max(self.last, final)
            if records[0].offset <= self.held and not self._agrees(records):
                self._doubt = True
                return False
            if final <= self.held:
                return True
            if records[0].offset > self.held + 1:
                return False
            records = records[self.held + 1 - records[0].offset :]
        self._records += records
        for record in records:
            self._bytes += len(record.payload)
        newest = records[-1]
        self.held = newest.offset
        if self.held > self.last:  # noqa: PLR1730  (this is where every event passes)
            self.last = self.held
        if newest.type in TERMINAL:
            self.sealed = True
            self._settled.set()
        if len(self._records) > self._window or self._bytes > self._window_bytes:
            self._evict()
        self.viewers.tell()
        return True

    def _agrees(self, records: Sequence[Record]) -> bool:
        """Whether records that are held already are the same here, as far as they are at hand."""
        at = max(records[0].offset, self._first)
        held = self._records[at - self._first :]
        return all(known == record for known, record in zip(held, records[at - records[0].offset :], strict=False))

    def _evict(self) -> None:
        # A quarter at a time, so that shifting the list is rare; the very last record stays.
        keep = max(self._window * 3 // 4, 1)
        cut = max(len(self._records) - keep, 0)
        size = self._bytes - sum(len(record.payload) for record in self._records[:cut])
        while size > self._window_bytes and cut < len(self._records) - 1:
            size -= len(self._records[cut].payload)
            cut += 1
        if self._fold.offset + 1 >= self._first:
            try:
                self._advance(self._records[:cut])
            except Exception:  # noqa: BLE001
                # A caller who asks for the content gets the error. The run that has just written must not end by it.
                _log.exception("%s: record %d cannot be folded", self.key, self._fold.offset + 1)
        del self._records[:cut]
        self._first += cut
        for kind, lane in list(self._lanes.items()):
            if lane.next >= self._first:
                lane.drop_before(max(self._first, lane.first))
            else:  # nobody follows it
                del self._lanes[kind]
        self._bytes = size

    def _advance(self, records: Sequence[Record]) -> None:
        # The terminal record stays out of the fold: a snapshot is what came before it, and it follows as itself.
        for record in records:
            if not record.terminal:
                self._fold.apply(record)

    def slice(self, after: int, limit: int = PAGE) -> Sequence[Record] | None:
        """Up to `limit` held records after this offset; None when they are older than what is held."""
        start = after + 1 - self._first
        if start < 0:
            return None
        return self._records[start : start + limit]

    def joined(self, encode: Encoder, after: int) -> tuple[bytes, int] | None:
        """Held frames after this offset in one piece of bounded size, and the offset they reach; None as in `slice`."""
        lane = self._lanes.get(encode) or self._lanes.get(lane_of(encode)) or self._lane(encode, after)
        if lane is None or after + 1 < lane.first:
            return None
        if lane.after == after and lane.upto == self.held:  # nearly all viewers stand at the same place
            return lane.piece
        if lane.next <= self.held:
            lane.extend(self.key, self._records[lane.next - self._first :])
        return lane.joined(after)

    def _lane(self, encode: Encoder, after: int) -> Lane | None:
        """A new lane. What depends on what came before can begin only where it is known."""
        if not isinstance(encode, Projector):
            lane = Lane(encode, self._first)
        elif encode.projection.offset == after >= self._first - 1:
            lane = Lane(Projector(encode.projection.copy()), after + 1)
            self.keep(type(encode.projection))
        else:
            return None
        self._lanes[lane_of(encode)] = lane
        return lane

    def keep(self, projection: type[Projection]) -> None:
        """Say in checkpoints where this dialect stands: its positions are then found also where a log was trimmed."""
        self._kept.setdefault(projection.name, projection)

    def find(self, projection: type[Projection], position: int) -> int | None:
        """The offset after which a dialect's own position is this one, where it is at hand; else None."""
        lane = self._lanes.get(projection)
        return None if lane is None else lane.find(position)

    def projected(self, projection: type[Projection]) -> Projection | None:
        """A copy of a dialect's state at the end of what is held, where others follow it here; else None."""
        lane = self._lanes.get(projection)
        if lane is None or not isinstance(lane.encode, Projector):
            return None
        lane.extend(self.key, self._records[lane.next - self._first :])
        return lane.encode.projection.copy()

    def ended_at(self, offset: int) -> bool:
        """The log is sealed, and nothing comes after this offset."""
        return self.sealed and offset >= self.held

    # waiting

    async def wait_settled(self, seconds: float) -> bool:
        """True when the log is sealed within that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            return self.sealed
        return True

    # what reads the store

    def hint(self, hint: Hint) -> None:
        """Something may have happened. Content is taken from a hint only where it follows on what is held, in this very
        log."""
        if self.key.is_other(hint.key.log):
            self.repair_soon()
            return
        self.last = max(self.last, hint.last_offset)
        if not self.accept(hint.records) or self.held < self.last or (hint.control and not self.sealed):
            self.repair_soon()

    def repair_soon(self) -> None:
        """Read what is missing, in a task of the tail's own: no viewer's cancellation can cut it short."""
        if self._repair is None or self._repair.done():
            self._repair = asyncio.create_task(self.repair(), name=f"repair {self.key}")
            self._repair.add_done_callback(_consume)

    async def read(self, after: int) -> Page:
        """A page of the log from the store. Raises StoreUnavailable, NotFound or Gone."""
        page = await self._store.read(self.key, after, PAGE)
        self.last = max(self.last, page.last_offset)
        return page

    async def repair(self) -> None:
        """Read the store from what is held to the end of the log. Raises StoreUnavailable, NotFound or Gone."""
        while not self.sealed:
            try:
                if self._doubt:
                    await self._verify()
                page = await self.read(self.held)
            except (NotFound, Gone) as error:
                self.gone = error
                self.viewers.tell()
                raise
            if self.sealed:  # a hint was faster
                return
            if self._doubt:  # a hint disagreed while the store was read
                continue
            if page.sealed and page.last_offset <= self.held:
                self.rewind(page.last_offset - 1)
                continue
            if not page.records:
                return
            if not self.accept(page.records):
                if self._doubt:  # a hint brought a record that the store does not have
                    continue
                self._begin_at(page.records[0].offset)  # the log was trimmed beyond what is held
                self.accept(page.records)
            if self.held >= page.last_offset:
                return

    async def _verify(self) -> None:
        """Compare what is held with the store, and go back to where they part."""
        self._doubt = False  # hints that come while the store is read may raise it again
        after = self._first - 1
        try:
            while after < self.held:
                page = await self.read(after)
                if not page.records:
                    break
                for record in page.records:
                    known = self.slice(record.offset - 1, 1)
                    if known and known[0] != record:
                        self.rewind(record.offset - 1)
                        return
                after = page.records[-1].offset
        except Exception:
            self._doubt = True
            raise

    def rewind(self, to: int) -> None:
        """The store has lost what was read here after this offset, and others have written on: as when a replica that
        lagged behind has become the master. What was shown cannot be taken back in silence."""
        self.last = to
        self._doubt = False
        self._fold = Fold()
        self._projected.clear()
        self._sync = None
        for viewer in list(self.viewers):
            viewer.rewound(to)
        self._begin_at(to + 1)
        self.viewers.tell()

    def _begin_at(self, first: int) -> None:
        """Hold nothing before this offset."""
        self._records.clear()
        self._lanes.clear()
        self._bytes = 0
        self._first = first
        self.held = first - 1

    def unsync(self, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        """All viewers left: the next one gets its snapshot as if it were the first."""
        if self.synced:
            self.synced = False
            spawn(self._mark_synced(False))

    async def mark_synced(self) -> None:
        """A viewer was given the snapshot."""
        if not self.synced:
            self.synced = True
            await self._mark_synced(True)

    async def _mark_synced(self, synced: bool) -> None:
        with contextlib.suppress(NotFound, Gone, StoreUnavailable):  # it is only a note
            await self._store.mark_synced(self.key, synced)

    def retire(self) -> None:
        """Tell every viewer that the log is lost: another generation has its number now."""
        self.gone = lost(self.key)
        self.close()
        self.viewers.tell()

    def close(self) -> None:
        """End the reading task."""
        if self._repair is not None:
            self._repair.cancel()

    async def snapshot(self, at_least: int = 0) -> Snapshot:
        """The content folded from records 1..k, where k is the last one known, or `at_least`, the terminal excepted."""
        await self._fold_on(at_least)
        return self._fold.snapshot()

    async def _fold_on(self, at_least: int = 0) -> None:
        target = max(self.last, at_least)
        while self._fold.offset < target:
            held = self.slice(self._fold.offset, limit=len(self._records))
            if not held:
                page = await self.read(self._fold.offset)
                far = page.last_offset - self._fold.offset > 4 * PAGE
                if (far or page.first_offset > self._fold.offset + 1) and await self._leap():
                    continue
                target = max(target, page.last_offset)
                held = page.records
            if not held or held[0].offset > self._fold.offset + 1:
                # The end; or trimmed under our hands, without a checkpoint yet that leads over the gap.
                break
            self._advance(held)
            if held[-1].terminal:
                break

    async def _leap(self) -> bool:
        checkpoint = await self._store.checkpoint(self.key)
        if checkpoint is None or checkpoint.offset <= self._fold.offset:
            return False
        self._fold = Fold.load(checkpoint.state)
        return True

    async def dump(self, job: Job) -> tuple[int, bytes]:
        """The fold, and where the dialects stand that are kept: serialised, with the offset that they cover."""
        await self._fold_on()
        offset, state = self._fold.offset, self._fold.dump()
        states: dict[str, msgspec.Raw] = {}
        for kind in self._kept.values():
            projection = self._projected.get(kind) or kind.begin(job)
            if not await self.project(projection, offset):  # somebody else has trimmed it, and left word
                projection = await self.checkpointed(kind) or projection
                if not await self.project(projection, offset):
                    continue
            self._projected[kind] = projection
            states[kind.name] = msgspec.Raw(projection.dump())
        if states:
            state = b'%b,"dialects":%b}' % (state[:-1], msgspec.json.encode(states))
        return offset, state

    async def checkpointed(self, kind: type[P]) -> P | None:
        """Where a dialect stood at the last checkpoint; None where that does not say."""
        checkpoint = await self._store.checkpoint(self.key)
        return None if checkpoint is None else stored(checkpoint.state, kind)

    async def project(self, projection: Projection, to: int) -> bool:
        """Feed it up to this offset; False where that cannot be done, because what comes next was trimmed."""
        while projection.offset < to:
            records = self.slice(projection.offset) or (await self.read(projection.offset)).records
            if not records or records[0].offset > projection.offset + 1:
                return False
            for record in records[: to - projection.offset]:
                projection.feed(record)
            await asyncio.sleep(0)  # a long log must not hold up those who wait for a short one
        return True

    async def sync(self, reason: str | None = None) -> Record:
        """A `sync` record of the content now. Viewers who join at the same offset share one."""
        job = await current(self._store, self.key)
        self.last = max(self.last, job.last_offset)
        await self._fold_on()
        kind = self._fold.offset, job.status, reason
        if self._sync is None or self._sync_kind != kind:
            self._sync, self._sync_kind = sync_record(job, self._fold.view(), reason), kind
            self._sync_frames.clear()
        return self._sync

    def sync_frame(self, encode: Encoder, record: Record) -> bytes:
        """The frame of a `sync` record; those who share the record share its frame, which may be large."""
        if record is not self._sync:
            return encode(self.key, record)
        frame = self._sync_frames.get(encode)
        if frame is None:
            frame = self._sync_frames[encode] = encode(self.key, record)
        return frame


def _consume(task: asyncio.Task[None]) -> None:
    # A failed repair is tried again by the next hint, viewer or poll; the error belongs to nobody in particular.
    if not task.cancelled():
        task.exception()
