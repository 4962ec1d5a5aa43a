"""The writer of one log: group commit. Events gather while an append is in flight, and leave together in the next.

Neighbouring deltas of one part merge before they get an offset, never after. An idle writer commits at once, so
gathering adds no latency; a busy one makes few, larger appends.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from unspool.errors import Fenced, Gone, NotFound, RunFailed, StoreUnavailable, TooLarge
from unspool.events import DELTAS, Record
from unspool.jobs import GenerationKey, Status, chained
from unspool.protocols import AtOnce, JobStore, current
from unspool.turns import Turns

_log = logging.getLogger("unspool.writer")
_encode = msgspec.json.Encoder().encode

MERGED_CHARS: Final = 16_384
"""Characters at which a merged delta is full: one frame stays small enough for every reader."""
BATCH_BYTES: Final = 512 * 1024
"""Bytes of an append, about: what is queued beyond them goes into the next one."""
_BACKOFF: Final = (0.05, 0.1, 0.2, 0.5, 1.0)


class Part(NamedTuple):
    """The part that a delta continues: neighbours of one part merge. `id`: of the part, or of the call.

    `marks`: the other fields as a JSON object, encoded when they were emitted; empty when there are none.
    """

    type: str
    id: str
    marks: bytes
    internal: bool


class _Event:
    """An event that no append has taken yet."""

    __slots__ = ("internal", "payload", "type")
    puts = 1

    def __init__(self, type: str, payload: bytes, internal: bool) -> None:
        self.type = type
        self.payload = payload
        self.internal = internal

    @property
    def size(self) -> int:
        return len(self.payload)

    def record(self, offset: int) -> Record:
        return Record(offset, self.type, self.payload, self.internal)


class _Delta:
    """The same of a delta, which may still grow."""

    __slots__ = ("chars", "chunks", "part")

    def __init__(self, part: Part, text: str) -> None:
        self.part = part
        self.chunks = [text]
        self.chars = len(text)

    @property
    def size(self) -> int:
        return self.chars + len(self.part.id) + len(self.part.marks)

    @property
    def puts(self) -> int:
        return len(self.chunks)

    def record(self, offset: int) -> Record:
        part = self.part
        payload = _encode({DELTAS[part.type]: part.id, "text": "".join(self.chunks)})
        if part.marks:
            payload = b"%b,%b" % (payload[:-1], part.marks[1:])
        return Record(offset, part.type, payload, part.internal)


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
        turns: Turns,
        *,
        last: int,
        backlog: int,
        log_bytes: int,
    ) -> None:
        self.last = last
        self.bytes = 0
        self._taken = 0  # of them, by appends
        self.refused: Exception | None = None
        self._store = store
        self._key = key
        self._epoch = epoch
        self._publish = publish
        self._lost = lost
        self._held = held
        self._turns = turns
        self._backlog = backlog
        self._log_bytes = log_bytes
        self._bound = log_bytes or math.inf
        self._pending: list[_Event | _Delta] = []
        self._growing: _Delta | None = None  # the last one that is pending, where it may grow
        self._queued = 0  # calls of `put` that no append has taken yet
        self._in_flight = 0  # those in the append under way
        self._done = 0  # those that were committed or dropped
        self._broken: Fenced | None = None
        self._metadata: dict[str, Any] | None = None
        self._status: Status | None = None
        self._at_once = store.append_at_once if isinstance(store, AtOnce) else None
        self._committer: asyncio.Task[None] | None = None
        self._entered = False  # waits for its turn
        self._waiting: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<LogWriter {self._key} epoch={self._epoch} last={self.last} pending={self._queued + self._in_flight}>"

    # what is decided without I/O

    def put(self, type: str, payload: bytes, internal: bool) -> None:
        """Queue an event. Raises what `refused` says."""
        self._admit(len(payload))
        self._growing = None
        self._pending.append(_Event(type, payload, internal))
        self._kick()

    def put_delta(self, part: Part, text: str) -> None:
        """Queue a delta, growing the one before it where that is of the same part. A long text becomes several."""
        size = len(text)
        if size > MERGED_CHARS:
            for at in range(0, size, MERGED_CHARS):
                self.put_delta(part, text[at : at + MERGED_CHARS])
            return
        growing = self._growing
        if growing is not None and growing.part == part and growing.chars < MERGED_CHARS:
            self.bytes += size  # as in `_admit`: here is where every token passes
            if self.bytes > self._bound:
                raise self._refusal()
            self._queued += 1
            growing.chunks.append(text)
            growing.chars += size
        else:
            self._admit(size + len(part.id) + len(part.marks))
            growing = self._growing = _Delta(part, text)
            self._pending.append(growing)
            self._kick()

    def put_metadata(self, changes: Mapping[str, Any]) -> None:
        """Queue a change of the job's metadata, to be written with the next append."""
        self._admit(0)
        before, changes = self._metadata or {}, dict(changes)
        if "extra" in before and "extra" in changes:
            changes |= chained({"extra": before["extra"]}, {"extra": changes["extra"]})
        self._metadata = {**before, **changes}
        self._kick()

    def put_status(self, status: Status) -> None:
        """Queue a change of the job's status, likewise."""
        self._admit(0)
        self._status = status
        self._kick()

    def _admit(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self._bound:
            raise self._refusal()
        self._queued += 1

    def _refusal(self) -> Exception:
        return self.refused or RunFailed(
            f"the log has reached its bound of {self._log_bytes} bytes", code="limit_exceeded"
        )

    def _take(self) -> tuple[list[Record], dict[str, Any] | None, Status | None]:
        """What is pending, as far as one append takes it, with offsets: from here on none of it merges any more."""
        if self.bytes - self._taken > BATCH_BYTES:
            pending = self._take_some()
        else:
            pending, self._pending, self._growing = self._pending, [], None
            self._in_flight, self._queued = self._queued, 0
            self._taken = self.bytes
        metadata, self._metadata = self._metadata, None
        status, self._status = self._status, None
        return [item.record(offset) for offset, item in enumerate(pending, self.last + 1)], metadata, status

    def _take_some(self) -> list[_Event | _Delta]:
        """The first of what is pending, of a size that one append may have. The rest may still grow."""
        size = cut = 0
        while cut < len(self._pending) and size < BATCH_BYTES:
            size += self._pending[cut].size
            cut += 1
        taken, self._pending = self._pending[:cut], self._pending[cut:]
        if not self._pending:
            self._growing = None
        # A change of the job is in the first append, but counts with the last: events before it are not done earlier.
        puts = sum(item.puts for item in taken) if self._pending else self._queued
        self._in_flight, self._queued = puts, self._queued - puts
        self._taken += size
        return taken

    def refuse(self, error: Exception) -> None:
        """Take nothing more; what is queued is still written."""
        if self.refused is None:
            self.refused, self._bound = error, -1
        self._release()

    def abandon(self) -> None:
        """Give up on what is queued or under way: it will not get into the log, or nobody can wait for it any more."""
        if self._committer is not None:
            self._committer.cancel()
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
        # Later puts do not count: a busy task of the run would block the other tasks for ever.
        beyond = self._done + self._in_flight + self._queued - self._backlog
        while self._done <= beyond:
            if self.refused is not None:
                raise self.refused
            await self._change()
        if self._broken is not None:
            raise self._broken

    async def flush(self) -> None:
        """Wait until everything that is queued now is in the log. Raises Fenced when it never will be."""
        queued = self._done + self._in_flight + self._queued
        while self._done < queued:
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

    # committing: a task of its own, so that the cancellation of a run never cuts an append in two

    def _kick(self) -> None:
        if not self._entered and self._committer is None:
            self._entered = True
            self._turns.enter(self._begin)

    def _begin(self) -> None:
        self._entered = False
        if not self._queued:  # given up meanwhile
            return
        if self._at_once is None:
            self._committer = asyncio.create_task(self._commit(), name=f"commit {self._key}")
            return
        try:
            batch, metadata, status = self._take()
            self._at_once(self._key, self._epoch, batch, metadata=metadata, status=status)
            self._committed(batch)
        except Exception as error:  # noqa: BLE001
            self._break(error)
        if self._queued:
            self._kick()

    async def _commit(self) -> None:
        try:
            batch, metadata, status = self._take()
            await self._append(batch, metadata, status)
            self._committed(batch)
        except Exception as error:  # noqa: BLE001
            self._break(error)
        finally:
            self._committer = None
            self._release()
        if self._queued:
            self._kick()

    def _committed(self, batch: list[Record]) -> None:
        self._done += self._in_flight
        self._in_flight = 0
        if batch:
            self.last = batch[-1].offset
            self._publish(batch)
        self._release()

    def _forget(self) -> None:
        self._pending.clear()
        self._growing = None
        self._done += self._queued + self._in_flight
        self._queued = self._in_flight = 0

    def _break(self, error: Exception) -> None:
        if isinstance(error, TooLarge):  # the log is as it was, and takes what comes next
            self._forget()
            self.refuse(RunFailed(error.message, code=error.code))
            self._lost(error)
            return
        if not isinstance(error, Fenced | NotFound | Gone):
            # Not foreseen, and so nobody knows what the log holds: the run must not go on as if all were well.
            _log.error("%s: an append failed", self._key, exc_info=error)
        self._forget()
        self._broken = error if isinstance(error, Fenced) else Fenced(str(error))
        self.refuse(self._broken)
        self._lost(error)

    async def _append(self, batch: list[Record], metadata: dict[str, Any] | None, status: Status | None) -> None:
        # The offsets make a repeated append harmless, so an unknown outcome is simply tried again. The store decides
        # when it is too late: another owner, or a seal.
        attempt = 0
        while True:
            try:
                await self._store.append(self._key, self._epoch, batch, metadata=metadata, status=status)
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

        True when something was missing and is there again. Raises StoreUnavailable, and NotFound or Gone where the log
        is lost altogether.
        """
        job = await current(self._store, self._key)
        if job.settled or job.lease.epoch != self._epoch or job.last_offset >= self.last:
            return False
        missing = self._held(job.last_offset)
        if not missing or missing[0].offset != job.last_offset + 1 or missing[-1].offset != self.last:
            return False
        _log.warning("%s: the store has lost records from %d on: written again", self._key, job.last_offset + 1)
        for records in _pieces(missing):
            await self._store.append(self._key, self._epoch, records)
        return True


def _pieces(records: Sequence[Record]) -> Iterator[Sequence[Record]]:
    """Records in groups of a size that one append may have."""
    begin = size = 0
    for at, record in enumerate(records):
        size += len(record.payload)
        if size >= BATCH_BYTES:
            yield records[begin : at + 1]
            begin, size = at + 1, 0
    if begin < len(records):
        yield records[begin:]
