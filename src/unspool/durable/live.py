"""Following a stream: what is appended, from this replica's tail of its log."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from types import TracebackType

from msgspec.structs import replace

from unspool.durable.entries import content_of, entry_of
from unspool.durable.reading import Chunk, add
from unspool.errors import NotFound, ShuttingDown, ViewerReleased
from unspool.events import SYNC, Record
from unspool.jobs import GenerationKey, Job
from unspool.replica import Replica
from unspool.viewer import End, Viewer


async def watch(replica: Replica, job: Job, after: int) -> Viewer:
    """A viewer of a log. Unlike `Replica.attach` it calls no hooks: this is no generation. Raises ShuttingDown."""
    tail = await replica.tail(job.key, job)
    if replica.closing:
        raise ShuttingDown

    def detach(viewer: Viewer) -> None:
        replica.viewers.pop(viewer, None)
        tail.viewers.pop(viewer, None)
        if not tail.viewers:
            tail.idle_since = asyncio.get_running_loop().time()

    viewer = Viewer(tail, after, snapshot=False, detach=detach)
    replica.viewers[viewer] = None
    tail.viewers[viewer] = None
    if tail.held < tail.last:
        tail.repair_soon()
    return viewer


class Shared:
    """The last chunk of each log: those who follow one stand at the same place, nearly all, and get the very same."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: OrderedDict[GenerationKey, Chunk] = OrderedDict()

    def chunk(self, key: GenerationKey, at: Chunk, base: int, position: int, records: Sequence[Record]) -> Chunk:
        """What these records, up to `position`, add to `at`. Raises NotFound for the end of the log."""
        known = self._chunks.get(key)
        if known is not None and (known.after, known.begins, known.last) == (at.next, at.last, base + position):
            return known
        parts: list[bytes] = []
        reached, closed = at.next, at.closed
        for record in records:
            if record.terminal:
                raise NotFound
            content = content_of(record)
            if content:
                add(parts, content)
                reached = base + record.offset
            closed = closed or entry_of(record).closed
        found = replace(
            at, parts=parts, after=at.next, next=reached, closed=closed, begins=at.last, last=base + position
        )
        self._chunks[key] = found
        self._chunks.move_to_end(key)
        if len(self._chunks) > self._limit:
            self._chunks.popitem(last=False)
        return found


class Live:
    """What comes after a chunk, chunk by chunk. Close it, or enter it."""

    def __init__(self, viewer: Viewer, chunk: Chunk, base: int, shared: Shared) -> None:
        self._viewer = viewer
        self._base = base
        self._shared = shared
        self.at: Chunk = replace(chunk, parts=(), after=chunk.next)
        """Where it stands, as a chunk without content."""

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def next(self) -> Chunk | None:
        """Wait for the next chunk; None when poked, or closed meanwhile.

        Raises NotFound when the stream is deleted, ViewerReleased when this replica lets its viewers go.
        """
        while True:
            records = await self._viewer.records()
            if records is None and self._viewer.end is End.FINISHED:
                raise NotFound
            if not records:
                return None
            if records[0].type == SYNC:  # the store has lost what was read here, and it must be read anew
                raise ViewerReleased
            tail = self._viewer.tail
            chunk = self._shared.chunk(tail.key, self.at, self._base, self._viewer.position, records)
            if self._viewer.position < tail.last:
                chunk = replace(chunk, up_to_date=False)
            self.at = replace(chunk, parts=(), after=chunk.next, up_to_date=True)
            if chunk.parts or chunk.closed:
                return chunk

    def poke(self) -> None:
        """Make whoever waits go on with nothing."""
        self._viewer.poke()

    def close(self) -> None:
        """Detach; whoever waits gets None."""
        self._viewer.close()
