"""The states of streams that this replica has looked at: bounded, since each can be folded again from its log."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from unspool.durable.state import State
from unspool.errors import Fenced, Gone, NotFound, StoreUnavailable
from unspool.events import Record
from unspool.jobs import GenerationKey, Job
from unspool.protocols import Checkpoint, JobStore

PAGE: Final = 512
LAST: Final = "response_id"
"""The field of a job's metadata that holds the nonce of the last record: whoever gets the job knows which that is."""
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
    """Streams by their internal names. What was used longest ago is forgotten first."""

    def __init__(self, store: JobStore, limit: int) -> None:
        self._store = store
        self._limit = limit
        self._known: OrderedDict[str, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def reached(self, name: str) -> int:
        """How far the stream of this name is known to go: what the store says from now on is about no less."""
        known = self._known.get(name)
        return 0 if known is None else known.state.offset

    async def known(self, job: Job, spawn: Callable[[Coroutine[Any, Any, None]], None], reached: int = 0) -> Known:
        """The stream of a job, no older than the job. `spawn` runs what nobody waits for; `reached`: what was, before
        the store was asked for the job."""
        key = job.key
        known = self._known.get(key.stream_id)
        if known is None or known.key != key or known.key.is_other(key.log):
            known, reached = Known(job), 0
            self._known[key.stream_id] = known
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        self._known.move_to_end(key.stream_id)
        known.job = job
        if known.state.offset < job.last_offset or _is_other(known.state, job, reached):
            async with known.lock:
                await self._catch_up(known, job, reached)
        if known.state.offset - known.dumped >= _CHECKPOINT:
            known.dumped = known.state.offset
            spawn(self._dump(known))
        return known

    async def _catch_up(self, known: Known, job: Job, reached: int) -> None:
        last = job.last_offset
        if _is_other(known.state, job, reached):
            known.state = State()
        if known.state.offset == 0 and last > _CHECKPOINT:
            checkpoint = await self._store.checkpoint(known.key)
            if checkpoint is not None and checkpoint.offset < last:  # what follows tells whether it is of this log
                known.state = State.load(checkpoint.state)
                known.dumped = checkpoint.offset
        while known.state.offset < last and await self.read_on(known):
            pass

    async def read_on(self, known: Known) -> Sequence[Record]:
        """Take in what comes next in the log; nothing at its end. The caller has the lock."""
        records = (await self._store.read(known.key, known.state.offset, PAGE)).records
        if records and not known.state.leads_to(records[0]):
            known.state = State()  # the store has lost what was read here, and others have written on
            records = await self._whole(known)
        for record in records:
            known.state.apply(record)
        return records

    async def _whole(self, known: Known) -> Sequence[Record]:
        records: list[Record] = []
        while page := (await self._store.read(known.key, len(records), PAGE)).records:
            records += page
        return records

    async def _dump(self, known: Known) -> None:
        state = known.state
        checkpoint = Checkpoint(state.offset, state.dump())
        with contextlib.suppress(Fenced, NotFound, Gone, StoreUnavailable):  # it only saves reading
            await self._store.save_checkpoint(known.key, known.epoch, checkpoint)

    def forget(self, key: GenerationKey) -> None:
        known = self._known.get(key.stream_id)
        if known is not None and known.key == key:
            del self._known[key.stream_id]


def _is_other(state: State, job: Job, reached: int) -> bool:
    """The store has lost what this is the state of, as when a replica that lagged behind has become the master."""
    there = job.last_offset
    return reached > there or (state.offset == there and state.nonce != (getattr(job.metadata, LAST) or ""))
