"""The façade: everything that an application does with generations, in one place.

How a token travels: a run calls `Generation.text` (producer.py); the `LogWriter` gathers it with its neighbours and
appends them to the `JobStore` (writer.py); what the store accepted goes to the generation's `Tail` on this replica and
as a `Hint` to the others (tail.py); each `Viewer` takes from its tail what comes after its position (viewer.py); and an
HTTP response writes that to its socket, as frames of one dialect (http/). Control goes the other way: `abort` writes
into the job's record, and the owner's `Run` (runs.py) stops and seals.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from unspool import backends, starting, stopping
from unspool.billing import Billing
from unspool.content import Snapshot
from unspool.errors import (
    ConfigurationError,
    Gone,
    InvalidPosition,
    NotFound,
    ShuttingDown,
)
from unspool.events import Record
from unspool.jobs import Job, Limits, Metadata, Owner, Status, User, check_tenant, owner_of, stream_name
from unspool.options import Hooks, Options
from unspool.outcomes import AbortOutcome, Unknown
from unspool.producer import Generation
from unspool.protocols import Counts, EventTransport, Hint, JobStore
from unspool.replica import Replica
from unspool.resume import ResumeState, resume_state
from unspool.subscription import Subscription
from unspool.supervisor import Supervisor
from unspool.tasks import NamedRun, OwnerLost, RunFunction, Tasks
from unspool.terminals import Aborted
from unspool.viewer import Viewer

if TYPE_CHECKING:
    from unspool.ledger import Ledger


class GenerationManager:
    """Starts generations, follows them, stops them. Safe for many tasks of one event loop.

    An async context manager; or call `start_up` and `stop`. `store` and `transport`: a back end that was made already,
    where `from_url` does not do. `ledger`: what accounts are charged through; it is opened and closed with this.
    `replica`: the name of this process, its own among those that share a store.

    `user` and `tenant` say on whose behalf a call is made: a generation of another user raises NotFound, exactly as one
    that does not exist. A stream id names a stream of the tenant (None: of no tenant); another tenant's stream of the
    same id is another stream. Trusted code may pass ANYONE as the user, and still says which tenant. Every verb raises
    InvalidArgument for a tenant that is not valid and, where the store is not in this process, StoreUnavailable.
    """

    def __init__(
        self,
        store: JobStore | None = None,
        transport: EventTransport | None = None,
        *,
        options: Options | None = None,
        hooks: Hooks | None = None,
        ledger: Ledger | None = None,
        replica: str | None = None,
    ) -> None:
        if (store is None) != (transport is None):
            raise ConfigurationError("store and transport belong together: give both, or neither for memory mode")
        self.options = options or Options()
        self.hooks = hooks or Hooks()
        if store is None or transport is None:
            store, transport = backends.connect("memory://", self.options)
        self.store = store
        self.billing = Billing(ledger, store, self.options.lease)
        self._transport = transport
        self._name = replica or f"replica-{secrets.token_hex(4)}"
        self._tasks = Tasks()
        self._replica: Replica | None = None
        self._supervisor: Supervisor | None = None
        self._starting = asyncio.Lock()
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = False  # it was started once, and is stopped

    @classmethod
    def from_url(
        cls, url: str | object = "memory://", *, options: Options | None = None, hooks: Hooks | None = None,
        ledger: Ledger | None = None,
    ) -> GenerationManager:  # fmt: skip
        """A manager over the back end that `url` names, or over a client that exists already: a `redis.asyncio.Redis`
        or `RedisCluster`, which stays open when the manager stops. Raises ConfigurationError."""
        store, transport = backends.connect(url, options or Options())
        return cls(store, transport, options=options, hooks=hooks, ledger=ledger)

    def __repr__(self) -> str:
        state = "not started" if self._replica is None else f"runs={len(self._replica.runs)}"
        return f"<GenerationManager {self.store.kind} {state}>"

    # life

    async def start_up(self) -> None:
        """Connect and begin the periodic work. Starting twice is harmless, and so is starting again after `stop`.
        Raises StoreUnavailable."""
        async with self._starting:
            if self._stopping is not None:
                await asyncio.shield(self._stopping)
            if self._replica is not None:
                return
            async with AsyncExitStack() as opened:
                opened.push_async_callback(self.store.close)
                await self.store.open()
                await self.store.ping()
                channel = await self._transport.connect(self._name, self._on_hint)
                opened.push_async_callback(channel.close)
                opened.push_async_callback(self.billing.close)
                await self.billing.open()
                opened.pop_all()
            self._replica = Replica(
                self._name, self.store, channel, self.options, self.hooks, self._tasks, self.billing
            )
            self._supervisor = Supervisor(self._replica)
            self._supervisor.start()

    async def stop(self, drain: float | None = None) -> None:
        """Let runs finish for `drain` seconds, interrupt the others, release the viewers. Twice is harmless."""
        if self._replica is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self.options.drain if drain is None else drain))
        await asyncio.shield(self._stopping)

    async def _stop(self, drain: float) -> None:
        replica, supervisor = self._replica, self._supervisor
        assert replica is not None
        assert supervisor is not None
        try:
            async with AsyncExitStack() as ended:  # the last one is called first
                ended.push_async_callback(self.store.close)
                ended.push_async_callback(self.billing.close)
                ended.push_async_callback(replica.channel.close)
                ended.push_async_callback(replica.settler.close)
                ended.push_async_callback(supervisor.stop)
                await replica.close(drain)
        finally:
            self._replica = self._supervisor = self._stopping = None
            self._stopped = True

    async def __aenter__(self) -> GenerationManager:
        await self.start_up()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def closing(self) -> bool:
        """It is stopping or not started: nothing new is taken."""
        return self._replica is None or self._replica.closing

    @property
    def replica(self) -> Replica:
        if self._replica is None:
            if self._stopped:
                raise ShuttingDown
            raise ConfigurationError(
                "the manager is not started: use `async with manager:` or `await manager.start_up()`"
            )
        return self._replica

    def _on_hint(self, hint: Hint) -> None:
        if self._replica is not None:
            self._replica.on_hint(hint)

    # creating

    def register(self, name: str, run: NamedRun) -> None:
        """Name a run, for `start` here and for going on with it elsewhere; it is called with the generation and the
        JSON arguments of `start`. Raises InvalidArgument."""
        self._tasks.register(name, run)

    async def start(
        self,
        stream_id: str,
        run: RunFunction | str,
        *,
        args: Mapping[str, Any] | None = None,
        on_owner_lost: OwnerLost = "fail",
        user: str | None = None,
        tenant: str | None = None,
        request_id: str | None = None,
        expect_generation: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        account: str | None = None,
    ) -> Job:
        """Start a generation that runs detached from the caller; answers at once.

        A running generation of the stream is replaced. The same `request_id` attaches to the same generation, whatever
        the race, and the job's `attached` says so. `expect_generation`: the number that the stream's last generation
        must have (0: none yet), else GenerationConflict. Raises NotFound for a stream of another owner,
        CapacityExceeded, TooManyGenerations, ShuttingDown, InvalidArgument. `account`: who pays, in the ledger; raises
        InsufficientBalance where it does not cover what this may cost.

        `run` may be the name of a registered one, with `args`. Then `on_owner_lost="resume"` lets a survivor go on with
        it when this process dies: in the same log, with the content so far in `Generation.snapshot`, and with
        `Generation.attempt` above 1.
        """
        begun = self._tasks.describe(run, args, on_owner_lost)
        job, owned = await starting.create(
            self.replica,
            stream_id,
            Owner(user, tenant),
            request_id,
            expect_generation,
            metadata,
            limits,
            account,
            begun,
        )
        if owned is not None:
            owned.begin(begun)
        return job

    @asynccontextmanager
    async def open(
        self,
        stream_id: str,
        *,
        user: str | None = None, tenant: str | None = None, expect_generation: int | None = None,
        metadata: Mapping[str, Any] | None = None, limits: Limits | None = None, account: str | None = None,
    ) -> AsyncGenerator[Generation, None]:  # fmt: skip
        """Run a generation in the caller's own task: a worker, a queue consumer.

        Leaving the block normally completes it, an exception makes it `error`, cancellation `aborted`. When it is
        stopped, the block is cancelled and left; the code after it goes on, and the job's status tells.
        """
        _, run = await starting.create(
            self.replica, stream_id, Owner(user, tenant), None, expect_generation, metadata, limits, account, None
        )
        assert run is not None
        run.adopt()
        error: BaseException | None = None
        try:
            yield run.generation
        except BaseException as raised:  # noqa: BLE001  (`leave` raises it again, unless it is our own cancellation)
            error = raised
        await run.leave(error)

    # following

    async def follow(
        self, stream_id: str, *, user: User = None, tenant: str | None = None, after: int = 0,
        generation: int | None = None, snapshot: bool = False,
    ) -> AsyncGenerator[Record, None]:  # fmt: skip
        """Records after a position, in order, each once; ends after the terminal record.

        `generation`: an older one instead of the stream's last. `snapshot`: begin with one `sync` record, the content
        so far, then what follows it. Such a record also takes the place of records that are no longer kept, with the
        reason `trimmed`, or lost (`rewound`). Raises NotFound, Gone, InvalidPosition, ShuttingDown, ViewerReleased.
        """
        viewer = await self.view(
            stream_id, user=user, tenant=tenant, after=after, generation=generation, snapshot=snapshot
        )
        async with viewer, aclosing(viewer.__aiter__()) as records:
            async for record in records:
                yield record

    async def view(
        self, stream_id: str, *, user: User = None, tenant: str | None = None, after: int = 0,
        generation: int | None = None, snapshot: bool = False,
    ) -> Viewer:  # fmt: skip
        """As `follow`, as an object: a Viewer, attached at once. Close it, or enter it. Raises as `follow` does."""
        replica = self.replica
        job = await self.job(stream_id, user=user, tenant=tenant, generation=generation)
        if after < 0 or after > job.last_offset:
            raise InvalidPosition(
                f"generation {job.generation} has offsets {job.first_offset} to {job.last_offset}; {after} is not one",
                generation=job.generation, first_offset=job.first_offset, last_offset=job.last_offset,
            )  # fmt: skip
        tail = await replica.tail(job.key, job)
        return replica.attach(tail, job, after, snapshot=snapshot)

    async def subscribe(
        self,
        stream_id: str,
        *,
        on_record: Callable[[Record], object],
        on_done: Callable[[Record], object] | None = None,
        on_error: Callable[[Record], object] | None = None,
        user: User = None,
        tenant: str | None = None,
        after: int = 0,
        generation: int | None = None,
        snapshot: bool = False,
    ) -> Subscription:
        """As `follow`, with callbacks: `on_record`; at the end `on_error` for `failed`, `on_done` for anything else.

        A callback that raises is logged, and the next record comes all the same. `Subscription.cancel` is idempotent,
        and nothing is delivered after it. Raises NotFound, Gone, InvalidPosition, ShuttingDown.
        """
        viewer = await self.view(
            stream_id, user=user, tenant=tenant, after=after, generation=generation, snapshot=snapshot
        )
        return Subscription(viewer, on_record, on_done, on_error)

    # stopping

    async def abort(
        self,
        stream_id: str,
        *,
        generation: int | None = None,
        user: User = None,
        tenant: str | None = None,
        by: str = "user",
        reason: str | None = None,
    ) -> AbortOutcome:
        """Stop a generation, from any replica, and answer once it is sealed; with Unknown where there is none.

        The owner gets `abort_grace` seconds; when it is dead or deaf this replica raises the epoch and seals itself.
        """
        try:
            job = await self.job(stream_id, user=user, tenant=tenant, generation=generation)
            return await stopping.abort(self.replica, job, Aborted(by, reason))
        except (NotFound, Gone):  # also when its retention ended while this waited
            return Unknown()

    # asking

    async def job(
        self, stream_id: str, *, user: User = None, tenant: str | None = None, generation: int | None = None
    ) -> Job:
        """The job of a stream's last generation, or of an older one. Raises NotFound, Gone."""
        return await self.store.get(stream_name(stream_id, tenant), generation, owner=owner_of(user, tenant))

    async def snapshot(
        self, stream_id: str, *, user: User = None, tenant: str | None = None, generation: int | None = None
    ) -> Snapshot:
        """The content so far, labelled with the offset that it covers. Raises NotFound, Gone."""
        job = await self.job(stream_id, user=user, tenant=tenant, generation=generation)
        return await (await self.replica.tail(job.key, job)).snapshot(job.last_offset)

    async def resume_state(
        self, stream_id: str, *, user: User = None, tenant: str | None = None, generation: int | None = None
    ) -> ResumeState | None:
        """What a client needs to show the generation as it stands; None when there is none."""
        try:
            job = await self.job(stream_id, user=user, tenant=tenant, generation=generation)
        except (NotFound, Gone):
            return None
        return resume_state(job, await (await self.replica.tail(job.key, job)).snapshot(job.last_offset))

    async def was_synced(self, stream_id: str, *, user: User = None, tenant: str | None = None) -> bool:
        """Whether a viewer was given the snapshot since viewers were last all gone: known here, else by the store."""
        job = await self.job(stream_id, user=user, tenant=tenant)
        tail = self.replica.tails.get(job.key)
        return (tail is not None and tail.synced) or job.synced

    async def active(self, *, user: str | None = None, tenant: str | None = None) -> Sequence[Job]:
        """The caller's active jobs, oldest first."""
        check_tenant(tenant)
        return await self.store.active(Owner(user, tenant))

    async def jobs(
        self, *, user: User = None, tenant: str | None = None, status: Status | None = None, limit: int = 100
    ) -> Sequence[Job]:
        """The caller's jobs, newest first, those within retention included. ANYONE: those of all tenants."""
        return await self.store.jobs(owner_of(user, tenant), status, limit)

    async def counts(self) -> Counts:
        """How many jobs the store holds, in all and by status."""
        return await self.store.counts()

    async def update(self, stream_id: str, *, user: User = None, tenant: str | None = None, **metadata: Any) -> Job:
        """Set metadata of the running generation; None clears a field, and `extra` is merged by key (RFC 7396).

        Raises NotFound, and Fenced when it has ended.
        """
        changes = Metadata.changes(metadata)
        job = await self.job(stream_id, user=user, tenant=tenant)
        return await self.store.update(job.key, job.lease.epoch, changes)

    async def delete(self, stream_id: str, *, user: User = None, tenant: str | None = None, generation: int) -> bool:
        """Delete an ended generation before its retention is over; False when it is active, gone or not theirs."""
        try:
            job = await self.job(stream_id, user=user, tenant=tenant, generation=generation)
        except (NotFound, Gone):
            return False
        return await self.store.delete(job.key)

    def statistics(self) -> dict[str, Any]:
        """Figures of this replica, for people and metrics."""
        replica = self.replica
        return {
            "store": self.store.kind,
            "replica": replica.name,
            "runs": {str(key): run.generation.statistics() for key, run in replica.runs.items()},
            "tails": len(replica.tails),
            "viewers": len(replica.viewers),
            "totals": dict(replica.settler.totals),
            "passed_over": self.store.passed_over,
            "ledger": self.billing.statistics(),
        }
