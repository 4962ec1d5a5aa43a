"""How durable streams are named in the store, and whose they are there.

A client cannot name any of this: the ids of applications are printable ASCII, and no tenant of theirs begins with `§`.
So a durable stream is never listed among somebody's generations, and no generation can take its name. Its tenant is
part of its name in the store, as for generations: one path is another stream for each tenant.
"""

from __future__ import annotations

import hashlib
from typing import Final

from unspool.errors import BadRequest
from unspool.jobs import Limits, Owner, stream_name
from unspool.protocols import NewJob

PREFIX: Final = "§ds:"
REPLICA: Final = "durable-streams"
"""The owner of every lease: whichever replica has something to append does it under this name."""
LEASE: Final = 10 * 365 * 24 * 3600.0
"""Seconds. Nobody has to stay alive for a stream: what two replicas write at once is told apart by its offset."""

_LIMITS: Final = Limits(stall=0.0, duration=0.0, log_bytes=0)
_LONG: Final = 200
_LONGEST: Final = 4096


def stream_id_of(path: str) -> str:
    """The id of the stream at a path; long paths and those that are not ASCII are hashed. Raises BadRequest."""
    if not path or len(path) > _LONGEST:
        raise BadRequest(f"the path of a stream has 1 to {_LONGEST} characters", field="path")
    if len(path) <= _LONG and path.isascii() and path.isprintable():
        return f"{PREFIX}{path}"
    return f"{PREFIX}#{hashlib.sha256(path.encode(errors='surrogatepass')).hexdigest()}"


def name_of(path: str, owner: Owner) -> str:
    """The internal name of the stream at a path, which its tenant is part of. Raises BadRequest."""
    return stream_name(stream_id_of(path), owner_of(owner).tenant)


def owner_of(owner: Owner) -> Owner:
    """The same person as an owner of durable streams."""
    return Owner(owner.user, "§ds" if owner.tenant is None else f"§ds:{owner.tenant}")


def new_log(stream_id: str, owner: Owner, expect: int) -> NewJob:
    """A log that ends only when it is sealed. `expect`: the last number used there, so that nothing is replaced."""
    return NewJob(
        stream_id=stream_id,
        owner=owner_of(owner),
        replica=REPLICA,
        lease=LEASE,
        expect_generation=expect,
        limits=_LIMITS,
    )
