"""The two contracts that a back end fulfils: `JobStore`, the truth, and `EventTransport`, the hints.

Every verb of a store is one atomic step. A store never trusts a caller's clock: times come from its own. Every verb
may raise StoreUnavailable; whoever calls may then call again with the same arguments, and the step happens once.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from unspool.errors import Gone
from unspool.events import Record
from unspool.jobs import AbortRequest, GenerationKey, Job, Lease, Limits, Metadata, Owner, Status, Task, stream_name


def _token() -> str:
    return secrets.token_hex(8)


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation is made from. `stream_id`: as clients know it, among the streams of the owner's tenant.

    `expect_generation`: the number that must be the stream's last; 0: none yet. `token`: what tells this creation from
    any other, so that a repeated `create` is known as the same. `floor`: numbers of the stream up to this one were used
    before, as others remember it where the store may not.
    """

    stream_id: str
    owner: Owner
    replica: str
    lease: float
    request_id: str | None = None
    expect_generation: int | None = None
    metadata: Metadata = Metadata()
    limits: Limits = Limits()
    task: Task | None = None
    account: str | None = None
    floor: int = 0
    token: str = msgspec.field(default_factory=_token)

    @property
    def name(self) -> str:
        """The stream's internal name, under which a store keeps it."""
        return stream_name(self.stream_id, self.owner.tenant)


class Created(msgspec.Struct, frozen=True):
    """`attached`: the job existed under the same request id. `replaced`: the job that it replaced, already sealed."""

    job: Job
    attached: bool = False
    replaced: Job | None = None


class Page(msgspec.Struct, frozen=True):
    """Records after a position. `first_offset`: the log's oldest kept one; `sealed`: `last_offset` is the terminal."""

    records: Sequence[Record]
    first_offset: int
    last_offset: int
    sealed: bool


class Checkpoint(msgspec.Struct, frozen=True):
    """A dumped fold of records 1..`offset`."""

    offset: int
    state: bytes


class Renewal(msgspec.Struct, frozen=True):
    """What a renewal found. `held`: the lease is still the caller's and the log is not sealed."""

    held: bool
    abort: AbortRequest | None = None


class Sealed(msgspec.Struct, frozen=True):
    """The outcome of the race for the seal. `won`: the caller's terminal is the log's last record."""

    job: Job
    won: bool


class Expired(msgspec.Struct, frozen=True):
    """Jobs whose lease has run out by the store's clock. `clocks`: by node of the store, Unix seconds."""

    jobs: Sequence[Job]
    clocks: Mapping[str, float]


class Counts(msgspec.Struct, frozen=True):
    """How many jobs the store holds, in all and by status."""

    total: int
    by_status: dict[Status, int]


async def current(store: JobStore, key: GenerationKey) -> Job:
    """The job of this very generation. Raises NotFound, and Gone also where its number is another one's by now."""
    job = await store.get(*key)
    if key.is_other(job.token):
        raise lost(key)
    return job


def lost(key: GenerationKey) -> Gone:
    """For a generation whose number the store has given to another one, since it had lost it."""
    return Gone(
        f"the store has lost generation {key.generation}, and another one has its number", generation=key.generation
    )


