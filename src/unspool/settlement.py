"""Finalize a generation: turn its verdict into the terminal record that seals its log."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from unspool import events
from unspool.billing import Billing
from unspool.content import Snapshot
from unspool.errors import Gone, NotFound, ShuttingDown, StoreUnavailable
from unspool.events import Record, encode_data
from unspool.jobs import GenerationKey, Job
from unspool.options import Hooks
from unspool.protocols import Channel, Hint, JobStore, Sealed, current
from unspool.tail import Tail
from unspool.terminals import SAVE_FAILED, Aborted, Completed, Failed, Verdict, failed, terminal

_log = logging.getLogger("unspool")
_T = TypeVar("_T")
_PAUSES: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Seconds between two tries while the store is away, half of them to one and a half times as long: thousands wait."""
_CLEAN_UP: Final = 1.0
"""Seconds that a hook has for cleaning up after its time is over. One that takes longer is left alone."""


class _Step(Protocol):
    """A way to ask the store: once, or again until it answers."""

    async def __call__(self, call: Callable[[], Awaitable[_T]]) -> _T: ...


class Settler:
    """Seals logs and notifies their viewers."""

    def __init__(self, store: JobStore, channel: Channel, hooks: Hooks, billing: Billing, hook_timeout: float) -> None:
        self._store = store
        self._channel = channel
        self._hooks = hooks
        self._billing = billing
        self._hook_timeout = hook_timeout
        self._closed = False
        self.calls: set[asyncio.Future[None]] = set()
        """Hooks that are running, each in a task of its own."""
        self._random = random.Random(0)
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
        step = self.until_available if patient else _once
        job = await step(lambda: current(self._store, key))
        if job.settled:
            self.announce(tail, job)
            return Sealed(job, won=False)
        snapshot: Snapshot | None = Snapshot()
        if epoch > 1 or not isinstance(verdict, Completed) or self._hooks.settled:  # else nobody looks at it
            snapshot = await _content(job, tail, step)
        if epoch > 1 and snapshot is not None and await self._tell_costs(job, epoch, snapshot, tail, step):
            job = await step(lambda: current(self._store, key))
            snapshot = await _content(job, tail, step)
        unfinished = not isinstance(verdict, Completed)
        if unfinished and snapshot is not None and not await self.save_partial(job, snapshot):
            if isinstance(verdict, Aborted):
                verdict = Failed(SAVE_FAILED, "The answer was stopped, but could not be saved; reload.", retryable=True)
            else:
                _log.error("%s: the partial answer was not saved", key)
        kind, payload = _terminal(verdict, job, snapshot or Snapshot())
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
        """Check that sealing this lost job needs no hook and no ledger."""
        return not self._hooks.save_partial and not self._hooks.settled and job.account is None

    async def seal_lost(self, job: Job, verdict: Failed, tail: Tail | None) -> None:
        """Seal a plain generation whose lease is over, without taking it over. Raises Fenced, NotFound, Gone."""
        payload = failed(verdict)
        sealed = await self.until_available(
            lambda: self._store.seal(job.key, job.lease.epoch, events.FAILED, payload, expires_at=job.lease.expires_at)
        )
        if tail is not None:
            self.announce(tail, sealed.job)
        else:
            self.publish(sealed.job)
        if sealed.won:
            _log.warning("%s: its owner %s is lost", job.key, job.lease.replica)
            self.totals[sealed.job.status] += 1

    async def _tell_costs(self, job: Job, epoch: int, snapshot: Snapshot, tail: Tail, step: _Step) -> bool:
        """Settle the model calls that a lost owner left open, and append their usage to its log. True when there was
        some."""
        told = {str(entry.get("call_id")) for entry in snapshot.usage}
        spent = await self._billing.settle_for_the_dead(job, epoch, told)
        records = [
            Record(offset, event.type, encode_data(event.data))
            for offset, event in enumerate(spent, job.last_offset + 1)
        ]
        if not records:
            return False
        await step(lambda: self._store.append(job.key, epoch, records))
        tail.accept(records)
        self._channel.publish(Hint(job.key, records[-1].offset, records))
        return True

    def announce(self, tail: Tail, job: Job) -> None:
        """Bring the terminal record of a sealed job to the viewers, here and on every other replica."""
        tail.hint(self.publish(job))

    def publish(self, job: Job) -> Hint:
        """Publish the seal to the other replicas."""
        assert job.terminal is not None
        hint = Hint(job.key, job.last_offset, (job.terminal,), control=True)
        self._channel.publish(hint)
        return hint

    def lease_for_settling(self, lease: float) -> float:
        """Seconds of a lease that covers the hooks which save the partial answer."""
        return lease + (self._hook_timeout + _CLEAN_UP) * len(self._hooks.save_partial)

    async def save_partial(self, job: Job, snapshot: Snapshot) -> bool:
        """Call the hooks that save an unfinished answer; False when one failed."""
        return await self.call(self._hooks.save_partial, job, snapshot)

    async def call(self, hooks: Sequence[Callable[..., Awaitable[None]]], *args: object) -> bool:
        """Call hooks one after the other, each within its time; one that fails is logged and stops no other. Raises
        ShuttingDown after `close`."""
        good = True
        for hook in list(hooks):
            if self._closed:
                raise ShuttingDown
            try:
                await self._within_its_time(hook, args)
            except Exception:  # noqa: BLE001  (logged; what the application does must not stop the seal)
                _log.exception("a hook failed: %r", hook)
                good = False
        return good

    async def _within_its_time(self, hook: Callable[..., Awaitable[None]], args: Sequence[object]) -> None:
        """Call a hook in a task of its own: one that swallows its cancellation holds up neither the seal nor others."""
        called = asyncio.ensure_future(hook(*args))
        self.calls.add(called)
        called.add_done_callback(self.calls.discard)
        try:
            await asyncio.wait((called,), timeout=self._hook_timeout)
            if called.done() and not called.cancelled():
                called.result()
                return
            if called.done():
                raise RuntimeError("it was cancelled by something of its own")
            called.cancel()
            await asyncio.wait((called,), timeout=_CLEAN_UP)
            raise TimeoutError(f"it took longer than {self._hook_timeout} s")
        finally:
            called.cancel()

    async def close(self) -> None:
        """Cancel the hooks that are still running, and call no more."""
        self._closed = True
        for called in self.calls:
            called.cancel()
        if self.calls:
            await asyncio.wait(self.calls, timeout=_CLEAN_UP)

    async def until_available(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Call again until the store answers."""
        # Every verb may be repeated, and the store decides when it is too late: another owner, or a seal.
        tries = 0
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                level = logging.DEBUG if tries else logging.WARNING
                _log.log(level, "the store is unavailable (%s): waiting for it", error)
                await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)] * (0.5 + self._random.random()))
                tries += 1


def _terminal(verdict: Verdict, job: Job, snapshot: Snapshot) -> tuple[str, bytes]:
    """The terminal record of this verdict: nothing that an application has put into it keeps a log open."""
    try:
        return terminal(verdict, job, snapshot)
    except Exception:  # noqa: BLE001  (logged; every replica that took the log over would fail in the same way)
        _log.exception("%s: its end cannot be written as it was: %r", job.key, verdict)
        return events.FAILED, failed(Failed("run_failed", "The answer has ended, but its end cannot be written."))


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
