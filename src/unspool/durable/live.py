"""Following a stream: what is appended, from this replica's tail of its log."""

from __future__ import annotations

import asyncio
from types import TracebackType

from msgspec.structs import replace

from unspool.durable.entries import content_of, entry_of
from unspool.durable.reading import Chunk, add
from unspool.errors import NotFound, ShuttingDown, ViewerReleased
from unspool.events import SYNC
from unspool.jobs import Job
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


class Live:
    """What comes after a chunk, chunk by chunk. Close it, or enter it."""

    def __init__(self, viewer: Viewer, chunk: Chunk, base: int) -> None:
        self._viewer = viewer
        self._base = base
        self.at: Chunk = replace(chunk, parts=(), after=chunk.next)
        """Where it stands, as a chunk without content."""

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def next(self, seconds: float) -> Chunk | None:
        """The next chunk, or None when nothing came in that time, or it was closed meanwhile.

        Raises NotFound when the stream is deleted, ViewerReleased when this replica lets its viewers go.
        """
        try:
            async with asyncio.timeout(seconds):
                return await self._next()
        except TimeoutError:
            return None

    async def _next(self) -> Chunk | None:
        while True:
            records = await self._viewer.records()
            if records is None and self._viewer.end is End.FINISHED:
                raise NotFound
            if not records:
                return None
            parts: list[bytes] = []
            reached, closed = self.at.next, self.at.closed
            for record in records:
                if record.terminal:
                    raise NotFound
                if record.type == SYNC:  # the store has lost what was read here, and it must be read anew
                    raise ViewerReleased
                content = content_of(record)
                if content:
                    add(parts, content)
                    reached = self._base + record.offset
                closed = closed or entry_of(record).closed
            held = self._viewer.tail
            chunk = replace(
                self.at, parts=parts, after=self.at.next, next=reached, closed=closed,
                up_to_date=self._viewer.position >= held.last, last=self._base + self._viewer.position,
            )  # fmt: skip
            self.at = replace(chunk, parts=(), after=reached)
            if parts or closed:
                return chunk

    def close(self) -> None:
        """Detach; whoever waits gets None."""
        self._viewer.close()
