"""Forks: streams that begin with what another one holds, without a copy of it.

A fork names the stretches of other logs that it begins with, and the log that it was made from knows of it. So the
order is: the source notes the fork, then the fork comes into being; and when a stream is deleted, it first says so in
its own log, after which no fork can be noted any more, and goes when none is left. A replica that dies in between
leaves a note of a fork that never came to be: whoever deletes the source finds that out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from unspool.durable.cache import Cache, Known
from unspool.durable.entries import DELETED, LINKED, UNLINKED, Config, Entry, Fork, Ref, Segment, media_type
from unspool.durable.errors import StreamConflict
from unspool.durable.log import Logs, nonce
from unspool.durable.state import State
from unspool.errors import Fenced, Gone, NotFound
from unspool.jobs import GenerationKey, Job
from unspool.manager import GenerationManager

DEFAULT_TYPE = "application/octet-stream"
_MAKING: Final = 60.0
"""Seconds from the name of a stream to its first record, at most."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is to be: `Config` as somebody asks for it."""

    content_type: str | None = None
    ttl: int | None = None
    expires_at: float | None = None
    close: bool = False
    fork: Fork | None = None


def config_of(path: str, wish: Wish, origin: Known | None, base: int, inherited: tuple[Segment, ...]) -> Config:
    """The configuration that a wish amounts to; what it leaves open a fork has from its origin."""
    source = origin.state.there if origin is not None else None
    ttl, expires_at = wish.ttl, wish.expires_at
    if source is not None and wish.fork is not None and wish.fork.inherits:
        ttl, expires_at = source.ttl, source.expires_at
    return Config(
        path=path,
        content_type=wish.content_type or (source.content_type if source is not None else DEFAULT_TYPE),
        ttl=ttl,
        expires_at=expires_at,
        fork=wish.fork,
        parent=Ref(*origin.key) if origin is not None else None,
        base=base,
        inherited=inherited,
    )


def matches(state: State, wish: Wish) -> bool:
    """Whether a stream that is there is what is wished for."""
    config = state.there
    if wish.fork != config.fork or state.closed != wish.close:
        return False
    wished = wish.content_type or (DEFAULT_TYPE if wish.fork is None else config.content_type)
    if media_type(wished) != media_type(config.content_type):
        return False
    inherits = wish.fork is not None and wish.fork.inherits
    return inherits or (wish.ttl, wish.expires_at) == (config.ttl, config.expires_at)


class Forks:
    """Who was forked from whom, and what may go."""

    def __init__(self, manager: GenerationManager, cache: Cache, logs: Logs, clock: Callable[[], float]) -> None:
        self._manager = manager
        self._cache = cache
        self._logs = logs
        self._clock = clock

    async def link(self, origin: Known, fork: Ref) -> None:
        """Note a fork. Raises StreamConflict for a source that was deleted, Fenced for one that is gone."""

        def still_missing(state: State) -> bool:
            if state.deleted:
                raise StreamConflict("the stream to fork from was deleted")
            return fork not in state.forks

        await self._logs.put(origin, LINKED, Entry(nonce=nonce(), fork=fork), None, still_missing)

    async def unlink(self, source: GenerationKey, fork: Ref) -> None:
        """A fork is gone, and so is its source, if that was deleted and this was the last one."""
        known = await self._without(source, fork)
        if known is not None:
            await self.remove(known)

    async def _without(self, source: GenerationKey, fork: Ref) -> Known | None:
        """The source without this fork, where nothing needs it any more."""
        reached = self._cache.reached(source.stream_id)
        try:
            job = await self._manager.store.get(*source)
            if job.settled:
                return None
            known = await self._cache.known(job, self._manager.replica.spawn, reached)
            await self._forget(known, fork)
        except (NotFound, Gone, Fenced):
            return None
        return known if known.state.deleted and not known.state.forks else None

    async def _forget(self, known: Known, fork: Ref) -> None:
        entry = Entry(nonce=nonce(), fork=fork)
        await self._logs.put(known, UNLINKED, entry, None, lambda state: fork in state.forks)

    async def remove(self, known: Known) -> bool:
        """Delete a stream, and the deleted ones that only it needed; False when forks need what is in it, and it is
        only hidden until they are gone."""
        if not await self._end(known):
            return False
        while (parent := known.state.there.parent) is not None:
            source = await self._without(parent.key, Ref(*known.key))
            if source is None or not await self._end(source):
                break
            known = source
        return True

    async def _end(self, known: Known) -> bool:
        try:
            await self._logs.put(known, DELETED, Entry(nonce=nonce()), None, lambda state: not state.deleted)
            for fork in known.state.forks:
                if not await self._is_there(fork):
                    await self._forget(known, fork)
        except Fenced:
            pass  # somebody else was faster
        if known.state.forks and not known.state.sealed:
            return False
        await self._logs.end(known)
        return True

    async def _is_there(self, fork: Ref) -> bool:
        try:
            job = await self._manager.store.get(*fork.key)
        except (NotFound, Gone):
            return False
        if unborn(job, self._clock()):
            await self._logs.end(Known(job))
            return False
        return not job.settled


def unborn(job: Job, now: float) -> bool:
    """Only a name and a number: whoever was making it did not come to the end of that."""
    return not job.settled and not job.last_offset and now - job.created_at >= _MAKING
