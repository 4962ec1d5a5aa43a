"""Generations as durable streams, to be read: each public record is one message, and the seal closes the stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from unspool.durable import Chunk, Live, Shared
from unspool.errors import BadRequest, StoreUnavailable
from unspool.events import Record
from unspool.http.auth import Identity
from unspool.manager import GenerationManager
from unspool.protocols import lost
from unspool.tail import PAGE

_TYPE: Final = "application/json"


class _Message(msgspec.Struct):
    offset: int
    type: str
    data: msgspec.Raw


class GenerationSource:
    """One generation, for a caller who may see it. `mark`: of the log that the reader has followed; None: of none yet.

    The mark is the log's name as a number. Where the store gave the generation's number again, it is another one.
    """

    def __init__(
        self, manager: GenerationManager, shared: Shared, identity: Identity, stream_id: str, generation: int,
        mark: int | None,
    ) -> None:  # fmt: skip
        self._manager = manager
        self._shared = shared
        self._identity = identity
        self._stream_id = stream_id
        self._generation = generation
        self._mark = mark

    async def read(self, after: int | None) -> Chunk:
        """Up to a page of records; a snapshot takes the place of those that are no longer kept.

        Raises NotFound, and Gone where the offset is of another log.
        """
        job = await self._manager.job(self._stream_id, generation=self._generation, **self._identity.owner())
        mark = int(job.log or "0", 16)
        if self._mark not in (None, mark):
            raise lost(job.key)
        self._mark = mark
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
            closed=job.settled, last=reached, mark=mark,
        )  # fmt: skip

    async def follow(self, chunk: Chunk) -> Live:
        """What comes after a chunk. Raises NotFound, Gone, ShuttingDown."""
        viewer = await self._manager.view(
            self._stream_id, generation=self._generation, after=chunk.next, **self._identity.owner()
        )
        return Live(viewer, chunk, self._shared, _extended)

    async def touch(self) -> None:
        """Nothing: no reader keeps a generation."""


def _extended(at: Chunk, records: Sequence[Record], position: int) -> Chunk:
    return replace(at, parts=_messages(records), next=position, last=position, closed=records[-1].terminal)


def _messages(records: Sequence[Record]) -> list[bytes]:
    return [
        msgspec.json.encode(_Message(record.offset, record.type, msgspec.Raw(record.payload)))
        for record in records
        if not record.internal
    ]
