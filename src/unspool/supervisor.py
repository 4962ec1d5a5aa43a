"""The periodic work of a replica: renew leases, notice dead owners, end stalls, keep retention, back up hints."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from unspool.errors import Fenced, Gone, NotFound, ShuttingDown, StoreUnavailable
from unspool.jobs import GenerationKey, Job, Task
from unspool.protocols import current
from unspool.replica import Replica
from unspool.store_watch import StoreWatch
from unspool.terminals import OWNER_LOST, Aborted, Failed

_log = logging.getLogger("unspool.supervisor")
_ORPHANS = 10_000
"""Maximum number of orphaned generations that are ended at the same time."""
_PIECE = 256

T = TypeVar("T")


class Supervisor:
    """Loops over one replica: none waits for another, and each survives a store that is away."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._random = random.Random(replica.name)
        self._tasks: list[asyncio.Task[None]] = []
        self._orphaned_at: dict[GenerationKey, float] = {}  # orphans, and since when they were seen to be
        self._orphans: dict[GenerationKey, asyncio.Task[None]] = {}  # those that are cared for here
        self._thorough = True  # a clock may have been put back since this replica last judged

    def start(self) -> None:
        options, billing = self._replica.options, self._replica.billing
        self._watch = StoreWatch(options.lease, options.sweep, self._now())
        if billing.ledger is not None:
            self._tasks.append(asyncio.create_task(self._every(billing.renewal, self.hold), name="unspool hold"))
        for name, seconds, work in (
            ("renew", options.lease / 3, self.renew),
            ("sweep", options.sweep, self.sweep),
            ("retain", options.sweep, self.retain),
            ("poll", options.poll, self.poll),
        ):
            self._tasks.append(asyncio.create_task(self._every(seconds, work), name=f"unspool {name}"))

    async def stop(self) -> None:
        tasks = [*self._tasks, *self._orphans.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except StoreUnavailable as error:
                if work in (self.renew, self.sweep):  # where owners cannot renew, nobody can say which of them is dead
                    self._watch.suspend(self._now())
                _log.warning("the store is unavailable: %s", error)
            except (Exception, asyncio.CancelledError):
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                # One bad round must not end the care of all that comes after it.
                _log.exception("periodic work failed; it continues with the next round")

    async def renew(self) -> None:
        """Renew all leases, hundreds in one call, and hear of stops whose hints were lost."""
        replica = self._replica
        async for runs in _pieces(replica.runs.values()):
            leases = [(run.key, run.epoch) for run in runs]
            found = await replica.store.renew(replica.name, leases, replica.options.lease)
            for run, renewal in zip(runs, found, strict=True):
                if run.done.is_set():
                    continue
                if not renewal.held:
                    run.lose()
                elif renewal.abort is not None:
                    run.stop(Aborted(renewal.abort.by, renewal.abort.reason))

    async def hold(self) -> None:
        """Renew what the runs hold of their accounts: a loop of its own, since a ledger may hang."""
        runs = list(self._replica.runs.values())
        await self._replica.billing.renew((run.job, run.epoch) for run in runs)

    async def sweep(self) -> None:
        """End what is stalled or too long, take over what has no owner."""
        await self._end_overdue()
        asked = self._now()
        first = self._thorough and self._watch.trusts(asked)  # the first judgement after a time without one
        beyond = self._replica.options.lease * 9 / 8 if first else None
        expired = await self._replica.store.expired(_ORPHANS, beyond=beyond)
        self._watch.answered(asked, self._now(), expired.clocks)
        if not self._watch.trusts(self._now()):
            self._thorough = True
            return
        self._thorough = self._thorough and not first
        # What is ours is only late: the renewal decides. Each survivor begins somewhere else.
        now = self._now()
        self._orphaned_at = {job.key: self._orphaned_at.get(job.key, now) for job in expired.jobs}
        orphans = [
            job for job in expired.jobs
            if job.key not in self._replica.runs and job.key not in self._orphans and not self._is_for_others(job)
        ]  # fmt: skip
        self._random.shuffle(orphans)
        for job in orphans[: _ORPHANS - len(self._orphans)]:
            # Each in a task of its own: none waits for the save hooks of another, and no sweep for any of them.
            task = self._orphans[job.key] = asyncio.create_task(self._take_over(job), name=f"orphan {job.key}")
            task.add_done_callback(partial(self._cared_for, job.key))

    def _cared_for(self, key: GenerationKey, _: asyncio.Task[None]) -> None:
        del self._orphans[key]

    async def retain(self) -> None:
        """Delete generations that are past retention, drop tails without viewers."""
        options = self._replica.options
        completed = options.retention if options.completed_retention is None else options.completed_retention
        await self._drop_idle_tails()
        await self._replica.store.delete_expired(options.retention, completed)

    async def _drop_idle_tails(self) -> None:
        async for keys in _pieces(self._replica.tails):
            self._replica.drop_idle_tails(keys)

    async def _end_overdue(self) -> None:
        async for runs in _pieces(self._replica.runs.values()):
            now = self._now()
            for run in runs:
                limits = run.job.limits
                if limits.stall and not run.generation.paused and now - run.active_at >= limits.stall:
                    run.stop(Aborted("system", "stalled"))
                elif limits.duration and now - run.started_at >= limits.duration:
                    run.stop(Aborted("system", "duration"))

    def _resumable(self, job: Job) -> Task | None:
        """The task to resume an orphan with; None where it is not to be resumed."""
        task = job.task
        if task is None or not task.resume or job.abort is not None:
            return None
        return task if job.lease.epoch <= self._replica.options.resumes else None

    def _is_for_others(self, job: Job) -> bool:
        """Check whether an orphan is left to other replicas: for `resume_wait` seconds to those that know its task,
        and always when this one shuts down, since each take-over is an attempt."""
        task = self._resumable(job)
        if task is None:
            return False
        if self._replica.closing:
            return True
        if task.name in self._replica.tasks:
            return False
        return self._now() - self._orphaned_at[job.key] < self._replica.options.resume_wait

    async def _take_over(self, job: Job) -> None:
        with self._replica.claim(job.key) as mine:
            if mine:
                await self._end_orphan(job)

    async def _end_orphan(self, job: Job) -> None:
        replica, settler = self._replica, self._replica.settler
        task, lost = self._resumable(job), job.lease
        seconds = settler.lease_for_settling(replica.options.lease)
        verdict = Failed(OWNER_LOST, "The process that generated this answer is gone.", retryable=True)
        try:
            if job.abort is None and task is None and settler.is_plain(job):
                await settler.seal_lost(job, verdict, replica.known_tail(job.key))
                return
            lease = await settler.until_available(
                lambda: replica.store.take_over(job.key, lost.epoch, replica.name, seconds, expires_at=lost.expires_at)
            )
            if lease is None:
                return
            _log.warning("%s: its owner %s is lost; taken over under epoch %d", job.key, lost.replica, lease.epoch)
            job = await settler.until_available(
                lambda: current(replica.store, job.key)
            )  # it may have been stopped since
            if task is not None and task.name in replica.tasks and job.abort is None:
                await replica.resume(job, task)
                return
            stopped = None if job.abort is None else Aborted(job.abort.by, job.abort.reason)
            tail = await settler.until_available(lambda: replica.tail(job.key))
            await settler.settle(job.key, lease.epoch, stopped or verdict, tail, patient=True)
        except (Fenced, NotFound, Gone, ShuttingDown) as error:
            _log.info("%s: settled by another replica: %s", job.key, error)
        except Exception:  # noqa: BLE001  (logged; one bad job must not end the care of all the others)
            _log.exception("%s: could not be settled; it is tried again when this lease has run out", job.key)

    async def poll(self) -> None:
        """Poll live sources, and remote logs that have viewers here, in case hints were lost."""
        async for runs in _pieces(self._replica.runs.values()):
            for run in runs:
                run.generation.collect_quietly()
        async for tails in _pieces(self._replica.tails.values()):
            for tail in tails:
                if tail.viewers and not tail.local and not tail.sealed:
                    tail.repair_soon()


async def _pieces(items: Collection[T]) -> AsyncGenerator[Sequence[T]]:
    """Items as they are now, some hundreds at a time; in between, the loop runs other tasks."""
    whole = list(items)
    for at in range(0, len(whole), _PIECE):
        if at:
            await asyncio.sleep(0)
        yield whole[at : at + _PIECE]
