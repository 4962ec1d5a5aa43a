"""Hints between the managers of one process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unspool.jobs import GenerationKey
from unspool.protocols import Hint


class MemoryTransport:
    """Hands each hint to every other channel that watches its generation, on the next turn of the loop."""

    def __init__(self) -> None:
        self._channels: dict[MemoryChannel, None] = {}  # told in the order in which they came

    async def connect(self, replica: str, deliver: Callable[[Hint], None]) -> MemoryChannel:
        channel = MemoryChannel(self._channels, deliver)
        self._channels[channel] = None
        return channel


class MemoryChannel:
    """One manager's end."""

    def __init__(self, channels: dict[MemoryChannel, None], deliver: Callable[[Hint], None]) -> None:
        self._channels = channels
        self._deliver = deliver
        self._watched: set[GenerationKey] = set()

    def watch(self, key: GenerationKey, *, local: bool = False) -> None:
        self._watched.add(key)

    def unwatch(self, key: GenerationKey) -> None:
        self._watched.discard(key)

    def publish(self, hint: Hint) -> None:
        if len(self._channels) == 1:
            return
        soon = asyncio.get_running_loop().call_soon
        for channel in self._channels:
            if channel is not self and hint.key in channel._watched:
                soon(channel._deliver, hint)

    async def close(self) -> None:
        self._channels.pop(self, None)
