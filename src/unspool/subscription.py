"""Following with callbacks instead of iteration."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

from unspool.errors import UnspoolError, ViewerReleased
from unspool.events import FAILED, Record
from unspool.viewer import Viewer

_log = logging.getLogger("unspool")
Callback = Callable[[Record], object]


class Subscription:
    """A viewer whose records go to callbacks, plain or async, one after the other."""

    def __init__(
        self, viewer: Viewer, on_record: Callback, on_done: Callback | None, on_error: Callback | None
    ) -> None:
        self._viewer = viewer
        self._on_record = on_record
        self._on_done = on_done
        self._on_error = on_error
        self._cancelled = False
        self._task = asyncio.create_task(self._deliver(), name=f"subscription {viewer.tail.key}")

    def __repr__(self) -> str:
        return f"<Subscription {self._viewer!r}>"

    def cancel(self) -> None:
        """Stop. Idempotent; no callback is called after it."""
        self._cancelled = True
        self._viewer.close()

    async def wait(self) -> None:
        """Wait until the subscription is over: the terminal record was delivered, or it was cancelled."""
        await asyncio.shield(self._task)

    async def _deliver(self) -> None:
        try:
            async for record in self._viewer:
                for callback in self._callbacks(record):
                    if self._cancelled:
                        return
                    await self._call(callback, record)
        except ViewerReleased:
            _log.info("%r was released", self)
        except UnspoolError:
            _log.exception("%r ended", self)
        finally:
            self._viewer.close()

    def _callbacks(self, record: Record) -> list[Callback]:
        if not record.terminal:
            return [self._on_record]
        last = self._on_error if record.type == FAILED else self._on_done
        return [last] if last is not None else []

    async def _call(self, callback: Callback, record: Record) -> None:
        try:
            answer = callback(record)
            if inspect.isawaitable(answer):
                await answer
        except Exception:  # noqa: BLE001  (logged; the next record comes all the same)
            _log.exception("%r: a callback failed on record %d", self, record.offset)
