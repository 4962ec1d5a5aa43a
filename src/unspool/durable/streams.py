"""Durable streams: append-only streams at paths, over the log engine and the store that generations live in.

One stream is one generation of a reserved name whose lease never runs out. It holds no state beside its log: what a
stream is (`state.py`) is folded from it, and what may be appended is decided on that fold and then appended by
compare-and-set (`log.py`), so that any replica may take any request. Deleting a stream makes its number in the store
one that is used up; a new one at the same path is another generation, and can never be taken for the old one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from unspool.durable.cache import PAGE, Cache, Known
from unspool.durable.entries import APPENDED, OPENED, Config, Content, Entry, Ref, Segment, content_of, media_type
from unspool.durable.errors import StreamConflict, StreamDeleted, Trimmed
from unspool.durable.expiry import Expiry
from unspool.durable.forks import Forks, Wish, config_of, matches
from unspool.durable.live import Live, Shared, appended
from unspool.durable.log import Logs, nonce
from unspool.durable.names import name_of, new_log, owner_of, stream_id_of
from unspool.durable.reading import Chunk, add
from unspool.durable.state import Append, State
from unspool.errors import (
    BadRequest,
    Fenced,
    GenerationConflict,
    Gone,
    NotFound,
    ShuttingDown,
    StoreUnavailable,
)
from unspool.jobs import Job, Owner
from unspool.manager import GenerationManager

_log = logging.getLogger("unspool.durable")


@dataclass(frozen=True, slots=True, kw_only=True)
class DurableOptions:
    """Bounds, each with what happens beyond it.

    `stream_bytes`: how large a stream may become before appends are refused; 0: any size. `chunk_bytes`: how much one
    read answers before it says that there is more. `states`: streams whose state a replica keeps at hand; others are
    folded from their logs again.
    """

    stream_bytes: int = 64 * 1024 * 1024
    chunk_bytes: int = 1024 * 1024
    states: int = 1024


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it stands. `next`: the number that its next offset is made of; `created`: this call has made it."""

    config: Config
    generation: int
    next: int
    closed: bool
    created: bool = False


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an append. `fresh`: it was not there before. `seq`: the highest one accepted of its producer."""

    info: Info
    fresh: bool
    seq: int | None = None


class DurableStreams:
    """Streams at paths, for many tasks of one event loop, beside the same on other replicas.

    `owner` says on whose behalf a call is made. A path belongs to whoever created the stream there; for everybody else
    it raises NotFound, as a path without a stream does. Every verb may raise StoreUnavailable. `shared` is
    also for those who follow other logs beside these.
    """

    def __init__(
        self,
        manager: GenerationManager,
        *,
        options: DurableOptions | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.options = options or DurableOptions()
        self._manager = manager
        self._store = manager.store
        self._cache = Cache(manager.store, self.options.states)
        self.shared = Shared()
        self._logs = Logs(manager, self._cache)
        self._forks = Forks(manager, self._cache, self._logs, clock)
        self._expiry = Expiry(manager.store, clock)

    def __repr__(self) -> str:
        return f"<DurableStreams {self._store.kind} states={len(self._cache)}>"

    # creating and deleting

    async def create(self, path: str, owner: Owner, wish: Wish, content: Content | None = None) -> Info:
        """Make the stream, or find it as it is wished for; `created` tells.

        Raises StreamConflict for one with another configuration, NotFound for a fork of nothing, BadRequest.
        """
        if self._manager.closing:
            raise ShuttingDown
        self._sweep()
        name, whose = name_of(path, owner), owner_of(owner)
        while True:
            expect, reached = 0, self._cache.reached(name)
            try:
                job = await self._store.get(name, owner=whose)
            except NotFound:
                job = None
            except Gone as gone:
                job, expect = None, gone.details["generation"]
            if job is not None and job.settled:
                job, expect = None, job.generation
            if job is not None:
                known = await self._known(job, reached)
                state = known.state
                if state.config is not None:
                    if not await self._alive(job, known):
                        continue
                    if state.deleted:
                        raise StreamConflict("the stream was deleted, and is kept for its forks")
                    if not matches(state, wish):
                        raise StreamConflict
                    return self._info(known)
            try:
                made = await self._make(job, path, owner, expect, wish, content)
            except (GenerationConflict, Fenced):
                continue  # somebody else was faster; it may be just what is wished for
            if made is not None:
                return made

    async def _make(
        self, job: Job | None, path: str, owner: Owner, expect: int, wish: Wish, content: Content | None
    ) -> Info | None:
        """Write the first record; None when somebody else's stands there. Raises GenerationConflict, Fenced."""
        origin = None
        if wish.fork is not None:
            origin = await self._find(wish.fork.source, owner, fork=True)
        base, inherited, prefix = await self._inherit(origin, wish)
        config = config_of(path, wish, origin, base, inherited)
        if job is None:
            # Only a name and a number as yet: there is a stream as soon as its first record stands.
            created = await self._store.create(new_log(stream_id_of(path), owner, expect))
            job = created.job
        known = await self._known(job)
        ref = Ref(*job.key)
        if origin is not None:
            await self._forks.link(origin, ref)
        entry = Entry(nonce=nonce(), config=config, closed=wish.close)
        lifetime = {"ttl": config.ttl, "expires_at": config.expires_at, "path": path}
        done = await self._logs.put(
            known, OPENED, entry, _joined(prefix, content), lambda state: state.offset == 0,
            metadata={"extra": lifetime},
        )  # fmt: skip
        if not done:
            if origin is not None:
                await self._forks.unlink(origin.key, ref)
            return None
        await self._touch(known)
        return self._info(known, created=True)

    async def delete(self, path: str, owner: Owner) -> None:
        """Delete a stream. While there are forks of it, it is only hidden. Raises NotFound, StreamDeleted."""
        await self._forks.remove(await self._find(path, owner))

    # appending

    async def append(self, path: str, owner: Owner, append: Append) -> Appended:
        """Append, close, or both in one step. Raises NotFound, StreamDeleted, and what `State.admit` raises."""
        entry = append.entry(nonce())
        while True:
            known = await self._find(path, owner)
            try:
                fresh = await self._logs.put(
                    known, APPENDED, entry, append.content, lambda state: self._admits(state, append)
                )
            except Fenced:
                continue  # deleted under our hands, and perhaps made anew
            await self._touch(known)
            told = known.state.producers.get(append.producer.id) if append.producer is not None else None
            return Appended(info=self._info(known), fresh=fresh, seq=told[1] if told is not None else None)

    def _admits(self, state: State, append: Append) -> bool:
        if state.deleted:
            raise StreamDeleted
        return state.admit(append, self.options.stream_bytes)

    # reading

    async def head(self, path: str, owner: Owner) -> Info:
        """A stream as it stands; that it was looked at does not keep it. Raises NotFound, StreamDeleted."""
        return self._info(await self._find(path, owner))

    async def read(self, path: str, owner: Owner, after: int | None = None) -> Chunk:
        """What stands after a number, up to a bounded size; with None nothing, at the end of the stream.

        Raises NotFound, StreamDeleted, BadRequest for a place beyond the end, Trimmed for one that is not kept.
        """
        known = await self._find(path, owner)
        await self._touch(known)
        state = known.state
        last, tail, closed = state.last, state.tail, state.closed
        after = tail if after is None else after
        if after > last:
            raise BadRequest("the offset lies beyond the end of the stream", field="offset")
        parts: list[bytes] = []
        size, reached = 0, max(after, tail)
        if after < tail:
            async with aclosing(self._contents(known, after)) as contents:
                async for at, content in contents:
                    size += add(parts, content)
                    if size >= self.options.chunk_bytes and at < tail:
                        reached = at
                        break
        whole = reached >= tail
        return Chunk(
            known.key.generation, state.there.content_type, parts, after, reached, up_to_date=whole,
            closed=closed and whole, last=last, ttl=state.there.ttl,
        )  # fmt: skip

    async def _contents(self, known: Known, after: int) -> AsyncGenerator[tuple[int, Content]]:
        """What stands after a number, as far as is known now: each append with its number. Raises Trimmed."""
        for segment in segments(known.key, known.state):
            at = max(after, segment.base)
            while at < segment.upto:
                page = await self._store.read(segment.ref.key, at - segment.base, PAGE)
                if not page.records or page.records[0].offset != at - segment.base + 1:
                    raise Trimmed
                for record in page.records[: segment.upto - at]:
                    at = segment.base + record.offset
                    content = content_of(record)
                    if content:
                        yield at, content

    async def follow(self, path: str, owner: Owner, chunk: Chunk) -> Live:
        """What comes after a chunk that was up to date. Raises NotFound, StreamDeleted, ShuttingDown."""
        known = await self._find(path, owner)
        if known.key.generation != chunk.generation:
            raise NotFound
        base = known.state.there.base
        replica = self._manager.replica
        tail = await replica.tail(known.key, known.job)
        viewer = replica.watch(tail, min(chunk.last - base, known.job.last_offset))
        return Live(viewer, chunk, self.shared, appended(base))

    async def touch(self, path: str, owner: Owner) -> None:
        """Keep a stream that is being followed. Raises NotFound, StreamDeleted."""
        await self._touch(await self._find(path, owner))

    # what is underneath

    async def _find(self, path: str, owner: Owner, *, fork: bool = False) -> Known:
        """The stream at a path, as new as this call. Raises NotFound, StreamDeleted; StreamConflict to fork from it."""
        name = name_of(path, owner)
        reached = self._cache.reached(name)
        try:
            job = await self._store.get(name, owner=owner_of(owner))
            if job.settled:
                raise NotFound
            known = await self._known(job, reached)
            if known.state.config is None or not await self._alive(job, known):
                raise NotFound
        except Gone as gone:
            raise NotFound from gone
        if known.state.deleted:
            if fork:
                raise StreamConflict("the stream to fork from was deleted")
            raise StreamDeleted
        return known

    async def _known(self, job: Job, reached: int = 0) -> Known:
        return await self._cache.known(job, self._manager.replica.spawn, reached)

    async def _alive(self, job: Job, known: Known) -> bool:
        """False when it was time for it to go, and it is gone; when forks hold it, it is only marked as deleted."""
        if not known.state.deleted and self._expiry.over(job, known.state.there):
            return not await self._forks.remove(known)
        if known.state.deleted and not known.state.forks:
            return not await self._forks.remove(known)  # whoever deleted it did not come to the end of that
        return True

    async def _touch(self, known: Known) -> None:
        await self._expiry.touch(known)

    def _sweep(self) -> None:
        if self._expiry.due():
            self._manager.replica.spawn(self._expire())

    async def _expire(self) -> None:
        try:
            for job in await self._expiry.overdue():
                await self._end_if_over(job)
        except StoreUnavailable as error:
            _log.warning("streams whose time is over are still there: %s", error)

    async def _end_if_over(self, job: Job) -> None:
        try:
            known = await self._known(job)
            config = known.state.config
            if config is None:
                await self._logs.end(known)
            elif not known.state.deleted and self._expiry.over(job, config):
                await self._forks.remove(known)
        except (NotFound, Gone):
            pass  # somebody else was faster

    async def _inherit(self, origin: Known | None, wish: Wish) -> tuple[int, tuple[Segment, ...], Content | None]:
        """Where a fork begins, what it takes over by reference, and the part of an append that it takes as its own."""
        if origin is None or wish.fork is None:
            return 0, (), None
        state = origin.state
        if wish.content_type is not None and media_type(wish.content_type) != media_type(state.there.content_type):
            raise StreamConflict("a fork has the content type of its source")
        at = state.tail if wish.fork.at is None else wish.fork.at
        if at > state.tail:
            raise BadRequest("Stream-Fork-Offset lies beyond the end of the source", field="Stream-Fork-Offset")
        prefix: Content | None = None
        if wish.fork.sub:
            async with aclosing(self._contents(origin, at)) as contents:
                async for _, content in contents:
                    prefix = content[: wish.fork.sub]
                    break
            if prefix is None or len(prefix) < wish.fork.sub:
                raise BadRequest("Stream-Fork-Sub-Offset lies beyond the append", field="Stream-Fork-Sub-Offset")
        shared = [msgspec.structs.replace(one, upto=min(one.upto, at)) for one in segments(origin.key, state)]
        return at, tuple(one for one in shared if one.base < one.upto), prefix

    def _info(self, known: Known, *, created: bool = False) -> Info:
        state = known.state
        return Info(
            config=state.there, generation=known.key.generation, next=state.tail, closed=state.closed, created=created
        )


def segments(key: tuple[str, int], state: State) -> tuple[Segment, ...]:
    """The stretches that a stream consists of, oldest first; the last one is its own log."""
    config = state.there
    return (*config.inherited, Segment(Ref(*key), config.base, state.last))


def _joined(prefix: Content | None, content: Content | None) -> Content | None:
    if prefix is None or content is None:
        return prefix if content is None else content
    if isinstance(prefix, bytes):
        assert isinstance(content, bytes)
        return prefix + content
    assert not isinstance(content, bytes)
    return [*prefix, *content]
