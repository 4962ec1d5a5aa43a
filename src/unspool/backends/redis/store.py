"""Jobs and logs in Redis. Each step on one stream is one script in its slot; the indexes in other slots are eventually
right, and healed while they are read: see `indexes.py`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from unspool.backends.redis import wire
from unspool.backends.redis.floor import Floor
from unspool.backends.redis.indexes import Indexes
from unspool.backends.redis.keys import Keys
from unspool.backends.redis.pipe import AccessDenied
from unspool.backends.redis.topology import Topology
from unspool.errors import (
    ConfigurationError,
    Fenced,
    GenerationConflict,
    Gone,
    NotFound,
    StoreUnavailable,
    UnreadableRecord,
)
from unspool.events import Record
from unspool.jobs import GenerationKey, Job, Lease, Owner, Status, Trigger, transition
from unspool.protocols import Checkpoint, Counts, Created, Expired, NewJob, Page, Renewal, Sealed, lost

_log = logging.getLogger("unspool.redis")

PUBLISHED: Final = 64 * 1024
"""Bytes up to which a hint carries the records; readers of larger batches read the log."""
PAGE_BYTES: Final = 1024 * 1024
PACKED_BYTES: Final = 512 * 1024
"""Bytes up to which a sealed log is packed: to read a page of it is to unpack all of it."""
_NUMBERS: Final = 90 * 24 * 3600
"""Seconds for which the numbers of a stream without generations are remembered."""
_RUNNING: Final = 3600.0
"""Seconds, at least, for which running data is kept without a renewal."""


class RedisStore:
    """A JobStore in Redis 6.2 or later, or Valkey.

    `retention`: seconds for which ended generations may be kept; the database forgets them by itself a little later,
    also when no replica is left to delete them.
    """

    kind = "redis"

    def __init__(self, topology: Topology, *, prefix: str = "unspool", retention: float = 3600.0) -> None:
        self._redis = topology
        self._keys = Keys(prefix, topology.database)
        self._indexes = Indexes(topology, self._keys)
        self._floor = Floor(topology, self._keys, _ms(_NUMBERS))
        self._kept_ended = _ms(retention + 60)
        self._due: dict[GenerationKey, float] = {}  # when the next append of ours renews the lease
        self._unpacked: dict[GenerationKey, int] = {}  # sealed here, with their last offsets

    def __repr__(self) -> str:
        return f"<RedisStore {self._keys.prefix} {self._redis!r}>"

    @property
    def passed_over(self) -> int:
        return len(self._indexes.passed_over)

    async def open(self) -> None:
        try:
            await self._redis.open()
            await self.ping()
            await self._floor.note()
        except AccessDenied as error:
            raise ConfigurationError(f"store: {error}") from error

    async def close(self) -> None:
        self._due.clear()
        await self._redis.close()

    async def ping(self) -> None:
        await asyncio.gather(*(pipe.call(b"PING") for pipe in self._redis.pipes()))

    # creating and finding

    async def create(self, new: NewJob) -> Created:
        stream = self._keys.stream(new.name)
        owner = wire.owner_bytes(new.owner)
        request, expected = new.request_id or "", "" if new.expect_generation is None else new.expect_generation
        seen = await self._redis.run("peek", stream, owner, new.token, request, expected)
        if seen[0] == b"free":
            # Indexes first: what is created can always be found, and what is not is found to be missing.
            _, floor = await asyncio.gather(self._indexes.enter(new.name, owner, new.lease), self._floor.note())
            seen = await self._redis.run(
                "create", stream, new.name, self._keys.channels, owner, new.token, request, expected,
                new.replica, new.lease, wire.limits_bytes(new.limits), _running(new.lease), self._kept_ended,
                _ms(_NUMBERS), _sealed_as("replaced"), self._keys.channel(new.name), new.floor, floor,
                wire.epoch_of(new.token, 1),
                *wire.known_metadata(new.metadata),
                *([b"task", wire.json_bytes(new.task)] if new.task is not None else ()),
                *([b"account", new.account.encode()] if new.account is not None else ()),
            )  # fmt: skip
        match seen[0]:
            case b"not_found":
                raise NotFound
            case b"conflict":
                raise GenerationConflict(
                    f"stream {new.stream_id!r} is at generation {seen[1]}, not at {new.expect_generation}",
                    generation=seen[1],
                )
            case b"attached":
                return Created(wire.job_of(new.name, seen[1]), attached=True)
            case _:
                job = wire.job_of(new.name, seen[1])
        replaced = self._replaced(new.name, seen[2]) if len(seen) > 2 and seen[2] else None
        if replaced is not None:
            await self._indexes.end(replaced.key, replaced.status)
            self._unpacked[replaced.key] = replaced.last_offset
        return Created(job, replaced=replaced)

    def _replaced(self, name: str, reply: Any) -> Job | None:
        """The job that a new one has replaced. One that this version cannot read is replaced all the same."""
        try:
            return wire.job_of(name, reply)
        except UnreadableRecord as error:
            self._indexes.pass_over(name.encode(), error)
            return None

    async def get(self, name: str, generation: int | None = None, *, owner: Owner | None = None) -> Job:
        reply = await self._redis.run("get", self._keys.stream(name), "" if generation is None else generation)
        return _found(name, generation, reply, owner)

    # writing

    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        if not records:
            await self._change(key, epoch, metadata, status)
            return
        if metadata and metadata.get("extra") is not None:  # what is merged is no matter for the hot path
            await self._change(key, epoch, {"extra": metadata["extra"]}, None)
            metadata = {name: value for name, value in metadata.items() if name != "extra"}
        stream = self._keys.stream(key.stream_id)
        base = b"%b:%d" % (stream, key.generation)
        last = records[-1].offset
        fence = await self._epoch(key, epoch)
        mark = wire.mark_in(fence)
        entry = wire.entry_of(key.generation, records, mark)
        notice = b"" if len(entry) <= PUBLISHED else wire.notice_of(key.generation, last, mark)
        renew = _running(0) if self._due.get(key, 0.0) <= time.monotonic() else b""
        sets, clears = _changes(metadata, status)
        reply = await self._redis.run(
            "append", base + b":fence", b"%d:%d" % (fence, records[0].offset - 1), b"%d:%d" % (fence, last),
            b"%d-0" % last, entry, notice, renew, len(sets), *sets, *clears,
            more=(base + b":log", base, self._keys.channel(key.stream_id)),
        )  # fmt: skip
        if reply < 0:
            self._due.pop(key, None)
            raise Fenced(f"{key} is sealed, has another owner, or does not end before offset {records[0].offset}")
        if renew:
            self._due[key] = time.monotonic() + min(reply / 6000, 1.0)

    async def _epoch(self, key: GenerationKey, epoch: int) -> int:
        """An epoch as the fence of the key's log has it; for a key without a log, as the fence that is there has it."""
        if key.log:
            return wire.epoch_of(key.log, epoch)
        stream = self._keys.stream(key.stream_id)
        found = await self._redis.call(stream, b"GET", b"%b:%d:fence" % (stream, key.generation))
        return epoch if found is None else wire.epoch_under(wire.Fence.of(found).mark, epoch)

    async def _change(
        self, key: GenerationKey, epoch: int, metadata: Mapping[str, Any] | None, status: Status | None
    ) -> Job:
        stream, fence = self._keys.stream(key.stream_id), await self._epoch(key, epoch)
        patch = (metadata or {}).get("extra")
        while True:
            expected, changes = b"", metadata or {}
            if patch is not None:  # merged here: Lua keeps neither empty arrays nor large numbers
                found = await self._redis.call(stream, b"HGET", b"%b:%d" % (stream, key.generation), wire.EXTRA)
                expected, changes = b"=%b" % (found or b""), {**changes, "extra": wire.merged(found, patch)}
            sets, clears = _changes(changes, status)
            reply = await self._redis.run("update", stream, key.generation, fence, expected, len(sets), *sets, *clears)
            if not reply:
                raise Fenced(f"{key} is sealed, not there, or no longer at epoch {epoch}")
            if reply != b"changed":
                return wire.job_of(key.stream_id, reply)

    async def update(self, key: GenerationKey, epoch: int, metadata: Mapping[str, Any]) -> Job:
        return await self._change(key, epoch, metadata, None)

    async def read(self, key: GenerationKey, after: int, limit: int) -> Page:
        used, first, fence, packed, *entries = await self._redis.run(
            "read", self._keys.stream(key.stream_id), key.generation, after, limit, PAGE_BYTES
        )
        if not fence:
            raise _missing(key.generation, used)
        if not (found := wire.Fence.of(fence)).is_of(key):
            raise lost(key)
        if packed is not None:
            entries = wire.unpacked(packed)
        low = max(after, int(first) - 1)
        records = [record for entry in entries for record in wire.records_of(entry) if record.offset > low]
        return Page(records[:limit], int(first), found.last, found.sealed)

    async def seal(
        self, key: GenerationKey, epoch: int, type: str, payload: bytes, *, expires_at: float | None = None
    ) -> Sealed:
        self._due.pop(key, None)
        used, found, won = await self._redis.run(
            "seal", self._keys.stream(key.stream_id), key.generation, await self._epoch(key, epoch), _sealed_as(type),
            type, payload, self._kept_ended, self._keys.channel(key.stream_id), _seen(expires_at),
        )  # fmt: skip
        if not found:
            raise _missing(key.generation, used)
        if won < 0:
            raise Fenced(f"{key} is no longer at epoch {epoch}, or its lease was renewed")
        job = wire.job_of(key.stream_id, found)
        if key.is_other(job.token):
            raise Fenced(f"{key} is lost, and another one has its number")
        terminal = job.terminal
        repeated = (
            epoch == job.lease.epoch and terminal is not None and (terminal.type, terminal.payload) == (type, payload)
        )
        if won or repeated:  # a first try whose answer was lost may have ended before this
            await self._indexes.end(key, job.status)
            self._unpacked[key] = job.last_offset
        return Sealed(job, won=won == 1 or (repeated and expires_at is None))

    async def request_abort(self, key: GenerationKey, by: str, reason: str | None) -> Job:
        reply = await self._redis.run(
            "abort", self._keys.stream(key.stream_id), key.generation, key.log, key.stream_id, self._keys.channels,
            wire.json_bytes(by), wire.json_bytes(reason),
        )  # fmt: skip
        job = _found(key.stream_id, key.generation, reply, None)
        if key.is_other(job.token):
            raise lost(key)
        return job

    async def mark_synced(self, key: GenerationKey, synced: bool) -> None:
        used, there = await self._redis.run(
            "synced", self._keys.stream(key.stream_id), key.generation, key.log, b"1" if synced else b"0"
        )
        if not there:
            raise _missing(key.generation, used)

    # leases

    async def renew(
        self, replica: str, leases: Sequence[tuple[GenerationKey, int]], seconds: float
    ) -> Sequence[Renewal]:
        held = {lease: Renewal(True) for lease in leases}  # what cannot be reached is not known to be lost

        async def renew(key: GenerationKey, epoch: int) -> None:
            mine, abort = await self._redis.run(
                "renew", self._keys.stream(key.stream_id), key.generation, await self._epoch(key, epoch), replica,
                seconds, _running(seconds), _ms(_NUMBERS),
            )  # fmt: skip
            held[key, epoch] = Renewal(mine == 1, wire.abort_of(abort))

        async def index() -> None:
            try:
                await self._indexes.renew([key.stream_id for key, _ in leases], seconds)
            except StoreUnavailable as error:
                _log.info("the index of leases was not renewed, and is healed when it is read: %s", error)

        work = self._indexes.each((str(key).encode(), renew(key, epoch)) for key, epoch in leases)
        await asyncio.gather(work, index())
        return list(held.values())

    async def take_over(
        self, key: GenerationKey, epoch: int, replica: str, seconds: float, *, expires_at: float | None = None
    ) -> Lease | None:
        ends = await self._redis.run(
            "take_over", self._keys.stream(key.stream_id), key.generation, key.stream_id, self._keys.channels,
            await self._epoch(key, epoch), replica, seconds, _seen(expires_at),
        )  # fmt: skip
        if not ends:
            return None
        await self._indexes.renew([key.stream_id], seconds)
        return Lease(replica, epoch + 1, float(ends))

    async def expired(self, limit: int, *, beyond: float | None = None) -> Expired:
        found, _ = await asyncio.gather(self._indexes.expired(limit, beyond), self._floor.look())
        return found

    # listing

    async def active(self, owner: Owner) -> Sequence[Job]:
        jobs = [job for job in await self._indexes.of_owner(owner) if not job.settled]
        return sorted(jobs, key=lambda job: job.created_at)

    async def jobs(self, owner: Owner | None, status: Status | None, limit: int) -> Sequence[Job]:
        found = await (self._indexes.all() if owner is None else self._indexes.of_owner(owner))
        jobs = [job for job in found if status is None or job.status is status]
        return sorted(jobs, key=lambda job: job.created_at, reverse=True)[:limit]

    async def counts(self) -> Counts:
        by_status = dict.fromkeys(Status, 0)
        for job in await self._indexes.all():
            by_status[job.status] += 1
        return Counts(sum(by_status.values()), by_status)

    # keeping

    async def save_checkpoint(self, key: GenerationKey, epoch: int, checkpoint: Checkpoint) -> None:
        kept = await self._redis.run(
            "checkpoint", self._keys.stream(key.stream_id), key.generation, await self._epoch(key, epoch),
            checkpoint.offset, checkpoint.state, _running(0),
        )  # fmt: skip
        if not kept:
            raise Fenced(f"{key} is sealed, or no longer at epoch {epoch}")

    async def checkpoint(self, key: GenerationKey) -> Checkpoint | None:
        stream = self._keys.stream(key.stream_id)
        # Read with its stream, so that a cluster which is moving both never shows one without the other.
        base = b"%b:%d" % (stream, key.generation)
        found, fence, _ = await self._redis.call(stream, b"MGET", base + b":fold", base + b":fence", stream, much=True)
        if found is None or fence is None or not wire.Fence.of(fence).is_of(key):
            return None
        offset, _, state = found.partition(b":")
        return Checkpoint(int(offset), state)

    async def trim(self, key: GenerationKey, epoch: int, up_to: int) -> None:
        done = await self._redis.run(
            "trim", self._keys.stream(key.stream_id), key.generation, await self._epoch(key, epoch), up_to
        )
        if done == 0:
            raise Fenced(f"{key} is sealed, or no longer at epoch {epoch}")
        if done < 0:
            raise ValueError(f"{key}: no checkpoint covers the records up to {up_to}")

    async def delete(self, key: GenerationKey) -> bool:
        done = await self._redis.run("delete", self._keys.stream(key.stream_id), key.generation, key.log, 0, 0)
        return done == 1

    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        gone = await self._indexes.delete_expired(retention, completed_retention)
        for key in gone:
            self._unpacked.pop(key, None)
        while self._unpacked:
            await self._pack(*self._unpacked.popitem())
        return gone

    async def _pack(self, key: GenerationKey, last: int) -> None:
        """Replace a sealed log, which was written token by token, by one compressed copy."""
        entries: list[bytes] = []
        reached = size = 0
        while reached < last:
            _, _, fence, packed, *more = await self._redis.run(
                "read", self._keys.stream(key.stream_id), key.generation, reached, last, PAGE_BYTES
            )
            if not fence or packed is not None or not more:
                return
            entries += more
            reached = wire.last_of(more[-1])
            size += sum(map(len, more))
            if size > PACKED_BYTES:
                return
        await self._redis.run("pack", self._keys.stream(key.stream_id), key.generation, last, wire.packed(entries))


