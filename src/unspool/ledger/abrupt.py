"""The driver's connection, without its patience."""

from __future__ import annotations

import asyncio

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

InternalClientError = asyncpg.InternalClientError


class AbruptConnection(asyncpg.Connection):
    """A connection that is closed without a word: to part from a server that hangs, the driver would wait for it."""

    async def close(self, *, timeout: float | None = None) -> None:
        self.terminate()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn
