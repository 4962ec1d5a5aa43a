"""Settling: from a verdict to the sealed log, whoever seals: the owner, a replica that takes over, the sweep."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from unspool import events
from unspool.billing import Billing
from unspool.content import Snapshot
from unspool.errors import Gone, NotFound, StoreUnavailable
from unspool.events import EVENT_BYTES, Record, encode_data
from unspool.jobs import GenerationKey, Job
from unspool.options import Hooks
from unspool.protocols import Channel, Hint, JobStore, Sealed, current
from unspool.tail import Tail
from unspool.terminals import SAVE_FAILED, Aborted, Completed, Failed, Verdict, terminal, without_content

_log = logging.getLogger("unspool")
_T = TypeVar("_T")
_PAUSE = 0.2  # seconds between two tries while the store is away


class _Step(Protocol):
    """A way to ask the store: once, or again until it answers."""

    async def __call__(self, call: Callable[[], Awaitable[_T]]) -> _T: ...


class Settler:
    """Seals logs and tells everybody."""

    def __init__(self, store: JobStore, channel: Channel, hooks: Hooks, billing: Billing, hook_timeout: float) -> None:
        self._store = store
        self._channel = channel
        self._hooks = hooks
        self._billing = billing
        self._hook_timeout = hook_timeout
        self.totals = Counter[str]()
        """What this replica has done since it was started: counts for people and metrics."""

    async def settle(
        self,
        key: GenerationKey,
        epoch: int,
        verdict: Verdict,
        tail: Tail,
        *,
        patient: bool = False,
        restore: Callable[[], Awaitable[object]] | None = None,
    ) -> Sealed:
        """Save the partial answer where one ends unfinished, then seal. Raises Fenced, NotFound, Gone.

        Content that cannot be read is no reason to leave it open: then no hook is called, and nothing is saved over
        what the application may have.

        `patient`: wait for a store that is away, as the owner does; else StoreUnavailable is raised. `restore`: done
        when it is back, before the seal is tried again: it may have lost what it had accepted.
        """
        step = until_available if patient else _once
        job = await step(lambda: current(self._store, key))
        if job.settled:
            self.announce(tail, job)
            return Sealed(job, won=False)
        snapshot: Snapshot | None = Snapshot()
        if epoch > 1 or not isinstance(verdict, Completed) or self._hooks.settled:  # else nobody looks at it
            snapshot = await _content(job, tail, step)
        if epoch > 1 and snapshot is not None and await self._tell_costs(job, epoch, snapshot, tail):
            job = await step(lambda: current(self._store, key))
            snapshot = await _content(job, tail, step)
        unfinished = not isinstance(verdict, Completed)
        if unfinished and snapshot is not None and not await self.save_partial(job, snapshot):
            if isinstance(verdict, Aborted):
                verdict = Failed(SAVE_FAILED, "The answer was stopped, but could not be saved; reload.", retryable=True)
            else:
                _log.error("%s: the partial answer was not saved", key)
        kind, data = terminal(verdict, job, snapshot or Snapshot())
        payload = encode_data(data)
        if len(payload) > EVENT_BYTES and isinstance(verdict, Aborted):
            payload = encode_data(without_content(data))
        tries = 0

        async def seal() -> Sealed:
            nonlocal tries
            tries += 1
            if tries > 1 and restore is not None:
                await restore()
            return await self._store.seal(key, epoch, kind, payload)

        sealed = await step(seal)
        self.announce(tail, sealed.job)
        if sealed.won:
            self.totals[sealed.job.status] += 1
            await self._billing.end(sealed.job)
            if snapshot is not None:
                await self.call(self._hooks.settled, sealed.job, snapshot)
        return sealed

    def is_plain(self, job: Job) -> bool:
        """Whether its end as a lost one needs nothing but the seal: no hook looks at its content, no account pays."""
        return not self._hooks.save_partial and not self._hooks.settled and job.account is None

    async def seal_lost(self, job: Job, verdict: Failed, tail: Tail | None) -> None:
        """Seal a plain generation whose lease is over, without taking it over. Raises Fenced, NotFound, Gone."""
        payload = encode_data(msgspec.to_builtins(verdict))
        sealed = await until_available(
            lambda: self._store.seal(job.key, job.lease.epoch, events.FAILED, payload, expires_at=job.lease.expires_at)
        )
        if tail is not None:
            self.announce(tail, sealed.job)
        else:
            self.publish(sealed.job)
        if sealed.won:
            _log.warning("%s: its owner %s is lost", job.key, job.lease.replica)
            self.totals[sealed.job.status] += 1

    async def _tell_costs(self, job: Job, epoch: int, snapshot: Snapshot, tail: Tail) -> bool:
        """Settle the model calls that a lost owner left open, and say in its log what they came to, while there is one
        to say it in. Whether something was said."""
        told = {str(entry.get("call_id")) for entry in snapshot.usage}
        spent = await self._billing.settle_for_the_dead(job, epoch, told)
        records = [
            Record(offset, event.type, encode_data(event.data))
            for offset, event in enumerate(spent, job.last_offset + 1)
        ]
        if not records:
            return False
        await self._store.append(job.key, epoch, records)
        tail.accept(records)
        self._channel.publish(Hint(job.key, records[-1].offset, records))
        return True

    def announce(self, tail: Tail, job: Job) -> None:
        """Bring the terminal record of a sealed job to the viewers, here and on every other replica."""
        tail.hint(self.publish(job))

    def publish(self, job: Job) -> Hint:
        """Tell the other replicas that a job is sealed."""
        assert job.terminal is not None
        hint = Hint(job.key, job.last_offset, (job.terminal,), control=True)
        self._channel.publish(hint)
        return hint

    def lease_for_settling(self, lease: float) -> float:
        """Seconds for which to take a log over, so that nobody else does while the hooks save the partial answer."""
        return lease + self._hook_timeout * len(self._hooks.save_partial)

    async def save_partial(self, job: Job, snapshot: Snapshot) -> bool:
        """Call the hooks that save an unfinished answer; False when one failed."""
        return await self.call(self._hooks.save_partial, job, snapshot)

    async def call(self, hooks: Sequence[Callable[..., Awaitable[None]]], *args: object) -> bool:
        """Call hooks one after the other, each within its time; one that fails is logged and stops no other."""
        good = True
        for hook in list(hooks):
            try:
                async with asyncio.timeout(self._hook_timeout):
                    await hook(*args)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                _log.exception("a hook was cancelled by something of its own: %r", hook)
                good = False
            except Exception:  # noqa: BLE001  (logged; what the application does must not stop the seal)
                _log.exception("a hook failed: %r", hook)
                good = False
        return good


async def _content(job: Job, tail: Tail, step: _Step) -> Snapshot | None:
    """Read the content; None where it cannot be read. Raises StoreUnavailable, NotFound, Gone."""
    try:
        return await step(lambda: tail.snapshot(job.last_offset))
    except (StoreUnavailable, NotFound, Gone):
        raise
    except Exception:  # noqa: BLE001  (logged; no other replica could read it either)
        _log.exception("%s: what it has said cannot be read; it is sealed without being saved", job.key)
        return None


async def _once(call: Callable[[], Awaitable[_T]]) -> _T:
    return await call()


async def until_available(call: Callable[[], Awaitable[_T]]) -> _T:
    """Call again until the store is there."""
    # Every verb may be repeated, and the store decides when it is too late: another owner, or a seal.
    told = False
    while True:
        try:
            return await call()
        except StoreUnavailable as error:
            _log.log(logging.DEBUG if told else logging.WARNING, "the store is unavailable (%s): waiting for it", error)
            told = True
            await asyncio.sleep(_PAUSE)
