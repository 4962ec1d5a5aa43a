"""Starting: whether one may, and the generation itself. A refusal changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from unspool.errors import Gone, InvalidArgument, NotFound, ShuttingDown, TooManyGenerations, UnspoolError
from unspool.jobs import GenerationKey, Job, Limits, Metadata, Owner, Task, check_id
from unspool.protocols import NewJob
from unspool.replica import Replica
from unspool.runs import Run
from unspool.terminals import Failed


async def create(
    replica: Replica, stream_id: str, owner: Owner, request_id: str | None, expect_generation: int | None,
    metadata: Mapping[str, Any] | None, limits: Limits | None, account: str | None, task: Task | None,
) -> tuple[Job, Run | None]:  # fmt: skip
    """Make the generation and its run, which is not begun yet; None where it existed under the same request id.

    Raises what the store's `create` raises, InvalidArgument, ShuttingDown, InsufficientBalance, TooManyGenerations.
    """
    if replica.closing:
        raise ShuttingDown
    check_id("stream_id", stream_id)
    for name, value in (("request_id", request_id), ("account", account)):
        if value is not None:
            check_id(name, value)
    if expect_generation is not None and expect_generation < 0:
        raise InvalidArgument("expect_generation must be 0 or more; 0 means: none yet")
    new = NewJob(
        stream_id=stream_id, owner=owner, replica=replica.name, lease=replica.options.lease, request_id=request_id,
        expect_generation=expect_generation, metadata=Metadata.of(metadata), task=task, account=account,
        limits=limits or replica.options.limits,
    )  # fmt: skip
    with replica.creation():
        if not await _known(replica, new):
            await replica.billing.check(new.account)
            _refuse_above(replica.options.max_active_per_user, await _of_user(replica, new), new.stream_id)
            _refuse_above(replica.options.max_active_per_account, await _of_account(replica, new), new.stream_id)
        created = await replica.store.create(new)
        if created.replaced is not None:
            replica.on_replaced(created.replaced)
        if created.attached:
            return replace(created.job, attached=True), None
        run = replica.own(created.job)
        try:
            # Others may have come in between: the check from before is made good, and who came too late goes again.
            _refuse_late(replica.options.max_active_per_user, await _of_user(replica, new), created.job)
            await replica.billing.admit(created.job)
        except UnspoolError as refusal:
            run.give_up(Failed(refusal.code, refusal.message, retryable=True))
            await run.done.wait()
            raise
        return created.job, run


async def _known(replica: Replica, new: NewJob) -> bool:
    """A start that is repeated attaches, whatever has become of the balance."""
    if new.request_id is None:
        return False
    try:
        return (await replica.store.get(new.stream_id, owner=new.owner)).request_id == new.request_id
    except (NotFound, Gone):
        return False


async def _of_user(replica: Replica, new: NewJob) -> Sequence[Job]:
    if not replica.options.max_active_per_user or new.owner.user is None:
        return ()
    return await replica.store.active(new.owner)


async def _of_account(replica: Replica, new: NewJob) -> Sequence[GenerationKey]:
    if not replica.options.max_active_per_account:
        return ()
    return await replica.billing.running(new.account)


def _refuse_above(limit: int, running: Sequence[Job] | Sequence[GenerationKey], stream_id: str) -> None:
    latest = {key.stream_id: key for key in sorted(one.key if isinstance(one, Job) else one for one in running)}
    # What runs on the stream is replaced, and what was just replaced on another may not have given back its hold yet.
    others = [key for key in latest.values() if key.stream_id != stream_id]
    if limit and len(others) >= limit:
        raise TooManyGenerations(
            f"{len(others)} generations are running, and {limit} may; stop one, or wait for its end",
            limit=limit, running=[key._asdict() for key in others],
        )  # fmt: skip


def _refuse_late(limit: int, running: Sequence[Job], job: Job) -> None:
    ordered = sorted(running, key=lambda one: (one.created_at, one.key))
    earlier = [one for one in ordered if (one.created_at, one.key) < (job.created_at, job.key)]
    _refuse_above(limit, earlier, job.stream_id)
