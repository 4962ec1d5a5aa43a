"""Following a log, chunk by chunk: what is appended, from this replica's tail of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from unspool.durable.entries import content_of, entry_of
from unspool.durable.reading import Chunk, add
from unspool.errors import NotFound, ViewerReleased
from unspool.events import SYNC, Record
from unspool.tail import Tail
from unspool.viewer import End, Viewer

Extend = Callable[[Chunk, Sequence[Record], int], Chunk]
"""What records add to a place, where they go up to this offset of the log."""


class Shared:
    """The last chunk of each log: those who follow one stand at the same place, nearly all, and get the very same."""

    def __init__(self) -> None:
        self._chunks: WeakKeyDictionary[Tail, tuple[Sequence[Record], Chunk]] = WeakKeyDictionary()

    def chunk(self, viewer: Viewer, at: Chunk, records: Sequence[Record], extend: Extend) -> Chunk:
        """What these records, which this viewer was given, add to `at`."""
        known = self._chunks.get(viewer.tail)
        if known is not None:
            seen, chunk = known
            # Equal places are not enough: the store may have lost what was there, and have something else there now.
            if (chunk.after, chunk.begins) == (at.next, at.last) and seen == records:
                return chunk
        found = replace(extend(at, records, viewer.position), after=at.next, begins=at.last)
        self._chunks[viewer.tail] = records, found
        return found


class Live:
    """What comes after a chunk, chunk by chunk. Close it, or enter it."""

    def __init__(self, viewer: Viewer, chunk: Chunk, shared: Shared, extend: Extend) -> None:
        self._viewer = viewer
        self._shared = shared
        self._extend = extend
        self._at: Chunk = replace(chunk, parts=(), after=chunk.next)  # where it stands, as a chunk without content

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
            chunk = self._shared.chunk(self._viewer, self._at, records, self._extend)
            if self._viewer.position < self._viewer.tail.last:
                chunk = replace(chunk, up_to_date=False)
            self._at = replace(chunk, parts=(), after=chunk.next, up_to_date=True)
            if chunk.parts or chunk.closed:
                return chunk

    def poke(self) -> None:
        """Make whoever waits go on with nothing."""
        self._viewer.poke()

    def close(self) -> None:
        """Detach; whoever waits gets None."""
        self._viewer.close()


def appended(base: int) -> Extend:
    """The appends to a stream whose own log begins after `base`. Raises NotFound for the end of the log."""

    def extend(at: Chunk, records: Sequence[Record], position: int) -> Chunk:
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
        return replace(at, parts=parts, next=reached, closed=closed, last=base + position)

    return extend
