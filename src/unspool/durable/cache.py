"""The states of streams that this replica has looked at: bounded, since each can be folded again from its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from unspool.durable.state import State
from unspool.errors import Fenced, Gone, NotFound, StoreUnavailable
from unspool.events import Record
from unspool.jobs import GenerationKey, Job
from unspool.protocols import Checkpoint, JobStore

PAGE: Final = 512
_CHECKPOINT: Final = 500
"""Records between two dumps of a state: what a replica that has never seen the stream reads at most."""


class Known:
    """One stream as this replica knows it. `lock`: for whoever appends, or reads what is new."""

    __slots__ = ("dumped", "job", "key", "lock", "state")

    def __init__(self, job: Job) -> None:
        self.key = job.key
        self.job = job  # as it was last found in the store
        self.state = State()
        self.dumped = 0
        self.lock = asyncio.Lock()

    @property
    def epoch(self) -> int:
        return self.job.lease.epoch


class Cache:
    """Streams by their logs. What was used longest ago is forgotten first."""

    def __init__(self, store: JobStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._known: OrderedDict[GenerationKey, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def known(self, job: Job, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> Known:
        """The stream of a job, no older than the job. `spawn` runs what nobody waits for."""
        known = self._known.get(job.key)
        if known is None:
            known = self._known[job.key] = Known(job)
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        self._known.move_to_end(job.key)
        known.job = job
        if known.state.offset != job.last_offset:
            async with known.lock:
                await self._catch_up(known, job.last_offset)
        if known.state.offset - known.dumped >= _CHECKPOINT:
            known.dumped = known.state.offset
            spawn(self._dump(known))
        return known

    async def _catch_up(self, known: Known, last: int) -> None:
        if known.state.offset > last:
            # Either somebody here was faster, or the store has lost what it had accepted: only the log can tell.
            page = await self._store.read(known.key, known.state.offset - 1, 1)
            if page.last_offset < known.state.offset:
                known.state = State()
        if known.state.offset == 0 and last > _CHECKPOINT:
            checkpoint = await self._store.checkpoint(known.key)
            if checkpoint is not None and checkpoint.offset <= last:
                known.state = State.load(checkpoint.state)
                known.dumped = checkpoint.offset
        while known.state.offset < last and await self.read_on(known):
            pass

    async def read_on(self, known: Known) -> list[Record]:
        """Take in what comes next in the log; nothing at its end. The caller has the lock."""
        page = await self._store.read(known.key, known.state.offset, PAGE)
        for record in page.records:
            known.state.apply(record)
        return list(page.records)

    async def _dump(self, known: Known) -> None:
        state = known.state
        checkpoint = Checkpoint(state.offset, state.dump())
        with contextlib.suppress(Fenced, NotFound, Gone, StoreUnavailable):  # it only saves reading
            await self._store.save_checkpoint(known.key, known.epoch, checkpoint)

    def forget(self, key: GenerationKey) -> None:
        self._known.pop(key, None)
