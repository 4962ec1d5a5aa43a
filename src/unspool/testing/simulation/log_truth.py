"""One log as it really is: the records that the store has accepted, and how they ended."""

from __future__ import annotations

from typing import Final

from unspool.content import Fold, Snapshot
from unspool.events import TERMINAL, Record
from unspool.jobs import ACTIVE, Job, is_over

EPSILON: Final = 1e-6  # seconds by which two computations of one time may differ


class LogTruth:
    """One log as it is: all its records from the first, whoever trimmed them; who may write it; how it ended."""

    __slots__ = (
        "accepted_at", "attended_at", "calls", "changed_at", "checked_sync", "deleted", "epoch", "expires_at",
        "first", "fold", "holder", "job", "key", "lease", "records", "renewed_at", "settled", "status",
    )  # fmt: skip

    def __init__(self, job: Job, now: float) -> None:
        self.key = job.key
        self.job = job
        self.records: list[Record] = []
        self.first = 1
        self.epoch = 1
        self.lease = job.lease.expires_at - job.created_at  # seconds, as it was last granted
        self.holder = job.lease.replica
        self.status = job.status
        self.calls: set[str] = set()
        self.expires_at = job.lease.expires_at  # by the store's clock, as is `settled`
        self.settled: float | None = None
        self.deleted = False
        # by the simulation's clock
        self.accepted_at = self.renewed_at = self.changed_at = self.attended_at = now
        self.fold = Fold()
        self.checked_sync: Record | None = None

    def __repr__(self) -> str:
        return f"<{self.key} {self.status} last={self.last} epoch={self.epoch} of {self.holder}>"

    @property
    def last(self) -> int:
        return len(self.records)

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def terminal(self) -> Record | None:
        return self.records[-1] if self.records and self.records[-1].type in TERMINAL else None

    @property
    def holds_request(self) -> bool:
        """Whether a start under its request id attaches to it."""
        terminal = self.terminal
        return not self.deleted and (terminal is None or self.last > 1 or not terminal.data.get("retryable"))

    def is_over(self, clock: float) -> bool:
        """Whether its lease has run out by the store's clock."""
        left = self.expires_at - clock
        return is_over(left - EPSILON, self.lease) or is_over(left + EPSILON, self.lease)

    def next_public(self, position: int) -> Record | None:
        """What a viewer at this position must get next, None when there is nothing yet."""
        records = self.records
        while position < len(records):
            if not records[position].internal:
                return records[position]
            position += 1
        return None

    def content(self, upto: int) -> Snapshot:
        """The fold of records 1..upto, the terminal one excepted."""
        if self.fold.offset > upto:
            self.fold = Fold()
        for record in self.records[self.fold.offset : upto]:
            if record.type not in TERMINAL:
                self.fold.apply(record)
        return self.fold.snapshot()
