"""What really happened: every step that a store accepted, and the law that each of them must obey.

`Truth` learns of every step at the moment it is done, from the `Witness` around the store, and calls `fail` when a step
was one that DESIGN's invariants forbid. It believes nothing else: not what a replica, a viewer or a client says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from unspool.content import Fold, Snapshot
from unspool.events import TERMINAL, USAGE, Record
from unspool.jobs import GenerationKey, Job, Lease, Owner, Status
from unspool.protocols import Checkpoint, Created, NewJob, Page, Sealed
from unspool.testing.simulation.log_truth import EPSILON, LogTruth

_SEALS: Final = {
    "completed": Status.COMPLETE,
    "failed": Status.ERROR,
    "aborted": Status.ABORTED,
    "replaced": Status.REPLACED,
}


class Truth:
    """All logs. `now`: the simulation's clock; `clock`: the store's; `fail`: called with an invariant and a message.

    `alive`: whether the owner of a log is well and holds its lease, whatever the store's clock says.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
        fail: Callable[[str, str], None],
        note: Callable[..., None],
        alive: Callable[[LogTruth], bool],
        max_jobs: int,
        lease: float,
        retention: float,
    ) -> None:
        self.logs: dict[GenerationKey, LogTruth] = {}
        self.active: dict[GenerationKey, LogTruth] = {}
        self.kept: dict[GenerationKey, LogTruth] = {}  # settled and not deleted, in the order in which they ended
        self.used: dict[str, int] = {}
        self.owners: dict[str, Owner] = {}
        self.requests: dict[tuple[str, str], int] = {}
        self._tokens: dict[str, GenerationKey] = {}
        self.appends = self.records = self.seals = self.refused = self.take_overs = 0
        self._now = now
        self._clock = clock
        self._fail = fail
        self._note = note
        self._alive = alive
        self._max_jobs = max_jobs
        self._lease = lease
        self._retention = retention

    def log(self, key: GenerationKey) -> LogTruth | None:
        found = self.logs.get(key)
        if found is None:
            self._fail("append", f"{key} was never created, and the store answers for it")
        return found

    def last(self, name: str) -> LogTruth:
        """The last generation of the stream of this name. Raises KeyError where there never was one."""
        return self.logs[GenerationKey(name, self.used.get(name, 0))]

    # creating

    def created(self, new: NewJob, created: Created) -> None:
        job, name, now = created.job, new.name, self._now()
        if (job.stream_id, job.tenant, job.key.stream_id) != (new.stream_id, new.owner.tenant, name):
            self._fail("ownership", f"{job.key} was made for {new.stream_id} of {new.owner}")
        known = self.requests.get((name, new.request_id)) if new.request_id is not None else None
        if created.attached:
            if known != job.generation:
                self._fail("idempotent create", f"{new.request_id} attached to {job.key}, not to generation {known}")
            return
        if (made := self._tokens.get(new.token)) is not None:  # repeated, since its answer was lost
            if made != job.key:
                self._fail("idempotent create", f"one creation made {made}, and {job.key}")
            return
        self._tokens[new.token] = job.key
        if known is not None and self.logs[GenerationKey(name, known)].holds_request:
            self._fail("idempotent create", f"{new.request_id} made {job.key}, and generation {known} before it")
        used = self.used.get(name, 0)
        if job.generation <= used:
            self._fail("numbers", f"{job.key} was made, and number {used} had been given before")
        if self.owners.setdefault(name, new.owner) != new.owner:
            self._fail("ownership", f"{job.key} was made for {new.owner} on a stream of {self.owners[name]}")
        running = self.active.get(GenerationKey(name, used))
        if running is not None:
            if created.replaced is None or created.replaced.key != running.key:
                self._fail("one seal", f"{job.key} was made, and {running.key} was not replaced by it")
            else:
                self._seal(running, created.replaced)
        self.used[name] = job.generation
        log = self.logs[job.key] = self.active[job.key] = LogTruth(job, now)
        if new.request_id is not None:
            self.requests[name, new.request_id] = job.generation
        self._note("created %s for %s, lease of %s", log.key, new.owner.user, log.holder)
        while len(self.active) + len(self.kept) > self._max_jobs and self.kept:
            self._forget(next(iter(self.kept.values())))
        if len(self.active) > self._max_jobs:
            self._fail("bounds", f"{len(self.active)} generations run, and there are {self._max_jobs} places")

    def full(self, new: NewJob) -> None:
        """A creation was refused for want of a place."""
        if len(self.active) < self._max_jobs:
            self._fail("bounds", f"no place on {new.name}: {len(self.active)} of {self._max_jobs} are taken")

    # writing

    def appended(self, key: GenerationKey, epoch: int, records: Sequence[Record], status: Status | None) -> None:
        log = self.log(key)
        if log is None or not self._current(log, epoch, "an append"):
            return
        if records and records[0].offset != log.last + 1:
            if log.records[records[0].offset - 1 :] != list(records):
                self._fail("append", f"{key} is at {log.last}, and took records from {records[0].offset} on")
            return  # a retry, without effect
        if status is not None:
            log.status = status
        log.accepted_at = self._now()
        self._renew(log)
        if records:
            self._extend(log, records)

    def _extend(self, log: LogTruth, records: Sequence[Record]) -> None:
        for offset, record in enumerate(records, log.last + 1):
            if record.offset != offset:
                self._fail("append", f"{log.key} took offset {record.offset} where {offset} is next")
            if record.type in TERMINAL:
                self._fail("one seal", f"{log.key} took {record.type} as an ordinary record")
            elif record.type == USAGE:
                call_id = record.data["call_id"]
                if call_id in log.calls:
                    self._fail("money", f"{log.key} has the usage of {call_id} twice")
                log.calls.add(call_id)
        log.records.extend(records)
        self.appends += 1
        self.records += len(records)

    def _current(self, log: LogTruth, epoch: int, what: str) -> bool:
        if not log.active:
            self._fail("one seal" if what == "a seal" else "fence", f"{log.key} is sealed, and took {what}")
            return False
        if epoch != log.epoch:
            self._fail("fence", f"{log.key} is at epoch {log.epoch}, and took {what} of epoch {epoch}")
            return False
        return True

    def wrote(self, key: GenerationKey, epoch: int, what: str) -> None:
        """Some other fenced step was accepted."""
        log = self.log(key)
        if log is not None:
            self._current(log, epoch, what)

    def was_refused(self, key: GenerationKey, epoch: int, records: Sequence[Record] = ()) -> None:
        """A fenced step was refused: there must have been a reason."""
        self.refused += 1
        log = self.log(key)
        if log is None or not log.active or log.epoch != epoch:
            return
        if not records or records[0].offset == log.last + 1:
            self._fail("fence", f"{key} is open at epoch {epoch}, and refused its owner")

    def renewed(self, key: GenerationKey, epoch: int, replica: str, held: bool) -> None:
        log = self.log(key)
        if log is None:
            return
        expected = log.active and log.epoch == epoch and log.holder == replica
        if held is not expected:
            self._fail("fence", f"{key} at epoch {log.epoch} of {log.holder}: {replica} at {epoch} was told {held}")
        if held:
            self._renew(log, self._lease)

    def _renew(self, log: LogTruth, seconds: float | None = None) -> None:
        log.lease = seconds or log.lease
        log.expires_at = self._clock() + log.lease
        log.renewed_at = self._now()

    def taken_over(self, key: GenerationKey, before: int, lease: Lease, seen: float | None) -> None:
        log = self.log(key)
        if log is None:
            return
        epoch, replica = lease.epoch, lease.replica
        if (log.epoch, log.holder) == (before + 1, replica) and epoch == log.epoch:
            self._note("said again that %s was taken over, epoch %d", key, epoch)
            return
        self.take_overs += 1
        if not log.active or log.epoch != before or epoch != before + 1:
            self._fail("fence", f"{key} went from epoch {before} to {epoch}; it was at {log.epoch}, {log.status}")
        if seen is not None:
            self.lost(key, seen)
        self._renew(log, lease.expires_at - self._clock())
        log.epoch, log.holder, log.changed_at = epoch, replica, self._now()
        self._note("took over %s, epoch %d", key, epoch)

    def lost(self, key: GenerationKey, seen: float) -> None:
        """A replica other than its owner takes or seals it, since its lease was over when it was seen."""
        log = self.logs[key]
        if abs(log.expires_at - seen) > EPSILON:
            self._fail("lease", f"{key} is taken for lost, and {log.holder} has renewed its lease")
        if self._alive(log):
            self._fail("only the dead are lost", f"{key} is taken from {log.holder}, which is well")

    # sealing

    def sealed(self, key: GenerationKey, epoch: int, type: str, payload: bytes, sealed: Sealed) -> None:
        log = self.log(key)
        if log is None:
            return
        before = log.terminal
        if before is None:
            if not sealed.won:
                self._fail("one seal", f"{key} was open, and the seal was told that it had lost")
            elif self._current(log, epoch, "a seal"):
                self._seal(log, sealed.job)
                if log.terminal is not None and (log.terminal.type, log.terminal.payload) != (type, payload):
                    self._fail("one seal", f"{key} was sealed with something else than the winner's payload")
            return
        if sealed.job.terminal != before:
            self._fail("one seal", f"{key} was sealed as {before.type}, and now as {sealed.job.terminal}")
        if sealed.won and (before.type, before.payload) != (type, payload):
            self._fail("one seal", f"{key} has two winners: {before.type}, and {type} of epoch {epoch}")

    def _seal(self, log: LogTruth, job: Job) -> None:
        terminal = job.terminal
        if terminal is None or terminal.offset != log.last + 1 or job.status is not _SEALS.get(terminal.type):
            self._fail("one seal", f"{log.key} at {log.last} was sealed by {terminal} as {job.status}")
            return
        log.records.append(terminal)
        log.status = job.status
        log.settled = self._clock()
        del self.active[log.key]
        self.kept[log.key] = log
        self.seals += 1
        self._note("sealed %s at %d: %s", log.key, log.last, terminal.type)

    def expired(self, job: Job) -> None:
        """The store says that this lease has run out."""
        log = self.log(job.key)
        if log is not None and (not log.active or not log.is_over(self._clock())):
            self._fail("lease", f"{log!r} counts as expired, {log.expires_at - self._clock():.3f} s before its time")

    # reading

    def answered(self, job: Job) -> None:
        """The store has answered with this job."""
        log = self.log(job.key)
        if log is None:
            return
        if job.last_offset != log.last or job.status is not log.status or job.terminal != log.terminal:
            self._fail("append", f"the store says {job!r}, and it is {log!r}")
        if job.lease.epoch != log.epoch:
            self._fail("fence", f"the store says epoch {job.lease.epoch}, and it is {log!r}")

    def told(self, job: Job, owner: Owner | None) -> None:
        """The store has answered this owner."""
        whose = self.owners.get(job.key.stream_id)
        if owner is not None and whose != owner:
            self._fail("ownership", f"{owner} was told of {job.key}, which is {whose}'s")

    def read(self, key: GenerationKey, after: int, limit: int, page: Page) -> None:
        log = self.log(key)
        if log is None:
            return
        start = max(after, log.first - 1)
        if list(page.records) != log.records[start : start + limit] or page.last_offset != log.last:
            self._fail("append", f"{key} after {after} was read as {page}, and it is {log!r} from {log.first} on")
        if page.first_offset != log.first or page.sealed is log.active:
            self._fail("append", f"{key} was read as {page}, and it is {log!r} from {log.first} on")

    def missing(self, key: GenerationKey) -> None:
        """The store no longer has this log."""
        log = self.logs.get(key)
        if log is not None and not log.deleted:
            self._expire(log)

    def _expire(self, log: LogTruth) -> None:
        if log.active:
            self._fail("retention", f"{log.key} is running, and is gone")
            return
        age = self._clock() - (log.settled or 0.0)
        if age + EPSILON < self._retention:
            self._fail("retention", f"{log.key} is gone {age:.3f} s after its seal; kept are {self._retention} s")
        self._forget(log)

    def _forget(self, log: LogTruth) -> None:
        log.deleted = True
        self.kept.pop(log.key, None)

    def deleted(self, key: GenerationKey) -> None:
        """Somebody asked for it."""
        log = self.log(key)
        if log is None or log.deleted:
            return
        if log.active:
            self._fail("retention", f"{key} is running, and was deleted")
        self._forget(log)

    # content

    def checkpointed(self, key: GenerationKey, epoch: int, checkpoint: Checkpoint) -> None:
        self.wrote(key, epoch, "a checkpoint")
        log = self.logs.get(key)
        if log is not None:
            found = Fold.load(checkpoint.state)
            self.snapshot(log, found.snapshot(), "the checkpoint", exact=checkpoint.offset)

    def trimmed(self, key: GenerationKey, epoch: int, up_to: int) -> None:
        self.wrote(key, epoch, "a trim")
        log = self.logs.get(key)
        if log is not None:
            log.first = max(log.first, up_to + 1)
            self._note("trimmed %s up to %d", key, up_to)

    def snapshot(self, log: LogTruth, found: Snapshot, what: str, *, exact: int | None = None) -> None:
        """A snapshot must be the fold of the records up to the offset that it names."""
        if found.offset > log.last or (exact is not None and found.offset != exact):
            self._fail("snapshot", f"{what} of {log.key} says {found.offset}; the log is at {log.last}")
        elif found != log.content(found.offset):
            self._fail("snapshot", f"{what} of {log.key} is not the fold of 1..{found.offset}: {found}")

    def sync(self, log: LogTruth, record: Record) -> None:
        """A `sync` record must carry the public content up to its offset."""
        if log.checked_sync is record:
            return  # viewers at the same place share one
        state: dict[str, Any] = record.data
        if record.offset > log.last or state["offset"] != record.offset:
            self._fail("snapshot", f"a sync of {log.key} says {record.offset}; the log is at {log.last}")
            return
        expected: dict[str, Any] = msgspec.to_builtins(log.content(record.offset).public())
        expected["content"] = expected.pop("parts")
        for name, value in expected.items():
            if name != "title" and state[name] != value:
                self._fail("snapshot", f"{name} in the sync of {log.key} at {record.offset}: {state[name]} not {value}")
        log.checked_sync = record
