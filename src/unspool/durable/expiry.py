"""When a stream's time is over: so many seconds without a read or a write, or a fixed moment.

The lease of a stream says when it was last used: it is renewed, for always the same time, by whoever uses it, and by
the store's own clock. A stream whose time is over is gone for everybody at once, and deleted by whoever notices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from unspool.durable.cache import Known
from unspool.durable.entries import Config
from unspool.durable.forks import unborn
from unspool.durable.names import LEASE, PREFIX, REPLICA
from unspool.errors import Gone, NotFound
from unspool.jobs import GenerationKey, Job, Status
from unspool.protocols import JobStore

_SWEEP: Final = 60.0
"""Seconds between two looks at the streams that were used here."""
_LOOK: Final = 3600.0
"""Seconds between two looks at all that the store holds: replicas that are gone have left some behind."""
_WATCHED: Final = 100_000


class Expiry:
    """The lifetimes of streams. `clock`: Unix seconds, as the store has them."""

    def __init__(self, store: JobStore, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._deadlines: dict[GenerationKey, float] = {}
        self._swept = self._looked = -_LOOK

    def over(self, job: Job, config: Config) -> bool:
        return self._over(job, config.ttl, config.expires_at)

    def _over(self, job: Job, ttl: int | None, expires_at: float | None) -> bool:
        now = self._clock()
        if expires_at is not None and now >= expires_at:
            return True
        return ttl is not None and now >= job.lease.expires_at - LEASE + ttl

    async def touch(self, known: Known) -> None:
        """The stream was used. Raises StoreUnavailable."""
        config = known.state.there
        if config.ttl is None and config.expires_at is None:
            return
        if config.ttl is not None:
            await self._store.renew(REPLICA, [(known.key, known.epoch)], LEASE)
        self._deadlines[known.key] = self._clock() + config.ttl if config.ttl is not None else config.expires_at or 0.0
        while len(self._deadlines) > _WATCHED:
            del self._deadlines[next(iter(self._deadlines))]

    def due(self) -> bool:
        """Whether it is time to look again for streams that nobody uses."""
        now = asyncio.get_running_loop().time()
        if now - self._swept < _SWEEP:
            return False
        self._swept = now
        return True

    async def overdue(self) -> Sequence[Job]:
        """Streams whose time may be over."""
        now = asyncio.get_running_loop().time()
        found: list[Job] = []
        for key in [key for key, deadline in self._deadlines.items() if deadline <= self._clock()]:
            del self._deadlines[key]
            try:
                found.append(await self._store.get(*key))
            except (NotFound, Gone):
                continue
        if now - self._looked >= _LOOK:
            self._looked = now
            found += [job for job in await self._store.jobs(None, Status.RUNNING, _WATCHED) if self._left_behind(job)]
        return [job for job in found if not job.settled]

    def _left_behind(self, job: Job) -> bool:
        lifetime = job.metadata.extra or {}
        return job.stream_id.startswith(PREFIX) and (
            unborn(job, self._clock()) or self._over(job, lifetime.get("ttl"), lifetime.get("expires_at"))
        )
