"""One subscription to a log: a position, and what comes after it, in order, each once.

Replay and live are the same read: as long as the tail holds what comes next it is taken from there, else from the
store by range; only when there is nothing does a viewer wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Final

from unspool.errors import Gone, StoreUnavailable, ViewerReleased
from unspool.events import Record
from unspool.lanes import PIECE, Encoder, encoded
from unspool.projection import Projector
from unspool.tail import Tail

_PAUSE: Final = 0.5
"""Seconds between two looks at a store that is away: a viewer stays, and goes on when it is back."""


Woken = Callable[[Exception | None], None]


class End(StrEnum):
    """How a subscription ended."""

    FINISHED = "finished"
    """The terminal record was delivered."""
    CLOSED = "closed"
    """The viewer left."""
    RELEASED = "released"
    """The replica lets its viewers go; there is more to come, elsewhere."""


class Viewer:
    """A subscription. `position` is the offset of the last record that was delivered; `end` is None while it lasts.

    Iterate over it for records, or call `records` or `frames` for all that is pending at once. An async context
    manager; leaving it, or `close`, detaches it: idempotent, and nothing is delivered afterwards.
    """

    __slots__ = (
        "_detach",
        "_encode",
        "_poked",
        "_sync",
        "_sync_reason",
        "_waiter",
        "_woken",
        "_write",
        "end",
        "position",
        "tail",
    )

    def __init__(self, tail: Tail, after: int, *, snapshot: bool, detach: Callable[[Viewer], None]) -> None:
        self.tail = tail
        self._detach = detach
        self._sync = snapshot  # what this viewer gets next is a snapshot
        self._sync_reason: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._poked = False
        self._encode: Encoder | None = None  # all three while it is parked
        self._write: Callable[[bytes], bool] | None = None
        self._woken: Woken | None = None
        self.position = after
        self.end: End | None = None

    def __repr__(self) -> str:
        return f"<Viewer {self.tail.key} position={self.position} end={self.end}>"

    async def __aenter__(self) -> Viewer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aiter__(self) -> AsyncGenerator[Record, None]:
        while True:
            records = await self.records()
            if records is None:
                return
            for record in records:
                if self.end is End.CLOSED:
                    return
                yield record

    @property
    def generation(self) -> int:
        return self.tail.key.generation

    async def records(self) -> Sequence[Record] | None:
        """Wait for what comes next: at least one record, unless the viewer was poked; None after the end.

        Raises ViewerReleased when the replica lets its viewers go.
        """
        while self._open():
            try:
                if self._sync:
                    found = await self._snapshot()
                    if found is not None:
                        return [found]
                    continue
                held = self.tail.slice(self.position)
                if held is None:
                    held = await self._page(self.position)
                    if held is None:
                        continue
            except StoreUnavailable:
                if await self._wait(_PAUSE):
                    continue
                return ()
            if held:
                self.position = held[-1].offset
                if shown := [record for record in held if not record.internal]:
                    return shown
            elif not await self._wait():
                return ()
        return None

    async def frames(self, encode: Encoder) -> bytes | None:
        """The same as bytes of a dialect, all pending frames in one piece; empty when poked, None after the end."""
        while self._open():
            try:
                if self._sync:
                    found = await self._snapshot()
                    if found is not None:
                        return self.tail.sync_frame(encode, found)
                    continue
                joined = self.tail.joined(encode, self.position) or await self._older(encode)
            except StoreUnavailable:
                if await self._wait(_PAUSE):
                    continue
                return b""
            if joined is None:
                continue
            data, reached = joined
            if reached > self.position:
                self.position = reached
                if data:
                    return data
            elif not await self._wait():
                return b""
        return None

    def park(self, encode: Encoder, write: Callable[[bytes], bool], woken: Woken) -> bool:
        """Hand what comes to `write` in the very step in which it is there, as long as nothing else is due than held
        frames and `write` takes them: nobody need wait meanwhile, and no task is there for it.

        `woken` is called once, when that is over: call `frames`, which misses nothing. It gets what `write` raised.
        False when it is over at once: then `woken` is not called.
        """
        self._encode, self._write = encode, write
        if not self._flows():
            self._encode = self._write = None
            return False
        self._woken = woken
        if self.tail.held < self.tail.last:
            self.tail.repair_soon()
        return True

    def changed(self) -> None:
        if self._woken is not None:
            try:
                if self._flows():
                    return
            except Exception as error:  # noqa: BLE001
                # It belongs to this viewer, never to the run that has just written.
                self._wake(error)
                return
        self._wake()

    def _wake(self, error: Exception | None = None) -> None:
        woken, self._woken = self._woken, None
        if woken is not None:
            self._encode = self._write = None
            woken(error)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def rewound(self, to: int) -> None:
        if self.position > to:
            self._sync, self._sync_reason = True, "rewound"

    def _flows(self) -> bool:
        """Hand over what is held; False when that is not all there is to do."""
        encode, write, tail = self._encode, self._write, self.tail
        if encode is None or write is None or self.end is not None or self._sync or tail.gone is not None:
            return False
        joined = tail.joined(encode, self.position)
        if joined is None:
            return False
        data, reached = joined
        if data and not write(data):
            return False
        self.position = reached
        return reached == tail.held and not tail.sealed

    def _open(self) -> bool:
        """Whether there is more to come; settles `end`."""
        if self.end is None and not self._sync and self.tail.ended_at(self.position):
            self._leave(End.FINISHED)
        if self.end is End.RELEASED:
            raise ViewerReleased(generation=self.generation, offset=self.position)
        return self.end is None

    async def _snapshot(self) -> Record | None:
        """The snapshot, where it is due: asked for at the beginning, or the position was trimmed."""
        record = await self.tail.sync(self._sync_reason)
        await self.tail.mark_synced()
        if self.end is not None:
            return None
        if self._sync_reason == "trimmed" and record.offset <= self.position:
            self.close()
            raise Gone("what was trimmed is in no checkpoint: the beginning of this log is lost")
        # No pause from here to the caller: a handshake that was cut off before has consumed nothing.
        self._sync = False
        self.position = record.offset
        return record

    async def _older(self, encode: Encoder) -> tuple[bytes, int] | None:
        """Frames of records older than what is encoded for all, in a piece of bounded size; None to look anew."""
        if isinstance(encode, Projector):  # it may have to go through what this viewer got from others' frames
            after = encode.projection.offset
            page = self.tail.slice(after) or await self._page(after)
        else:
            page = await self._page(self.position)
        if page is None:
            return None
        frames: list[bytes] = []
        size, reached = 0, self.position
        for record in page:
            frame = encoded(encode, self.tail.key, record)
            if record.offset > reached:
                frames.append(frame)
                size, reached = size + len(frame), record.offset
            if size >= PIECE:
                break
        return (b"".join(frames), reached) if reached > self.position else None

    async def _page(self, after: int) -> Sequence[Record] | None:
        """Records older than what the tail holds; None when something changed and must be looked at anew."""
        page = await self.tail.read(after)
        if self.end is not None:
            return None
        if page.first_offset > after + 1:
            self._sync, self._sync_reason = True, "trimmed"
            return None
        if not page.records:
            await self._wait()  # the store is behind what was announced; the tail will tell
        return page.records or None

    async def _wait(self, seconds: float | None = None) -> bool:
        """Wait until something changed, for so many seconds at most; False when the viewer was poked."""
        if self.tail.gone is not None:
            self.close()
            raise self.tail.gone
        if self.tail.held < self.tail.last:
            self.tail.repair_soon()
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self._over, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()
        poked, self._poked = self._poked, False
        return not poked

    @staticmethod
    def _over(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    def poke(self) -> None:
        """Make a waiting viewer return with nothing: for heart-beats."""
        if self._woken is None:
            self._poked = self._waiter is not None and not self._waiter.done()
        self._wake()

    def _leave(self, end: End) -> None:
        self.end = end
        self._detach(self)
        self._wake()

    def close(self) -> None:
        """Detach. Idempotent; whoever waits in `records` gets None."""
        if self.end is None:
            self._leave(End.CLOSED)

    def release(self) -> None:
        """Let the viewer go without an end: whoever waits gets ViewerReleased, and follows again elsewhere."""
        if self.end is None:
            ended = not self._sync and self.tail.ended_at(self.position)
            self._leave(End.FINISHED if ended else End.RELEASED)
