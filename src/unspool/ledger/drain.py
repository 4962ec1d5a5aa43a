"""Reading of a provider's stream to its end after its reader has left, for the usage that comes last."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import Any, Generic, TypeVar

from unspool.ledger.owned import OwnedTasks

T = TypeVar("T")


class Pump(Generic[T]):
    """Reads a stream in one task from its beginning to its end, one chunk ahead of its reader, and on when that has
    left."""

    def __init__(
        self, stream: AsyncIterable[T], observe: Callable[[object], None], tasks: OwnedTasks, bound: int
    ) -> None:
        self._stream = stream
        self._observe = observe
        self._bound = bound
        self._queue: asyncio.Queue[tuple[T] | None] = asyncio.Queue(1)
        self._left = False
        self._error: BaseException | None = None
        self._task = tasks.spawn(self._run())

    async def chunks(self) -> AsyncGenerator[T, None]:
        """Yield the chunks of the stream. Raises what it raises."""
        while (chunk := await self._queue.get()) is not None:
            yield chunk[0]
        if self._error is not None:
            raise self._error

    async def finish(self, seconds: float) -> bool:
        """The reader has left: read on for so long at most, then stop the stream. Whether it came to its end."""
        self._left = True
        while not self._queue.empty():
            self._queue.get_nowait()  # the pump may be waiting for a place
        await asyncio.wait({self._task}, timeout=seconds)
        self._task.cancel()
        await asyncio.wait({self._task})
        return not self._task.cancelled() and self._error is None and self._bound > 0

    async def _run(self) -> None:
        try:
            async for chunk in self._stream:
                self._observe(chunk)
                if not self._left:
                    await self._queue.put((chunk,))
                    continue
                self._bound -= 1
                if self._bound <= 0:
                    break
        except Exception as error:  # noqa: BLE001  (raised again in the reader)
            self._error = error
        finally:
            await _close(self._stream)
        if not self._left:
            await self._queue.put(None)


async def _close(stream: Any) -> None:
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    if callable(close) and inspect.isawaitable(closing := close()):
        await closing