class JobStore(Protocol):
    """Jobs and their logs: the truth. `kind` names the back end (`memory`, `redis` …).

    `passed_over`: how many jobs could not be handled here, as when a newer version wrote them; each is logged once.
    """

    kind: str

    @property
    def passed_over(self) -> int: ...

    async def open(self) -> None:
        """Connect. Raises StoreUnavailable: a configured store that is not there is an error, never a fall-back."""
        ...

    async def close(self) -> None:
        """Disconnect; what is kept stays."""
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the store answers."""
        ...

    async def create(self, new: NewJob) -> Created:
        """Make the next generation of a stream, sealing a running one as `replaced` in the same step.

        In this order: a stream of another owner raises NotFound; a repeated call is answered as the first one was; a
        `request_id` that a kept generation holds (`Job.holds_request`) attaches; an unmet `expect_generation` raises
        GenerationConflict; a full store raises CapacityExceeded. Then nothing has changed.
        """
        ...

    async def get(self, name: str, generation: int | None = None, *, owner: Owner | None = None) -> Job:
        """One job, the last of the stream of this internal name by default; with `owner`, only when it is theirs.

        Raises Gone for one whose retention is over, NotFound for what never was or is another's.
        """
        ...

    async def append(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        """Append records whose offsets follow on the log's last; renews the lease, and changes metadata and status.
        A patch of `extra` may come a step before the records.

        A batch that is already the log's end was a retry, and is accepted again without effect. Raises Fenced when
        the epoch is not the current one, the log is sealed, or the offsets do not follow on.
        """
        ...

    async def read(self, key: GenerationKey, after: int, limit: int) -> Page:
        """Up to `limit` records with offsets above `after`. Raises NotFound or Gone.

        A store that can lose what it has accepted compares the key's log in this and in every verb that changes a job:
        Gone, or Fenced, where the number is another generation's by now; False from `delete`.
        """
        ...

    async def seal(
        self, key: GenerationKey, epoch: int, type: str, payload: bytes, *, expires_at: float | None = None
    ) -> Sealed:
        """Compare-and-set: append the terminal record and settle the status in one step; the first caller wins.

        A caller that lost is told what was sealed. `expires_at`, of callers that are not its owner: when the lease ends
        as they saw it. Raises Fenced when the log is open and the epoch is not current, or the lease was renewed since.
        """
        ...

    async def update(self, key: GenerationKey, epoch: int, metadata: Mapping[str, Any]) -> Job:
        """Set these metadata fields; None clears one, the others stay. Raises Fenced.

        `extra` is a JSON merge patch (`jobs.patched`), so that callers who set keys of their own lose none of others'.
        """
        ...

    async def request_abort(self, key: GenerationKey, by: str, reason: str | None) -> Job:
        """Write the request into a job that is active and has none; answers the job as it then is."""
        ...

    async def mark_synced(self, key: GenerationKey, synced: bool) -> None:
        """Remember whether a viewer was given the snapshot."""
        ...

    async def renew(
        self, replica: str, leases: Sequence[tuple[GenerationKey, int]], seconds: float
    ) -> Sequence[Renewal]:
        """Renew many leases in one call; answers one Renewal for each, in order."""
        ...

    async def take_over(
        self, key: GenerationKey, epoch: int, replica: str, seconds: float, *, expires_at: float | None = None
    ) -> Lease | None:
        """Raise the epoch from `epoch` and become the owner; None when someone else was faster or the log is sealed.

        Repeated with the same arguments, as when its answer was lost, it answers the lease that the first call granted.
        `expires_at`: when the lease ended as the caller saw it; None also when it was renewed since.
        """
        ...

    async def expired(self, limit: int, *, beyond: float | None = None) -> Expired:
        """Up to `limit` active jobs whose lease is over (`jobs.is_over`), and what the store's clocks say.

        `beyond`: look also at leases that end more than so many seconds from now, which may have been granted before
        the clock was put back. Raises StoreUnavailable also where no job could be taken over now.
        """
        ...

    async def active(self, owner: Owner) -> Sequence[Job]:
        """The owner's active jobs, oldest first; index entries found to be dead are pruned."""
        ...

    async def jobs(self, owner: Owner | None, status: Status | None, limit: int) -> Sequence[Job]:
        """Jobs, newest first: of one owner or (None) of all, in one status or (None) in any."""
        ...

    async def counts(self) -> Counts:
        """All jobs that are kept, whoever owns them."""
        ...

    async def save_checkpoint(self, key: GenerationKey, epoch: int, checkpoint: Checkpoint) -> None:
        """Keep a dumped fold, so that joining costs the content and not the history. Raises Fenced."""
        ...

    async def checkpoint(self, key: GenerationKey) -> Checkpoint | None:
        """The last one that was saved, where there is one."""
        ...

    async def trim(self, key: GenerationKey, epoch: int, up_to: int) -> None:
        """Forget records up to this offset, which a saved checkpoint must cover. Raises Fenced."""
        ...

    async def delete(self, key: GenerationKey) -> bool:
        """Delete a settled job and its log; its number stays used. False when it is active or not there."""
        ...

    async def delete_expired(self, retention: float, completed_retention: float) -> Sequence[GenerationKey]:
        """Delete what was settled longer ago than this many seconds (completed ones have their own figure)."""
        ...


@runtime_checkable
class AtOnce(Protocol):
    """A JobStore that an append need not wait for, as one in the memory of the process: nobody does then."""

    def append_at_once(
        self, key: GenerationKey, epoch: int, records: Sequence[Record], *, metadata: Mapping[str, Any] | None = None,
        status: Status | None = None,
    ) -> None:  # fmt: skip
        """As `JobStore.append`."""
        ...


class Hint(msgspec.Struct, frozen=True):
    """A notification: the log reached `last_offset`; `control`: look at the job record (stop asked for, sealed, owner).

    `records`, where given, are the log's last ones; a tail takes them only when they follow on what it has.
    """

    key: GenerationKey
    last_offset: int = 0
    records: Sequence[Record] = ()
    control: bool = False


class Channel(Protocol):
    """One replica's end of a transport."""

    def watch(self, key: GenerationKey, *, local: bool = False) -> None:
        """Ask for the hints about this generation. `local`: its owner is here, and wants to hear of control only."""
        ...

    def unwatch(self, key: GenerationKey) -> None:
        """Take that back. Harmless for what is not watched."""
        ...

    def publish(self, hint: Hint) -> None:
        """Send a hint to every replica that watches, this one excepted. Never waits, never raises, may be lost.

        Where the store itself hints, in the step in which something happens, this has nothing to do.
        """
        ...

    async def close(self) -> None:
        """Hear no more; nothing is delivered afterwards."""
        ...


class EventTransport(Protocol):
    """Carries hints. Losing, delaying, doubling or reordering every one of them changes latency only."""

    async def connect(self, replica: str, deliver: Callable[[Hint], None]) -> Channel:
        """Open the channel of the replica of this name; its hints go to `deliver`. Raises StoreUnavailable."""
        ...
