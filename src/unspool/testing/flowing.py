"""A parked viewer as something to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unspool.lanes import Encoder
from unspool.viewer import Viewer


async def flow(viewer: Viewer, encode: Encoder, write: Callable[[bytes], bool]) -> None:
    """Park it, and wait until something else is due. What `write` raises is raised here."""
    woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(error: Exception | None) -> None:
        if woken.done():
            return
        if error is None:
            woken.set_result(None)
        else:
            woken.set_exception(error)

    if viewer.park(encode, write, wake):
        await woken
