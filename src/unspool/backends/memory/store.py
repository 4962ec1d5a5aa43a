"""Jobs and logs in the memory of one process. Each verb runs without a pause, so the event loop makes it atomic."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from unspool import events
from unspool.backends.memory.log import Log
from unspool.errors import CapacityExceeded, Fenced, GenerationConflict, Gone, NotFound
from unspool.events import Record, encode_data
from unspool.jobs import (
    ACTIVE,
    AbortRequest,
    GenerationKey,
    Job,
    Lease,
    Owner,
    Status,
    Trigger,
    is_over,
    patched,
    transition,
)
from unspool.protocols import Checkpoint, Counts, Created, Expired, NewJob, Page, Renewal, Sealed


class _Entry:
    """One generation: its job and its log. What every append touches stands beside the job, not in it."""

    __slots__ = ("_job", "active_at", "checkpoint", "expires_at", "lease_seconds", "log")

    def __init__(self, job: Job, lease_seconds: float) -> None:
        self._job = job
        self.log = Log()
        self.active_at = job.active_at
        self.expires_at = job.lease.expires_at
        self.lease_seconds = lease_seconds
        self.checkpoint: Checkpoint | None = None

    @property
    def last(self) -> int:
        return self.log.last

    @property
    def epoch(self) -> int:
        return self._job.lease.epoch

    @property
    def replica(self) -> str:
        return self._job.lease.replica

    @property
    def settled_at(self) -> float | None:
        return self._job.settled_at

    @property
    def status(self) -> Status:
        return self._job.status

    @property
    def abort(self) -> AbortRequest | None:
        return self._job.abort

    def job(self) -> Job:
        lease = Lease(self._job.lease.replica, self._job.lease.epoch, self.expires_at)
        return replace(
            self._job, lease=lease, active_at=self.active_at, first_offset=self.log.first, last_offset=self.last
        )

    def is_over(self, now: float) -> bool:
        return is_over(self.expires_at - now, self.lease_seconds)

    def change(self, **changes: Any) -> None:
        self._job = replace(self._job, **changes)

    def set_metadata(self, metadata: Mapping[str, Any] | None) -> None:
        if metadata:
            known, changes = self._job.metadata, dict(metadata)
            if "extra" in changes:
                changes["extra"] = patched(known.extra, changes["extra"])
            self._job = replace(self._job, metadata=replace(known, **changes))


class _Stream:
    """A stream: whose it is, how far its numbers are used up, the generations that are still kept."""

    __slots__ = ("entries", "owner", "replaced", "requests", "token", "used")

    def __init__(self, owner: Owner, used: int) -> None:
        self.owner = owner
        self.used = used
        self.entries: dict[int, _Entry] = {}
        self.requests: dict[str, int] = {}
        self.token: str | None = None  # of the last creation
        self.replaced: int | None = None  # what that one replaced


class MemoryStore:
    """A JobStore in memory.

    `max_jobs` bounds the jobs that are kept: the one that ended first makes room, a running one never does.
    `max_streams` bounds the numbers that are remembered of streams without any job; beyond it the oldest are folded
    into one floor, from which unknown streams then count, so that no number is ever used twice. `clock`: Unix seconds;
    by default it never steps, whatever becomes of the machine's: no lease and no retention ends early for it.
    """

    kind = "memory"
    passed_over = 0

    def __init__(
        self, *, max_jobs: int = 10_000, max_streams: int = 100_000, clock: Callable[[], float] | None = None
    ) -> None:
        self._max_jobs = max_jobs
        self._max_streams = max_streams
        self._clock = clock or _steady_clock()
        self._streams: dict[str, _Stream] = {}
        self._dormant: dict[str, None] = {}
        self._floor = 0
        self._active: dict[GenerationKey, _Entry] = {}
        self._settled: dict[GenerationKey, _Entry] = {}  # in the order in which they were settled
        self._unpacked: dict[GenerationKey, _Entry] = {}  # settled, but not yet packed
        self._by_owner: dict[Owner, dict[GenerationKey, None]] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore active={len(self._active)} settled={len(self._settled)} streams={len(self._streams)}>"

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def ping(self) -> None: ...

    async def create(self, new: NewJob) -> Created:
        stream = self._streams.get(new.name)
        if stream is not None:
            if stream.owner != new.owner:
                raise NotFound
            if stream.token == new.token and (created := stream.entries.get(stream.used)) is not None:
                before = stream.entries.get(stream.replaced or 0)
                return Created(created.job(), replaced=before and before.job())
            known = stream.requests.get(new.request_id) if new.request_id is not None else None
            if known is not None and (found := stream.entries[known].job()).holds_request:
                return Created(found, attached=True)
        expected = new.expect_generation
        if expected is not None and expected != (stream.used if stream is not None else 0):
            raise GenerationConflict(
                f"stream {new.stream_id!r} is at generation {stream.used if stream else 0}, not at {expected}",
                generation=stream.used if stream else 0,
            )
        running = stream.entries.get(stream.used) if stream is not None else None
        if running is not None and running.status not in ACTIVE:
            running = None
        self._make_room(replacing=running is not None)

        stream = self._streams.get(new.name)  # making room may have folded it into the floor
        if stream is None:
            stream = self._streams[new.name] = _Stream(new.owner, self._floor)
        self._dormant.pop(new.name, None)
        number = max(stream.used, new.floor) + 1
        replaced: Job | None = None
        if running is not None:
            key = GenerationKey(new.name, stream.used)
            self._seal(key, running, events.REPLACED, encode_data({"by_generation": number}))
            replaced = running.job()
        now = self._clock()
        job = Job(
            stream_id=new.stream_id,
            generation=number,
            status=Status.RUNNING,
            lease=Lease(new.replica, 1, now + new.lease),
            created_at=now,
            active_at=now,
            user=new.owner.user,
            tenant=new.owner.tenant,
            request_id=new.request_id,
            token=new.token,
            metadata=new.metadata,
            limits=new.limits,
            task=new.task,
            account=new.account,
        )
        entry = _Entry(job, new.lease)
        stream.used = number
        stream.entries[number] = entry
        if new.request_id is not None:
            stream.requests[new.request_id] = number
        self._active[job.key] = entry
        self._by_owner.setdefault(new.owner, {})[job.key] = None
        stream.token, stream.replaced = new.token, replaced.generation if replaced is not None else None
        return Created(entry.job(), replaced=replaced)

    def _make_room(self, *, replacing: bool) -> None:
        # One that is replaced is settled by this very step, and makes room for the next.
        if len(self._active) >= self._max_jobs and not replacing:
            raise CapacityExceeded(
                f"all {self._max_jobs} places are taken by running generations; try again later",
                limit=self._max_jobs,
            )
        while self._settled and len(self._active) + len(self._settled) >= self._max_jobs:
            self._forget(next(iter(self._settled)))

    def _forget(self, key: GenerationKey) -> None:
        entry = self._settled.pop(key)
        self._unpacked.pop(key, None)
        stream = self._streams[key.stream_id]
        del stream.entries[key.generation]
        request_id = entry.job().request_id
        if request_id is not None and stream.requests.get(request_id) == key.generation:  # else another attempt has it
            del stream.requests[request_id]
        if stream.entries:
            return
        self._dormant[key.stream_id] = None
        while len(self._dormant) > self._max_streams:
            oldest = next(iter(self._dormant))
            del self._dormant[oldest]
            self._floor = max(self._floor, self._streams.pop(oldest).used)

    async def get(self, name: str, generation: int | None = None, *, owner: Owner | None = None) -> Job:
        return self._find(name, generation, owner).job()

    def _find(self, name: str, generation: int | None = None, owner: Owner | None = None) -> _Entry:
        stream = self._streams.get(name)
        if stream is None or (owner is not None and stream.owner != owner):
            raise NotFound
        number = stream.used if generation is None else generation
        entry = stream.entries.get(number)
        if entry is None:
            raise Gone(generation=number) if 1 <= number <= stream.used else NotFound
        return entry

    def _writable(self, key: GenerationKey, epoch: int) -> _Entry:
        entry = self._active.get(key)
        if entry is None:
            raise Fenced(f"{key} is sealed or not there")
        if entry.epoch != epoch:
            raise Fenced(f"{key} is at epoch {entry.epoch}; epoch {epoch} may no longer write")
        return entry

    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        self.append_at_once(key, epoch, records, metadata=metadata, status=status)

    def append_at_once(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        entry = self._writable(key, epoch)
        if records:
            if records[0].offset != entry.log.last + 1:
                if entry.log.after(records[0].offset - 1, len(records) + 1) == list(records):
                    return
                raise Fenced(f"{key} is at offset {entry.last}; a record at {records[0].offset} does not follow on")
            entry.log.extend(records)
        now = self._clock()
        entry.active_at = now
        entry.expires_at = now + entry.lease_seconds
        if metadata:
            entry.set_metadata(metadata)
        if status is not None:
            entry.change(status=status)

    async def read(self, key: GenerationKey, after: int, limit: int) -> Page:
        entry = self._find(*key)
        return Page(entry.log.after(after, limit), entry.log.first, entry.last, entry.status not in ACTIVE)

    async def seal(
        self, key: GenerationKey, epoch: int, type: str, payload: bytes, *, expires_at: float | None = None
    ) -> Sealed:
        entry = self._find(*key)
        if entry.status in ACTIVE:
            entry = self._writable(key, epoch)
            if expires_at not in (None, entry.expires_at):
                raise Fenced(f"the lease of {key} was renewed")
            self._seal(key, entry, type, payload)
            return Sealed(entry.job(), won=True)
        job = entry.job()
        won = (
            expires_at is None
            and epoch == entry.epoch
            and job.terminal is not None
            and (job.terminal.type, job.terminal.payload) == (type, payload)
        )
        return Sealed(job, won=won)

    def _seal(self, key: GenerationKey, entry: _Entry, type: str, payload: bytes) -> None:
        status = transition(entry.status, Trigger(type))
        assert status is not None, f"{type} seals nothing"
        record = Record(entry.last + 1, type, payload)
        entry.log.extend([record])
        entry.change(status=status, settled_at=self._clock(), terminal=record)
        del self._active[key]
        self._settled[key] = self._unpacked[key] = entry
        owner = entry.job().owner
        mine = self._by_owner[owner]
        del mine[key]
        if not mine:
            del self._by_owner[owner]

    async def update(self, key: GenerationKey, epoch: int, metadata: Mapping[str, Any]) -> Job:
        entry = self._writable(key, epoch)
        entry.set_metadata(metadata)
        return entry.job()

    async def request_abort(self, key: GenerationKey, by: str, reason: str | None) -> Job:
        entry = self._find(*key)
        if entry.status in ACTIVE and entry.abort is None:
            entry.change(abort=AbortRequest(by, reason, self._clock()))
        return entry.job()

    async def mark_synced(self, key: GenerationKey, synced: bool) -> None:
        self._find(*key).change(synced=synced)

    async def renew(
        self, replica: str, leases: Sequence[tuple[GenerationKey, int]], seconds: float
    ) -> Sequence[Renewal]:
        found: list[Renewal] = []
        expires_at = self._clock() + seconds
        for key, epoch in leases:
            entry = self._active.get(key)
            held = entry is not None and entry.epoch == epoch and entry.replica == replica
            if held and entry is not None:
                entry.expires_at = expires_at
                entry.lease_seconds = seconds
            found.append(Renewal(held, entry.abort if entry is not None else None))
        return found

    async def take_over(
        self, key: GenerationKey, epoch: int, replica: str, seconds: float, *, expires_at: float | None = None
    ) -> Lease | None:
        entry = self._active.get(key)
        now = self._clock()
        if entry is None:
            return None
        if entry.epoch == epoch + 1 and entry.replica == replica:  # the answer to the first try was lost
            return entry.job().lease
        if entry.epoch != epoch or expires_at not in (None, entry.expires_at):
            return None
        lease = Lease(replica, epoch + 1, now + seconds)
        entry.change(lease=lease)
        entry.expires_at = lease.expires_at
        entry.lease_seconds = seconds
        return lease

    async def expired(self, limit: int, *, beyond: float | None = None) -> Expired:
        now = self._clock()
        found = (entry.job() for entry in self._active.values() if entry.is_over(now))
        return Expired(list(itertools.islice(found, limit)), {"": now})

    async def active(self, owner: Owner) -> Sequence[Job]:
        return [self._active[key].job() for key in self._by_owner.get(owner, ())]

    async def jobs(self, owner: Owner | None, status: Status | None, limit: int) -> Sequence[Job]:
        every = itertools.chain(self._active.values(), self._settled.values())
        found = [entry.job() for entry in every if status is None or entry.status is status]
        mine = [job for job in found if owner is None or job.owner == owner]
        return sorted(mine, key=lambda job: job.created_at, reverse=True)[:limit]

    async def counts(self) -> Counts:
        by_status = dict.fromkeys(Status, 0)
        for entry in itertools.chain(self._active.values(), self._settled.values()):
            by_status[entry.status] += 1
        return Counts(sum(by_status.values()), by_status)

    async def save_checkpoint(self, key: GenerationKey, epoch: int, checkpoint: Checkpoint) -> None:
        self._writable(key, epoch).checkpoint = checkpoint

    async def checkpoint(self, key: GenerationKey) -> Checkpoint | None:
        return self._find(*key).checkpoint

    async def trim(self, key: GenerationKey, epoch: int, up_to: int) -> None:
        entry = self._writable(key, epoch)
        if entry.checkpoint is None or entry.checkpoint.offset < up_to:
            raise ValueError(f"{key}: no checkpoint covers the records up to {up_to}")
        entry.log.trim(up_to)

    async def delete(self, key: GenerationKey) -> bool:
        if key not in self._settled:
            return False
        self._forget(key)
        return True

    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        while self._unpacked:
            self._unpacked.popitem()[1].log.pack()
            await asyncio.sleep(0)  # a step of its own for each: runs and viewers come first
        now = self._clock()
        old: list[GenerationKey] = []
        for key, entry in self._settled.items():
            kept = completed_retention if entry.status is Status.COMPLETE else retention
            if now - (entry.settled_at or now) >= kept:
                old.append(key)
        for key in old:
            self._forget(key)
        return old


def _steady_clock() -> Callable[[], float]:
    """Unix seconds as they were when this was made, and the seconds that have passed since."""
    begin = time.time() - time.monotonic()
    return lambda: begin + time.monotonic()