def _seen(expires_at: float | None) -> bytes:
    """The end of a lease as it was read, written as the scripts write it."""
    return b"" if expires_at is None else b"%.6f" % expires_at


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _running(lease: float) -> int:
    return _ms(max(_RUNNING, 10 * lease))


def _sealed_as(type: str) -> str:
    status = transition(Status.RUNNING, Trigger(type))
    assert status is not None, f"{type} seals nothing"
    return status


def _changes(metadata: Mapping[str, Any] | None, status: Status | None) -> tuple[list[bytes], list[bytes]]:
    sets, clears = wire.metadata_fields(metadata or {})
    if status is not None:
        sets += [b"status", status.encode()]
    return sets, clears


def _missing(number: int, used: bytes | None) -> NotFound | Gone:
    return Gone(generation=number) if used is not None and 1 <= number <= int(used) else NotFound()


def _found(name: str, generation: int | None, reply: Sequence[Any], owner: Owner | None) -> Job:
    used, found = reply
    if used is None:
        raise NotFound
    if not found:
        # The owner of a stream without generations is not looked up: the answer tells no caller more than its number.
        raise _missing(int(used) if generation is None else generation, used)
    job = wire.job_of(name, found)
    if owner is not None and job.owner != owner:
        raise NotFound
    return job
