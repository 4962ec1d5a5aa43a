"""Admit a start and create its generation. A refusal changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from unspool.errors import (
    Fenced,
    GenerationConflict,
    Gone,
    InsufficientBalance,
    InvalidArgument,
    NotFound,
    RunFailed,
    ShuttingDown,
    StoreUnavailable,
    TooManyGenerations,
    UnreadableRecord,
    UnspoolError,
)
from unspool.jobs import GenerationKey, Job, Limits, Metadata, Owner, Task, check_id, check_tenant, stream_of
from unspool.protocols import Created, NewJob
from unspool.replica import Replica
from unspool.runs import Run
from unspool.tasks import RunFunction
from unspool.terminals import Aborted, Failed

_log = logging.getLogger("unspool")
_PAUSE: Final = 0.2
"""Seconds between two looks for a creation that was not answered."""
_REPEATED: Final = (0.1, 0.4, 1.0, 2.0)
"""Seconds after each look for the start that this one may be a repetition of."""
_NEVER: Final = -1
"""A number that no generation has."""


async def create(
    replica: Replica, stream_id: str, owner: Owner, request_id: str | None, expect_generation: int | None,
    metadata: Mapping[str, Any] | None, limits: Limits | None, account: str | None, begin: RunFunction | Task | None,
) -> tuple[Job, Run | None]:  # fmt: skip
    """Make the generation and its run, which is not begun yet; None where it existed under the same request id.

    `begin`: what the caller begins then, where it can be begun here as well: see `_find`.

    Raises what the store's `create` raises, InvalidArgument, ShuttingDown, InsufficientBalance, TooManyGenerations.
    """
    if replica.closing:
        raise ShuttingDown
    check_id("stream_id", stream_id)
    check_tenant(owner.tenant)
    for name, value in (("request_id", request_id), ("account", account)):
        if value is not None:
            check_id(name, value)
    if expect_generation is not None and expect_generation < 0:
        raise InvalidArgument("expect_generation must be 0 or more; 0 means: none yet")
    new = NewJob(
        stream_id=stream_id, owner=owner, replica=replica.name, lease=replica.options.lease, request_id=request_id,
        expect_generation=expect_generation, metadata=Metadata.of(metadata), account=account,
        task=begin if isinstance(begin, Task) else None,
        limits=limits or replica.options.limits,
    )  # fmt: skip
    making = asyncio.create_task(_make(replica, new, begin))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        making.add_done_callback(partial(_unwanted, begin))
        raise


async def attached(replica: Replica, stream_id: str, owner: Owner, request_id: str) -> Job | None:
    """The generation that a start under this request id would attach to; None where it would make one."""
    new = NewJob(
        stream_id=stream_id, owner=owner, replica=replica.name, lease=replica.options.lease, request_id=request_id
    )  # fmt: skip
    return await _known(replica, new)


async def check(replica: Replica, stream_id: str, owner: Owner, account: str | None) -> None:
    """Raise the error that a start would raise now, for callers that must stop something first."""
    if replica.closing:
        raise ShuttingDown
    new = NewJob(
        stream_id=stream_id, owner=owner, replica=replica.name, lease=replica.options.lease, account=account
    )  # fmt: skip
    await asyncio.shield(asyncio.create_task(_tried(replica, new)))  # a caller that leaves takes no money along


async def _tried(replica: Replica, new: NewJob) -> None:
    with replica.creation():
        await replica.billing.release(await _admitted(replica, new))


def _unwanted(begin: RunFunction | Task | None, making: asyncio.Task[tuple[Job, Run | None]]) -> None:
    """Begin a run whose caller was cancelled during its creation; abort it where the caller was to run it."""
    run = None if making.cancelled() or making.exception() is not None else making.result()[1]
    if run is None:
        return
    if begin is not None:
        run.begin(begin)
    else:
        run.give_up(Aborted("system", "cancelled"))


async def _make(replica: Replica, new: NewJob, begin: RunFunction | Task | None) -> tuple[Job, Run | None]:
    """Set aside what it may cost, create the generation, own it. What can refuse comes first: nothing is replaced, and
    nothing is kept, for a start that is refused."""
    with replica.creation():
        if (known := await _known(replica, new)) is not None:
            return known, None
        new = replace(new, floor=replica.highest(new.name))
        try:
            new = await _admitted(replica, new)
        except (InsufficientBalance, TooManyGenerations):
            if (known := await _known_soon(replica, new)) is None:
                raise
            return known, None
        try:
            created = await replica.store.create(new)
        except StoreUnavailable:
            replica.spawn(_find(replica, new, begin))
            raise
        except Exception:
            replica.spawn(replica.billing.release(new))
            raise
        if created.attached:
            replica.spawn(replica.billing.release(new))
            return replace(created.job, attached=True), None
        return created.job, await _own(replica, created)


async def _own(replica: Replica, created: Created) -> Run:
    """Become the owner of a job that was created here. Raises what refuses it after all; then it is sealed, and the
    error names it."""
    job = created.job
    if created.replaced is not None:
        replica.on_replaced(created.replaced)
    try:
        run = replica.own(job)
    except ShuttingDown as refusal:  # the creation was answered too late
        await _seal(replica, job, Failed(refusal.code, refusal.message, retryable=True))
        refusal.details["generation"] = job.generation
        raise
    try:
        if created.replaced is None:  # one that runs in the place of another is not one more
            await _check_again(replica, job)
        await replica.billing.admit(job)
    except Exception as error:
        refusal = error if isinstance(error, UnspoolError) else RunFailed("the start failed")
        run.give_up(Failed(refusal.code, refusal.message, retryable=True))
        await run.done.wait()
        refusal.details["generation"] = job.generation
        raise
    return run


async def _seal(replica: Replica, job: Job, verdict: Failed) -> None:
    """Seal a generation that never gets a run here. Where the store is away, its lease runs out."""
    try:
        async with asyncio.timeout(replica.options.abort_grace):
            await replica.settler.settle(job.key, job.lease.epoch, verdict, await replica.tail(job.key, job))
    except (TimeoutError, StoreUnavailable, Fenced, NotFound, Gone) as error:
        _log.warning("%s: it never began, and is not sealed before its lease runs out: %r", job.key, error)


async def _check_again(replica: Replica, job: Job) -> None:
    """Re-check the bound per user after the creation: others may have come in between. The latest is refused."""
    try:
        _refuse_late(replica.options.max_active_per_user, await _of_user(replica, job.owner), job)
    except StoreUnavailable as error:
        _log.warning("%s: how many its user has running could not be checked again: %s", job.key, error)


async def _find(replica: Replica, new: NewJob, begin: RunFunction | Task | None) -> None:
    """Begin a run whose creation was not answered, if it has happened after all; seal it where it cannot begin here.

    The caller was told that the outcome is not known, and repeats the request under the same id, maybe on another
    replica: it attaches to this generation, which must have a run. What it has replaced must be told in any case.
    """
    await replica.billing.release(new)  # the next try needs it; a generation that is found sets it aside again
    now = asyncio.get_running_loop().time
    deadline = now() + replica.options.lease / 2
    while not replica.closing:
        await asyncio.sleep(_PAUSE)
        try:
            job = await replica.store.get(new.name, owner=new.owner)
            if job.token == new.token:
                # It is answered as the first time, and makes nothing where others have come since: see `_known`.
                again = await replica.store.create(replace(new, expect_generation=_NEVER))
                await _found(replica, again, begin if now() < deadline else None)
                return
        except StoreUnavailable:
            continue
        except (NotFound, Gone, UnreadableRecord):
            pass
        except UnspoolError as error:  # the stream has moved on
            _log.warning("%s: its start was not answered, and is over: %s", new.stream_id, error)
            return
        if now() >= deadline:
            return


async def _found(replica: Replica, created: Created, begin: RunFunction | Task | None) -> None:
    """Begin the run of a creation that was found later, or seal it."""
    job = created.job
    if job.settled or job.lease.epoch > 1:  # another replica has ended it, and knows nothing of what it has replaced
        if created.replaced is not None:
            replica.on_replaced(created.replaced)
        return
    _log.warning("%s: created, though the store did not answer", job.key)
    try:
        run = await _own(replica, created)
    except UnspoolError as error:
        _log.warning("%s: its run does not begin: %s", job.key, error)
        return
    if begin is not None:
        run.begin(begin)
    else:
        run.give_up(Failed("run_failed", "The start was not answered in time.", retryable=True))


async def _known(replica: Replica, new: NewJob) -> Job | None:
    """The generation that was started under the same request id; None where there is none."""
    if new.request_id is None:
        return None
    try:  # a creation whose expectation cannot be met attaches, or changes nothing
        found = await replica.store.create(replace(new, expect_generation=_NEVER))
    except GenerationConflict:
        return None
    return replace(found.job, attached=True)


async def _known_soon(replica: Replica, new: NewJob) -> Job | None:
    """The same, while another start on the stream is under way: it may hold just what this one was refused for."""
    for pause in _REPEATED if new.request_id is not None else ():
        starting = await replica.billing.starting(new)
        if (known := await _known(replica, new)) is not None:
            return known
        if not starting or replica.closing:
            return None
        await asyncio.sleep(pause)
    return None


async def _of_user(replica: Replica, owner: Owner) -> Sequence[Job]:
    if not replica.options.max_active_per_user or owner.user is None:
        return ()
    return await replica.store.active(owner)


async def _admitted(replica: Replica, new: NewJob) -> NewJob:
    """Check the limits and reserve the cost. TooManyGenerations lists only the caller's own generations."""
    mine = [job.key for job in await _of_user(replica, new.owner)]
    _refuse_above(replica.options.max_active_per_user, mine, new.name)
    try:
        return await replica.billing.reserve(new, replica.options.max_active_per_account)
    except TooManyGenerations as error:
        own = {job.key for job in await replica.store.active(new.owner)}
        running = [GenerationKey(**key) for key in error.details["running"]]
        error.details["running"] = [_told(key) for key in running if key in own]
        raise
    except StoreUnavailable:
        replica.spawn(_release_late(replica, new))
        raise


async def _release_late(replica: Replica, new: NewJob) -> None:
    """Release what may have been reserved without an answer, when the ledger has finished with that in any case."""
    await asyncio.sleep(1.0)
    await replica.billing.release(new)


def _told(key: GenerationKey) -> dict[str, Any]:
    """A generation as its clients know it."""
    return {"stream_id": stream_of(key.stream_id)[0], "generation": key.generation}


def _refuse_above(limit: int, running: Iterable[GenerationKey], name: str) -> None:
    latest = {key.stream_id: key for key in sorted(running)}
    # What runs on the stream is replaced, and what was just replaced on another may not have given back its hold yet.
    others = [key for key in latest.values() if key.stream_id != name]
    if limit and len(others) >= limit:
        raise TooManyGenerations(
            f"{len(others)} generations are running, and {limit} may; stop one, or wait for its end",
            limit=limit, running=[_told(key) for key in others],
        )  # fmt: skip


def _refuse_late(limit: int, running: Sequence[Job], job: Job) -> None:
    ordered = sorted(running, key=lambda one: (one.created_at, one.key))
    earlier = [one.key for one in ordered if (one.created_at, one.key) < (job.created_at, job.key)]
    _refuse_above(limit, earlier, job.key.stream_id)
