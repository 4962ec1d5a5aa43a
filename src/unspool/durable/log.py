"""Writing into the logs of streams: append by compare-and-set, and the end of a log.

Any replica writes any stream. A record carries the offset after the last one that the writer has seen, and the store
refuses it where that is not the end of the log: then the writer reads what it has missed, decides anew, and tries
again. So every decision was made on exactly what stands before it in the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from unspool import events
from unspool.durable.cache import LAST, Cache, Known
from unspool.durable.entries import Content, Entry, record_of
from unspool.durable.state import State
from unspool.errors import Fenced, Gone, NotFound, StoreUnavailable
from unspool.events import Record, encode_data
from unspool.manager import GenerationManager
from unspool.protocols import Hint

_log = logging.getLogger("unspool.durable")
_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0)
_DELETED: Final = encode_data({"by": "system", "reason": "deleted"})

Decide = Callable[[State], bool]
"""Whether it is still to be appended; raises what it is refused with."""


class Logs:
    """The logs of streams, as this replica writes them."""

    def __init__(self, manager: GenerationManager, cache: Cache) -> None:
        self._manager = manager
        self._store = manager.store
        self._cache = cache

    async def put(
        self, known: Known, type: str, entry: Entry, content: Content | None, decide: Decide,
        metadata: Mapping[str, Any] | None = None,
    ) -> bool:  # fmt: skip
        """Append one record if `decide` says so about what stands before it; False when it says no.

        Raises what `decide` raises, Fenced when the log is sealed, StoreUnavailable when the outcome is not known.
        """
        async with known.lock:
            while True:
                if not decide(known.state):
                    return False
                entry = replace(entry, after=known.state.nonce)
                record = record_of(known.state.offset + 1, type, entry, content)
                if await self._append(known, record, {**(metadata or {}), LAST: entry.nonce}):
                    return True

    async def _append(self, known: Known, record: Record, metadata: Mapping[str, Any]) -> bool:
        """False when something else stands there, which is then in the state. Raises Fenced when the log is sealed."""
        for pause in (*_PAUSES, None):
            try:
                await self._store.append(known.key, known.epoch, [record], metadata=metadata)
            except Fenced:
                return await self._stands(known, record)
            except StoreUnavailable:
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                break
        known.state.apply(record)
        self.tell(known, record)
        return True

    async def _stands(self, known: Known, record: Record) -> bool:
        """Read what was missed. It may be this very record, when the answer to an earlier try was lost."""
        found = False
        try:
            while missed := await self._cache.read_on(known):
                found = found or record in missed
        except (NotFound, Gone) as error:
            raise Fenced(f"{known.key} was deleted") from error
        if not found and (known.state.offset < record.offset or known.state.sealed):
            raise Fenced(f"{known.key} is sealed")
        return found

    def tell(self, known: Known, record: Record) -> None:
        """Wake those who follow, here and on other replicas."""
        replica = self._manager.replica
        hint = Hint(known.key, record.offset, [record], control=record.terminal)
        tail = replica.tails.get(known.key)
        if tail is not None:
            tail.hint(hint)
        replica.channel.publish(hint)

    async def end(self, known: Known) -> None:
        """Seal the log and delete it. Doing it again is harmless. Raises StoreUnavailable."""
        try:
            sealed = await self._store.seal(known.key, known.epoch, events.ABORTED, _DELETED)
            if sealed.job.terminal is not None:
                known.state.apply(sealed.job.terminal)
                self.tell(known, sealed.job.terminal)
            await self._store.delete(known.key)
        except (Fenced, NotFound, Gone) as error:
            _log.info("%s: deleted by somebody else: %s", known.key, error)
        self._cache.forget(known.key)


def nonce() -> str:
    """Makes a record unlike any other: an append that is tried again is recognised by it."""
    return secrets.token_urlsafe(9)
