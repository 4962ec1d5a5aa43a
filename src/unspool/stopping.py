"""Abort a generation: ask its owner, wait for the seal, take over where the owner does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from unspool.errors import Fenced, InvalidArgument
from unspool.events import check_text
from unspool.jobs import Job, Status
from unspool.outcomes import AbortOutcome, AlreadySettled, SaveFailed, Stopped, outcome_of
from unspool.protocols import Hint, current
from unspool.replica import Replica
from unspool.tail import Tail
from unspool.terminals import REASON_CHARS, SAVE_FAILED, Aborted

_log = logging.getLogger("unspool")


async def abort(replica: Replica, job: Job, verdict: Aborted) -> AbortOutcome:
    """Stop this generation. The answer comes after the seal, and within bounds whatever the owner does. Raises
    InvalidEvent, InvalidArgument, StoreUnavailable, NotFound, Gone."""
    for name, text in (("by", verdict.by), ("reason", verdict.reason or "")):
        if len(check_text(text, where=name)) > REASON_CHARS:
            raise InvalidArgument(f"{name} has {len(text)} characters, and may have {REASON_CHARS}")
    tail = await replica.tail(job.key, job)
    if not job.settled:
        job = await replica.store.request_abort(job.key, verdict.by, verdict.reason)
    if job.settled:
        return await _answer(replica, tail, job, asked=False)
    run = replica.runs.get(job.key)
    if run is not None:
        run.stop(verdict)
    else:
        replica.channel.publish(Hint(job.key, control=True))
    job = await _sealed(replica, tail, verdict)
    return await _answer(replica, tail, job, asked=True)


async def _sealed(replica: Replica, tail: Tail, verdict: Aborted) -> Job:
    """Wait for the seal for as long as the owner may take, then take over and seal here."""
    options, now = replica.options, asyncio.get_running_loop().time
    patience = options.abort_grace + min(1.0, options.lease / 3)
    seconds = replica.settler.lease_for_settling(options.lease)
    deadline, epoch = now() + patience, 0
    while True:
        job = await current(replica.store, tail.key)
        if job.settled:
            return job
        if epoch and job.lease.epoch != epoch:  # somebody has just taken it over, to seal it: that takes its time, too
            deadline = now() + patience + seconds
        epoch = job.lease.epoch
        left = deadline - now()
        if left > 0:
            await tail.wait_settled(min(left, options.poll))
            continue
        run = replica.runs.get(tail.key)
        if run is not None:  # ours: its hooks are at work, and they have a time limit of their own
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(options.poll):
                    await run.done.wait()
            continue
        with replica.claim(tail.key) as mine:
            if not mine:
                await tail.wait_settled(options.poll)
                continue
            lease = await replica.store.take_over(tail.key, epoch, replica.name, seconds)
            if lease is not None:
                try:
                    return (await replica.settler.settle(tail.key, lease.epoch, verdict, tail)).job
                except Fenced as error:
                    _log.info("%s: taken over while it was being sealed here: %s", tail.key, error)


async def _answer(replica: Replica, tail: Tail, job: Job, *, asked: bool) -> AbortOutcome:
    snapshot = await tail.snapshot(job.last_offset)
    if job.status is Status.ERROR and job.terminal is not None and job.terminal.data.get("code") == SAVE_FAILED:
        # Stopped, but not saved: every further Stop is another try.
        saved = not asked and await replica.settler.save_partial(job, snapshot)
        return outcome_of(AlreadySettled if saved else SaveFailed, job, snapshot)
    stopped = asked and job.status is Status.ABORTED
    return outcome_of(Stopped if stopped else AlreadySettled, job, snapshot)
