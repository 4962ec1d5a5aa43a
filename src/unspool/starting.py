"""Starting: whether one may, and the generation itself. A refusal changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec.structs import replace

from unspool.errors import (
    Gone,
    InvalidArgument,
    NotFound,
    ShuttingDown,
    StoreUnavailable,
    TooManyGenerations,
    UnspoolError,
)
from unspool.jobs import GenerationKey, Job, Limits, Metadata, Owner, Task, check_id, check_tenant, stream_of
from unspool.protocols import NewJob
from unspool.replica import Replica
from unspool.runs import Run
from unspool.tasks import RunFunction
from unspool.terminals import Failed

_log = logging.getLogger("unspool")
_PAUSE: Final = 0.2
"""Seconds between two looks for a creation that was not answered."""


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
    with replica.creation():
        if not await _known(replica, new):
            await replica.billing.check(new.account)
            mine = [job.key for job in await _of_user(replica, new.owner)]
            _refuse_above(replica.options.max_active_per_user, mine, new.name)
            await _check_account(replica, new)
        try:
            created = await replica.store.create(new)
        except StoreUnavailable:
            if begin is not None:
                replica.spawn(_find(replica, new, begin))
            raise
        if created.replaced is not None:
            replica.on_replaced(created.replaced)
        if created.attached:
            return replace(created.job, attached=True), None
        return created.job, await _own(replica, created.job)


async def _own(replica: Replica, job: Job) -> Run:
    """Become the owner of a job that was created here. Raises what refuses it after all; then it is sealed."""
    run = replica.own(job)
    try:
        await _check_again(replica, job)
        await replica.billing.admit(job)
    except UnspoolError as refusal:
        run.give_up(Failed(refusal.code, refusal.message, retryable=True))
        await run.done.wait()
        raise
    return run


async def _check_again(replica: Replica, job: Job) -> None:
    """Re-check the bound per user after the creation: others may have come in between. The latest is refused."""
    try:
        _refuse_late(replica.options.max_active_per_user, await _of_user(replica, job.owner), job)
    except StoreUnavailable as error:
        _log.warning("%s: how many its user has running could not be checked again: %s", job.key, error)


async def _find(replica: Replica, new: NewJob, begin: RunFunction | Task) -> None:
    """Begin a run whose creation was not answered, if it has happened after all.

    The caller was told that the outcome is not known, and repeats the request under the same id, maybe on another
    replica: it attaches to this generation, which must have a run.
    """
    deadline = asyncio.get_running_loop().time() + replica.options.lease / 2
    while not replica.closing and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_PAUSE)
        try:
            job = await replica.store.get(new.name, owner=new.owner)
        except (StoreUnavailable, NotFound, Gone):
            continue
        if job.token == new.token:
            if not job.settled and job.lease.epoch == 1:
                await _begin_found(replica, job, begin)
            return


async def _begin_found(replica: Replica, job: Job, begin: RunFunction | Task) -> None:
    _log.warning("%s: created, though the store did not answer; its run begins", job.key)
    try:
        (await _own(replica, job)).begin(begin)
    except UnspoolError as error:
        _log.warning("%s: its run does not begin: %s", job.key, error)


async def _known(replica: Replica, new: NewJob) -> bool:
    """A start that is repeated attaches, whatever has become of the balance."""
    if new.request_id is None:
        return False
    try:
        job = await replica.store.get(new.name, owner=new.owner)
        return job.request_id == new.request_id and job.holds_request
    except (NotFound, Gone):
        return False


async def _of_user(replica: Replica, owner: Owner) -> Sequence[Job]:
    if not replica.options.max_active_per_user or owner.user is None:
        return ()
    return await replica.store.active(owner)


async def _check_account(replica: Replica, new: NewJob) -> None:
    """Refuse one more than an account may have running. The caller is told its own, not those of others on it."""
    limit = replica.options.max_active_per_account
    if not limit:
        return
    running = await replica.billing.running(new.account)
    try:
        _refuse_above(limit, running, new.name)
    except TooManyGenerations as error:
        own = {job.key for job in await replica.store.active(new.owner)}
        error.details["running"] = [_told(key) for key in sorted(running) if key in own]
        raise


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
