"""Following a log through a projection: from a position that is the dialect's own, or as it stands at the end."""

from __future__ import annotations

from typing import Generic, NamedTuple

from unspool.errors import Gone, InvalidPosition
from unspool.jobs import GenerationKey, Job
from unspool.projection import P, Projection, Projector
from unspool.replica import Replica
from unspool.tail import PAGE, Tail
from unspool.viewer import Viewer

_FAR = 4 * PAGE
"""Records from which on a checkpoint is worth a look."""


class Projected(NamedTuple, Generic[P]):
    """A viewer of a log through a projection. `first`: what goes before the viewer's frames: the rest of a record that
    became several, of which the position is one."""

    viewer: Viewer
    encode: Projector
    first: bytes


async def attach(replica: Replica, job: Job, kind: type[P], position: int = 0) -> Projected[P]:
    """Follow a log from the frame with this number on.

    Raises InvalidPosition for one that does not exist yet, Gone for one that was trimmed, NotFound, StoreUnavailable,
    ShuttingDown.
    """
    tail = await replica.tail(job.key, job)
    found = tail.find(kind, position)
    if found is not None:
        return Projected(replica.attach(tail, job, found, snapshot=False), Projector(kind.begin(job)), b"")
    projection = await _base(tail, job, kind, position)
    first = await _seek(tail, job, projection, position)
    viewer = replica.attach(tail, job, projection.offset, snapshot=False)
    return Projected(viewer, Projector(projection), first)


async def keep(replica: Replica, key: GenerationKey, kind: type[Projection]) -> None:
    """Say in this log's checkpoints where a dialect stands: for the log's owner, as long as it is the owner."""
    (await replica.tail(key)).keep(kind)


async def attach_at(replica: Replica, job: Job, projection: P) -> Projected[P]:
    """Follow a log from where this projection stands."""
    tail = await replica.tail(job.key, job)
    return Projected(replica.attach(tail, job, projection.offset, snapshot=False), Projector(projection), b"")


async def project(replica: Replica, job: Job, kind: type[P], *, terminal: bool = True) -> P:
    """Where a dialect stands after the log's last record, or (`terminal` False) before the terminal one.

    Raises NotFound, Gone, StoreUnavailable.
    """
    tail = await replica.tail(job.key, job)
    last = job.last_offset - (job.settled and not terminal)
    shared = tail.projected(kind)
    if isinstance(shared, kind) and shared.offset >= last and (terminal or not tail.sealed):
        return shared
    projection = await _base(tail, job, kind, None)
    if not await tail.project(projection, last):
        raise Gone("what was trimmed is in no checkpoint of this dialect", generation=job.generation)
    return projection


async def _base(tail: Tail, job: Job, kind: type[P], position: int | None) -> P:
    """A state that is known and not beyond a position (None: any)."""
    if job.first_offset > 1 or (job.last_offset > _FAR and position != 0):
        known = await tail.checkpointed(kind)
        if known is not None and (position is None or known.count <= position):
            return known
        if job.first_offset > 1:
            least = "none" if known is None else str(known.count)
            raise Gone(
                f"what came first was trimmed; the first position that is kept is {least}", generation=job.generation
            )
    return kind.begin(job)


async def _seek(tail: Tail, job: Job, projection: Projection, position: int) -> bytes:
    """Feed it until it has given so many frames; what it gave beyond them."""
    while projection.count < position:
        records = tail.slice(projection.offset) or (await tail.read(projection.offset)).records
        if not records:
            raise InvalidPosition(
                f"{projection.name} is at {projection.count} of generation {job.generation}; {position} is beyond it",
                generation=job.generation, first_offset=0, last_offset=projection.count,
            )  # fmt: skip
        for record in records:
            before = projection.count
            frames = projection.feed(record)
            if projection.count >= position:
                return b"".join(frames[position - before :])
    return b""
