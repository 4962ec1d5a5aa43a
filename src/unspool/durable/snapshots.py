"""Small things that replicas share, each as the last record of a log: read, decide, append by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unspool import events
from unspool.durable.names import new_log, owner_of
from unspool.errors import Fenced, GenerationConflict, Gone, NotFound
from unspool.events import Record, encode_data
from unspool.jobs import Job, Owner, stream_name
from unspool.protocols import Checkpoint, JobStore

_TYPE: Final = "ds.snapshot"
_KEPT: Final = 64
"""Records after which all but the last are forgotten."""

Change = Callable[[bytes | None], bytes | None]
"""From what is there (None: nothing) to what is to be there; None: leave it. Raises what it is refused with."""


class Snapshots:
    """Named values in a store. A value is JSON."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    async def load(self, name: str, owner: Owner) -> bytes | None:
        """The value, or None where there is none."""
        return (await self._load(name, owner))[1]

    async def _load(self, name: str, owner: Owner) -> tuple[Job | None, bytes | None]:
        while True:
            try:
                job = await self._get(name, owner)
                if job.settled or not job.last_offset:
                    return job, None
                page = await self._store.read(job.key, job.last_offset - 1, 1)
            except (NotFound, Gone):
                return None, None
            if page.records and not page.records[-1].terminal:
                return job, page.records[-1].payload

    async def _get(self, name: str, owner: Owner) -> Job:
        whose = owner_of(owner)
        return await self._store.get(stream_name(name, whose.tenant), owner=whose)

    async def change(self, name: str, owner: Owner, change: Change) -> bytes | None:
        """Decide on what is there, and write it unless it has changed meanwhile: then decide again."""
        while True:
            job, found = await self._load(name, owner)
            wanted = change(found)
            if wanted is None:
                return found
            try:
                await self._append(
                    job if job is not None and not job.settled else await self._made(name, owner), wanted
                )
            except (Fenced, GenerationConflict):
                continue
            return wanted

    async def _made(self, name: str, owner: Owner) -> Job:
        try:
            job = await self._get(name, owner)
            if not job.settled:
                return job
            expect = job.generation
        except NotFound:
            expect = 0
        except Gone as gone:
            expect = gone.details["generation"]
        return (await self._store.create(new_log(name, owner, expect))).job

    async def _append(self, job: Job, value: bytes) -> None:
        offset = job.last_offset + 1
        await self._store.append(job.key, job.lease.epoch, [Record(offset, _TYPE, value)])
        if offset % _KEPT == 0:
            await self._store.save_checkpoint(job.key, job.lease.epoch, Checkpoint(offset, b"{}"))
            await self._store.trim(job.key, job.lease.epoch, offset - 1)

    async def delete(self, name: str, owner: Owner) -> bool:
        """False where there was none."""
        job, found = await self._load(name, owner)
        if job is None:
            return False
        try:
            await self._store.seal(job.key, job.lease.epoch, events.ABORTED, encode_data({"by": "system"}))
            await self._store.delete(job.key)
        except (Fenced, NotFound, Gone):
            pass  # somebody else was faster
        return found is not None
