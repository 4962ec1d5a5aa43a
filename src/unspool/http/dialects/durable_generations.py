"""Generations as durable streams, to be read: each public record is one message, and the seal closes the stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from unspool.durable import Chunk
from unspool.errors import BadRequest, StoreUnavailable, ViewerReleased
from unspool.events import SYNC, Record
from unspool.http.auth import Identity
from unspool.jobs import Job
from unspool.manager import GenerationManager
from unspool.tail import PAGE
from unspool.viewer import Viewer

_TYPE: Final = "application/json"


class _Message(msgspec.Struct):
    offset: int
    type: str
    data: msgspec.Raw


class GenerationSource:
    """One generation, for somebody who may see it."""

    def __init__(self, manager: GenerationManager, identity: Identity, stream_id: str, generation: int) -> None:
        self._manager = manager
        self._identity = identity
        self._stream_id = stream_id
        self._generation = generation

    async def job(self) -> Job:
        """Raises NotFound, Gone."""
        return await self._manager.job(self._stream_id, generation=self._generation, **self._identity.owner())

    async def read(self, after: int | None) -> Chunk:
        """Up to a page of records; a snapshot takes the place of those that are no longer kept."""
        job = await self.job()
        last = job.last_offset
        at = last if after is None else after
        if at > last:
            raise BadRequest("the offset lies beyond the end of the generation", field="offset")
        records: Sequence[Record] = ()
        if at < last:
            page = await self._manager.store.read(job.key, at, PAGE)
            records = [record for record in page.records if record.offset <= last]
            if page.first_offset > at + 1:
                records = [await (await self._manager.replica.tail(job.key, job)).sync("trimmed")]
            if not records:
                raise StoreUnavailable("the store has lost records that it had told of; read again")
        reached = records[-1].offset if records else at
        return Chunk(
            job.generation, _TYPE, _messages(records), at, reached, up_to_date=reached == last,
            closed=job.settled, last=reached,
        )  # fmt: skip

    async def follow(self, chunk: Chunk) -> GenerationLive:
        """What comes after a chunk. Raises NotFound, Gone, ShuttingDown."""
        viewer = await self._manager.view(
            self._stream_id, generation=self._generation, after=chunk.next, **self._identity.owner()
        )
        return GenerationLive(viewer, chunk)

    async def touch(self) -> float:
        return math.inf


class GenerationLive:
    """What comes after a chunk of a generation."""

    def __init__(self, viewer: Viewer, chunk: Chunk) -> None:
        self._viewer = viewer
        self._at: Chunk = replace(chunk, parts=(), after=chunk.next)

    async def next(self) -> Chunk | None:
        """Wait for the next chunk; None when poked, or closed meanwhile. Raises ViewerReleased."""
        records = await self._viewer.records()
        if not records:
            return None
        if records[0].type == SYNC:  # what was read here is lost: it is read anew
            raise ViewerReleased
        reached, closed = self._viewer.position, records[-1].terminal
        chunk = replace(
            self._at, parts=_messages(records), after=self._at.next, next=reached, last=reached,
            up_to_date=reached >= self._viewer.tail.last, closed=closed,
        )  # fmt: skip
        self._at = replace(chunk, parts=(), after=reached)
        return chunk

    def poke(self) -> None:
        self._viewer.poke()

    def close(self) -> None:
        self._viewer.close()


def _messages(records: Sequence[Record]) -> list[bytes]:
    return [
        msgspec.json.encode(_Message(record.offset, record.type, msgspec.Raw(record.payload)))
        for record in records
        if not record.internal
    ]
