"""The writer of one log: group commit. Events gather while an append is in flight, and leave together in the next.

Neighbouring deltas of one part merge before they get an offset, never after. An idle writer commits at once, so
gathering adds no latency; a busy one makes few, larger appends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from unspool.errors import Fenced, Gone, NotFound, RunFailed, StoreUnavailable
from unspool.events import DELTAS, Record, encode_data
from unspool.jobs import GenerationKey, Status
from unspool.protocols import JobStore

_log = logging.getLogger("unspool.writer")

MERGED_CHARS: Final = 16_384
"""Characters at which a merged delta is full: one frame stays small enough for every reader."""
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class _Delta:
    """A delta that may still grow."""

    __slots__ = ("chunks", "id", "internal", "marks", "size", "type")

    def __init__(self, type: str, id: str, marks: Mapping[str, Any], internal: bool, text: str) -> None:
        self.type = type
        self.id = id
        self.marks = marks
        self.internal = internal
        self.chunks = [text]
        self.size = len(text)

    def payload(self) -> bytes:
        return encode_data({DELTAS[self.type]: self.id, "text": "".join(self.chunks), **self.marks})


class LogWriter:
    """Writes one log under one epoch. `last` is the offset of the last accepted record.

    `refused` says why nothing more is taken: every later `put` raises it. `held`: accepted records after an offset, as
    far as they are still at hand.
    """

    def __init__(
        self,
        store: JobStore,
        key: GenerationKey,
        epoch: int,
        publish: Callable[[Sequence[Record]], None],
        lost: Callable[[Exception], None],
        held: Callable[[int], Sequence[Record] | None],
        *,
        last: int,
        backlog: int,
        log_bytes: int,
    ) -> None:
        self.last = last
        self.bytes = 0
        self.refused: Exception | None = None
        self._store = store
        self._key = key
        self._epoch = epoch
        self._publish = publish
        self._lost = lost
        self._held = held
        self._backlog = backlog
        self._log_bytes = log_bytes
        self._pending: list[_Delta | tuple[str, bytes, bool]] = []
        self._queued = 0  # calls of `put` that no append has taken yet
        self._in_flight = 0  # those in the append under way
        self._broken: Fenced | None = None
        self._metadata: dict[str, Any] = {}
        self._status: Status | None = None
        self._committer: asyncio.Task[None] | None = None
        self._idle: asyncio.Future[None] | None = None  # what the committer waits for when there is nothing to do
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<LogWriter {self._key} epoch={self._epoch} last={self.last} pending={self._queued + self._in_flight}>"

    # what is decided without I/O

    def put(self, type: str, payload: bytes, internal: bool) -> None:
        """Queue an event. Raises what `refused` says."""
        self._admit(len(payload))
        self._pending.append((type, payload, internal))
        self._kick()

    def put_delta(self, type: str, id: str, text: str, marks: Mapping[str, Any], internal: bool) -> None:
        """Queue a delta, growing the one before it where that is of the same part."""
        self._admit(len(text))
        last = self._pending[-1] if self._pending else None
        if (
            isinstance(last, _Delta)
            and last.id == id
            and last.type == type
            and last.size < MERGED_CHARS
            and last.internal is internal
            and last.marks == marks
        ):
            last.chunks.append(text)
            last.size += len(text)
            return
        self._pending.append(_Delta(type, id, marks, internal, text))
        self._kick()

    def put_metadata(self, changes: Mapping[str, Any]) -> None:
        """Queue a change of the job's metadata, to be written with the next append."""
        self._admit(0)
        self._metadata.update(changes)
        self._kick()

    def put_status(self, status: Status) -> None:
        """Queue a change of the job's status, likewise."""
        self._admit(0)
        self._status = status
        self._kick()

    def _admit(self, size: int) -> None:
        if self.refused is not None:
            raise self.refused
        self.bytes += size
        if self._log_bytes and self.bytes > self._log_bytes:
            raise RunFailed(f"the log has reached its bound of {self._log_bytes} bytes", code="limit_exceeded")
        self._queued += 1

    def _take(self) -> list[Record]:
        """All that is pending, with offsets: from here on nothing merges any more."""
        batch: list[Record] = []
        pending, self._pending = self._pending, []
        for offset, item in enumerate(pending, self.last + 1):
            if isinstance(item, _Delta):
                batch.append(Record(offset, item.type, item.payload(), item.internal))
            else:
                batch.append(Record(offset, *item))
        return batch

    def refuse(self, error: Exception) -> None:
        """Take nothing more; what is queued is still written."""
        if self.refused is None:
            self.refused = error
        self._wake()
        self._release()

    def abandon(self) -> None:
        """Give up on what is queued or under way: it will not get into the log, or nobody can wait for it any more."""
        if self._committer is None:
            return
        self._committer.cancel()
        self._committer = None
        self._forget()
        self._broken = self._broken or Fenced(f"{self._key} was given up")
        self.refuse(self._broken)

    @property
    def full(self) -> bool:
        """The run is ahead of the store by its whole backlog, and must wait in `room`."""
        return self._queued + self._in_flight >= self._backlog

    # what waits

    async def room(self) -> None:
        """Wait until the backlog has room. Raises what `refused` says."""
        while self.full:
            if self.refused is not None:
                raise self.refused
            await self._change()
        if self._broken is not None:
            raise self._broken

    async def flush(self) -> None:
        """Wait until everything queued is in the log. Raises Fenced when it never will be."""
        while self._committer is not None and (self._queued or self._in_flight):
            await self._change()
        if self._broken is not None:
            raise self._broken

    async def _change(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    # the committer: a task of its own, so that the cancellation of a run never cuts an append in two

    def _kick(self) -> None:
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit(), name=f"commit {self._key}")
        elif self._idle is not None:
            self._wake()

    def _wake(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and not idle.done():
            idle.set_result(None)

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                while self._queued:
                    await self._commit_queued()
                if self.refused is not None:
                    return
                self._idle = loop.create_future()
                await self._idle
        except (Fenced, NotFound, Gone) as error:
            self._break(error)
        except Exception as error:  # noqa: BLE001
            # Not foreseen, and so nobody knows what the log holds: the run must not go on as if all were well.
            _log.exception("%s: an append failed", self._key)
            self._break(error)
        finally:
            self._committer = None
            self._release()

    async def _commit_queued(self) -> None:
        self._in_flight, self._queued = self._queued, 0
        batch = self._take()
        metadata, self._metadata = self._metadata, {}
        status, self._status = self._status, None
        await self._append(batch, metadata, status)
        self._in_flight = 0
        if batch:
            self.last = batch[-1].offset
            self._publish(batch)
        self._release()

    def _forget(self) -> None:
        self._pending.clear()
        self._queued = self._in_flight = 0

    def _break(self, error: Exception) -> None:
        self._forget()
        self._broken = error if isinstance(error, Fenced) else Fenced(str(error))
        self.refuse(self._broken)
        self._lost(error)

    async def _append(self, batch: list[Record], metadata: dict[str, Any], status: Status | None) -> None:
        # The offsets make a repeated append harmless, so an unknown outcome is simply tried again. The store decides
        # when it is too late: another owner, or a seal.
        attempt = 0
        while True:
            try:
                await self._store.append(self._key, self._epoch, batch, metadata=metadata or None, status=status)
            except Fenced:
                if not await self._restored():
                    raise
            except StoreUnavailable as error:
                pause = _BACKOFF[min(attempt, len(_BACKOFF) - 1)]
                if attempt == 0:
                    _log.warning(
                        "%s: the store is unavailable (%s); the run is paced until it is back", self._key, error
                    )
                attempt += 1
                await asyncio.sleep(pause)
            else:
                return

    async def _restored(self) -> bool:
        while True:
            try:
                return await self.restore()
            except StoreUnavailable:
                await asyncio.sleep(_BACKOFF[-1])

    async def restore(self) -> bool:
        """Write again what the store had accepted and has lost, as when a replica that lagged behind became the master.

        True when something was missing and is there again. Raises StoreUnavailable.
        """
        job = await self._store.get(*self._key)
        if job.settled or job.lease.epoch != self._epoch or job.last_offset >= self.last:
            return False
        missing = self._held(job.last_offset)
        if not missing or missing[0].offset != job.last_offset + 1 or missing[-1].offset != self.last:
            return False
        _log.warning("%s: the store has lost records from %d on: written again", self._key, job.last_offset + 1)
        await self._store.append(self._key, self._epoch, missing)
        return True
