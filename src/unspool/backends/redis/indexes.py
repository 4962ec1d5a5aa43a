"""Indexes outside the slots of the streams: streams by owner and by the end of their lease, generations by their end.

An index is a hint. A stream enters it before a generation is created there, so that each generation is found. A reader
looks each entry up in the slot of its stream, and removes the entry when nothing is there, unless it was entered again
meanwhile, or so lately that its creation may still be on its way.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from unspool.backends.redis import wire
from unspool.backends.redis.keys import SHARDS, Keys, key_of, member_of, shard_of
from unspool.backends.redis.topology import Topology
from unspool.errors import StoreUnavailable, UnreadableRecord
from unspool.jobs import GenerationKey, Job, Owner, Status
from unspool.protocols import Expired

_KEPT: Final = 30 * 24 * 3600 * 1000
"""Milliseconds for which an index is kept after the last entry, when no replica is left to clear it."""
_ON_ITS_WAY: Final = 60.0
"""Seconds after an entry when its creation has happened or never will."""
_AT_ONCE: Final = 1000
"""Members of one batch of look-ups."""
_FAR: Final = 30 * 24 * 3600.0
"""Seconds within which all leases of running generations end, also after a step of the clock."""
_PASSED_OVER: Final = 10_000
"""Passed-over items that are remembered at most; further ones are not counted, and are logged each time."""

_log = logging.getLogger("unspool.redis")
T = TypeVar("T")


class Indexes:
    """All streams, streams by owner, streams by lease; ended generations by their end."""

    def __init__(self, topology: Topology, keys: Keys) -> None:
        self._redis = topology
        self._keys = keys
        self.passed_over: set[bytes] = set()
        """Items that could not be handled here."""

    async def enter(self, name: str, owner: bytes, lease: float) -> None:
        """Enter the stream of this name, on which a generation is about to be created."""
        shard = shard_of(name)
        await asyncio.gather(
            self._redis.run("enter", self._keys.leases(shard), name, lease, _KEPT),
            self._redis.run("enter", self._keys.streams(shard), name, 0, _KEPT),
            self._redis.run("enter", self._keys.owner(owner), name, 0, _KEPT),
        )

    async def end(self, key: GenerationKey, status: Status) -> None:
        """Enter a sealed generation among those that are deleted after their retention."""
        index = self._keys.completed if status is Status.COMPLETE else self._keys.unfinished
        await self._redis.run("enter", index(shard_of(key.stream_id)), member_of(key), 0, _KEPT)

    async def renew(self, streams: Sequence[str], seconds: float) -> None:
        """Enter the new ends of the leases of these streams."""
        by_shard: defaultdict[int, list[str]] = defaultdict(list)
        for name in streams:
            by_shard[shard_of(name)].append(name)
        await asyncio.gather(
            *(
                self._redis.run("renewed", self._keys.leases(shard), seconds, _KEPT, *names)
                for shard, names in by_shard.items()
            )
        )

    async def expired(self, limit: int, beyond: float | None) -> Expired:
        """Active jobs whose lease is over. A job whose lease is not over after all is entered again."""
        clocks: dict[str, float] = {}
        names = [self._keys.leases(shard) for shard in range(SHARDS)]
        found = await asyncio.gather(*(self._overdue(name, limit, beyond, clocks) for name in names))
        due = [(index, *entry) for index, entries in zip(names, found, strict=True) for entry in entries]
        jobs: list[Job] = []
        for begin in range(0, len(due), _AT_ONCE):
            part = due[begin : begin + _AT_ONCE]
            looked = await self.each(
                (member, self._look(index, member, score, clocks)) for index, member, score in part
            )
            jobs += [job for job in looked if job is not None]
            if len(jobs) >= limit:
                break
        return Expired(jobs[:limit], clocks)

    async def _overdue(
        self, index: bytes, limit: int, beyond: float | None, clocks: dict[str, float]
    ) -> list[tuple[bytes, bytes]]:
        """Members whose lease has run out, or ends more than `beyond` seconds from now, with their scores."""
        # In one piece: leases that were renewed in one call have one score, so none tells where a page of them ends.
        reply, *due = await self._redis.run("due", index, 0, limit)
        now = clocks[self._redis.node(index)] = float(reply)
        if beyond is not None:
            due += await self._redis.call(
                index, b"ZRANGEBYSCORE", index, now + beyond, now + _FAR, b"WITHSCORES", b"LIMIT", 0, limit
            )
        return list(zip(due[::2], due[1::2], strict=True))[:limit]

    async def _look(self, index: bytes, member: bytes, score: bytes, clocks: dict[str, float]) -> Job | None:
        """The job that an entry names, if its lease has run out."""
        name = member.decode()
        stream = self._keys.stream(name)
        reply, left, now = await self._redis.run("lease", stream)
        clocks[self._redis.node(stream)] = float(now)
        job = wire.job_of(name, reply) if reply else None
        if job is None or job.settled:
            await self._redis.run("drop", index, member, score, _ON_ITS_WAY if job is None else 0)
        elif float(left) <= 0:
            return job
        else:
            await self._redis.run("enter", index, member, left, _KEPT)
        return None

    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        """Delete generations that were sealed longer ago than this many seconds."""
        due = await self._due(self._keys.completed, completed_retention, _AT_ONCE)
        due += await self._due(self._keys.unfinished, retention, _AT_ONCE)
        done = await self.each(
            (member, self._delete(index, member, score, retention, completed_retention)) for index, member, score in due
        )
        return [key for key in done if key is not None]

    async def _delete(
        self, index: bytes, member: bytes, score: bytes, retention: float, completed_retention: float
    ) -> GenerationKey | None:
        """Delete the generation that an entry names; None if this call did not delete it."""
        key = key_of(member)
        done = await self._redis.run(
            "delete", self._keys.stream(key.stream_id), key.generation, key.log, completed_retention, retention
        )
        if done:
            await self._redis.run("drop", index, member, score, 0)
        return key if done == 1 else None

    async def _due(self, index: Callable[[int], bytes], age: float, limit: int) -> list[tuple[bytes, bytes, bytes]]:
        """Members whose time is `age` seconds ago or earlier, each with its index and its score."""
        names = [index(shard) for shard in range(SHARDS)]
        replies = await asyncio.gather(*(self._redis.run("due", name, age, limit) for name in names))
        return [
            (name, member, score)
            for name, (_, *flat) in zip(names, replies, strict=True)
            for member, score in zip(flat[::2], flat[1::2], strict=True)
        ]

    async def of_owner(self, owner: Owner) -> list[Job]:
        """All jobs of an owner that are kept."""
        jobs = await self._listed(self._keys.owner(wire.owner_bytes(owner)))
        return [job for job in jobs if job.owner == owner]

    async def all(self) -> list[Job]:
        """All jobs that are kept."""
        shards = await asyncio.gather(*(self._listed(self._keys.streams(shard)) for shard in range(SHARDS)))
        return [job for jobs in shards for job in jobs]

    async def _listed(self, index: bytes) -> list[Job]:
        """The jobs of the streams in an index. Streams without jobs are removed from it."""
        flat = await self._redis.call(index, b"ZRANGE", index, 0, -1, b"WITHSCORES")
        members = list(zip(flat[::2], flat[1::2], strict=True))
        jobs: list[Job] = []
        for begin in range(0, len(members), _AT_ONCE):
            part = members[begin : begin + _AT_ONCE]
            work = ((member, self._jobs(index, member, score)) for member, score in part)
            listed = await self.each(work, whole=True)
            jobs += [job for found in listed for job in found]
        return jobs

    async def _jobs(self, index: bytes, member: bytes, score: bytes) -> list[Job]:
        """The jobs of one stream, without those that this version cannot read."""
        name = member.decode()
        replies = await self._redis.run("jobs", self._keys.stream(name))
        if not replies:
            await self._redis.run("drop", index, member, score, _ON_ITS_WAY)
        jobs: list[Job] = []
        for reply in replies:
            try:
                jobs.append(wire.job_of(name, reply))
            except UnreadableRecord as error:
                self.pass_over(member, error)
        return jobs

    # each item fails alone

    async def each(self, items: Iterable[tuple[bytes, Coroutine[Any, Any, T]]], *, whole: bool = False) -> list[T]:
        """Await the work of each of these items; the answers of those that succeeded.

        An item that cannot be handled (its slot is being moved, this version cannot read it) is passed over, counted,
        and logged once: it holds up none of the others. Raises StoreUnavailable when the server answers for none of the
        items or, where `whole` is set, not for all.
        """
        names, work = zip(*items, strict=True) if (items := list(items)) else ((), ())
        found: list[T] = []
        away: list[StoreUnavailable] = []
        for name, answer in zip(names, await asyncio.gather(*work, return_exceptions=True), strict=True):
            if isinstance(answer, StoreUnavailable):
                away.append(answer)
            elif isinstance(answer, BaseException):
                self.pass_over(name, answer)
            else:
                found.append(answer)
        if away and (whole or not found):
            raise away[0]
        return found

    def pass_over(self, name: bytes, error: BaseException) -> None:
        """Count an item that cannot be handled, and log it the first time. Re-raises what is no Exception."""
        if not isinstance(error, Exception):
            raise error
        if name not in self.passed_over:
            _log.error("%s is passed over: %s", name.decode(errors="replace"), error)
            if len(self.passed_over) < _PASSED_OVER:
                self.passed_over.add(name)
