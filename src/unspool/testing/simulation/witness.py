"""The witness around a store: tells the truth of every step, in the moment in which it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unspool.errors import CapacityExceeded, Fenced, Gone
from unspool.events import Record
from unspool.jobs import GenerationKey, Job, Lease, Owner, Status
from unspool.protocols import Checkpoint, Counts, Created, Expired, JobStore, NewJob, Page, Renewal, Sealed
from unspool.testing.simulation.truth import Truth


class Witness:
    """A JobStore over another, whose verbs must do their work without waiting for anything outside the loop."""

    def __init__(self, inner: JobStore, truth: Truth) -> None:
        self.kind = inner.kind
        self.passed_over = inner.passed_over
        self.inner = inner
        self._truth = truth

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def ping(self) -> None:
        await self.inner.ping()

    async def create(self, new: NewJob) -> Created:
        try:
            created = await self.inner.create(new)
        except CapacityExceeded:
            self._truth.full(new)
            raise
        self._truth.created(new, created)
        return created

    async def get(self, name: str, generation: int | None = None, *, owner: Owner | None = None) -> Job:
        try:
            job = await self.inner.get(name, generation, owner=owner)
        except Gone as error:
            self._truth.missing(GenerationKey(name, error.details["generation"]))
            raise
        self._truth.answered(job)
        self._truth.told(job, owner)
        return job

    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        try:
            await self.inner.append(key, epoch, records, metadata=metadata, status=status)
        except Fenced:
            self._truth.was_refused(key, epoch, records)
            raise
        self._truth.appended(key, epoch, records, status)

    async def read(self, key: GenerationKey, after: int, limit: int) -> Page:
        try:
            page = await self.inner.read(key, after, limit)
        except Gone:
            self._truth.missing(key)
            raise
        self._truth.read(key, after, limit, page)
        return page

    async def seal(
        self, key: GenerationKey, epoch: int, type: str, payload: bytes, *, expires_at: float | None = None
    ) -> Sealed:
        try:
            sealed = await self.inner.seal(key, epoch, type, payload, expires_at=expires_at)
        except Fenced:
            if expires_at is None:  # else it may be right by its epoch, and the lease was renewed
                self._truth.was_refused(key, epoch)
            raise
        if expires_at is not None and sealed.won:
            self._truth.lost(key, expires_at)
        self._truth.sealed(key, epoch, type, payload, sealed)
        return sealed

    async def update(self, key: GenerationKey, epoch: int, metadata: Mapping[str, Any]) -> Job:
        try:
            job = await self.inner.update(key, epoch, metadata)
        except Fenced:
            self._truth.was_refused(key, epoch)
            raise
        self._truth.wrote(key, epoch, "metadata")
        return job

    async def request_abort(self, key: GenerationKey, by: str, reason: str | None) -> Job:
        job = await self.inner.request_abort(key, by, reason)
        self._truth.answered(job)
        return job

    async def mark_synced(self, key: GenerationKey, synced: bool) -> None:
        await self.inner.mark_synced(key, synced)

    async def renew(
        self, replica: str, leases: Sequence[tuple[GenerationKey, int]], seconds: float
    ) -> Sequence[Renewal]:
        found = await self.inner.renew(replica, leases, seconds)
        for (key, epoch), renewal in zip(leases, found, strict=True):
            self._truth.renewed(key, epoch, replica, renewal.held)
        return found

    async def take_over(
        self, key: GenerationKey, epoch: int, replica: str, seconds: float, *, expires_at: float | None = None
    ) -> Lease | None:
        lease = await self.inner.take_over(key, epoch, replica, seconds, expires_at=expires_at)
        if lease is not None:
            self._truth.taken_over(key, epoch, lease, expires_at)
        return lease

    async def expired(self, limit: int, *, beyond: float | None = None) -> Expired:
        found = await self.inner.expired(limit, beyond=beyond)
        for job in found.jobs:
            self._truth.expired(job)
        return found

    async def active(self, owner: Owner) -> Sequence[Job]:
        return await self.inner.active(owner)

    async def jobs(self, owner: Owner | None, status: Status | None, limit: int) -> Sequence[Job]:
        return await self.inner.jobs(owner, status, limit)

    async def counts(self) -> Counts:
        return await self.inner.counts()

    async def save_checkpoint(self, key: GenerationKey, epoch: int, checkpoint: Checkpoint) -> None:
        await self.inner.save_checkpoint(key, epoch, checkpoint)
        self._truth.checkpointed(key, epoch, checkpoint)

    async def checkpoint(self, key: GenerationKey) -> Checkpoint | None:
        return await self.inner.checkpoint(key)

    async def trim(self, key: GenerationKey, epoch: int, up_to: int) -> None:
        await self.inner.trim(key, epoch, up_to)
        self._truth.trimmed(key, epoch, up_to)

    async def delete(self, key: GenerationKey) -> bool:
        deleted = await self.inner.delete(key)
        if deleted:
            self._truth.deleted(key)
        return deleted

    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        deleted = await self.inner.delete_expired(retention, completed_retention)
        for key in deleted:
            self._truth.missing(key)
        return deleted
