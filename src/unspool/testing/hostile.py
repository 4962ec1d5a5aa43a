"""A transport that loses, delays, doubles and reorders hints; no viewer may notice more than a delay."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Final

from unspool.errors import InvalidArgument
from unspool.jobs import GenerationKey
from unspool.protocols import Channel, EventTransport, Hint

_COUNTED: Final = ("received", "dropped", "delayed", "doubled", "reordered", "delivered")


class HostileTransport:
    """Wraps a transport and mistreats what it delivers, the same way for the same seed.

    `drop`, `double`, `reorder`: the share of hints that is lost, comes twice, or comes after the one that follows it.
    `delay`: seconds that a hint may be late, at most. Raises InvalidArgument for a share that is none.
    """

    def __init__(
        self,
        inner: EventTransport,
        *,
        seed: int,
        drop: float = 0.3,
        delay: float = 0.005,
        double: float = 0.2,
        reorder: float = 0.2,
    ) -> None:
        for name, share in (("drop", drop), ("double", double), ("reorder", reorder)):
            if not 0 <= share <= 1:
                raise InvalidArgument(f"{name} is a share from 0 to 1, not {share}")
        if delay < 0:
            raise InvalidArgument(f"delay must be 0 seconds or more, not {delay}")
        self._inner = inner
        self._seed = seed
        self._drop = drop
        self._delay = delay
        self._double = double
        self._reorder = reorder
        self._random = Random(seed)
        self._counts: dict[str, int] = dict.fromkeys(_COUNTED, 0)

    def __repr__(self) -> str:
        return f"<HostileTransport seed={self._seed} {self._counts}>"

    def statistics(self) -> dict[str, int]:
        """How many hints came in, what became of them, and how many were handed on."""
        return dict(self._counts)

    async def connect(self, replica: str, deliver: Callable[[Hint], None]) -> HostileChannel:
        channel = HostileChannel(self, deliver)
        channel.inner = await self._inner.connect(replica, channel.receive)
        return channel

    # the dice, in one place

    def _chance(self, share: float, name: str) -> bool:
        happened = self._random.random() < share
        if happened:
            self._counts[name] += 1
        return happened

    def _count(self, name: str) -> None:
        self._counts[name] += 1

    def _pause(self) -> float:
        return self._random.random() * self._delay


class HostileChannel:
    """One replica's end. It delays by a timer of the loop, so that a virtual clock drives it as well."""

    inner: Channel

    def __init__(self, transport: HostileTransport, deliver: Callable[[Hint], None]) -> None:
        self._transport = transport
        self._deliver = deliver
        self._held: list[Hint] = []  # waiting to be overtaken by the next one
        self._timers: set[asyncio.TimerHandle] = set()
        self._closed = False

    def receive(self, hint: Hint) -> None:
        """Take a hint from the transport inside, and do one's worst."""
        transport = self._transport
        transport._count("received")
        if transport._chance(transport._drop, "dropped"):
            return
        if transport._chance(transport._double, "doubled"):
            self._late(hint)
        if transport._chance(transport._reorder, "reordered"):
            self._held.append(hint)
            return
        held, self._held = self._held, []
        if transport._chance(0.5 if transport._delay else 0.0, "delayed"):
            self._late(hint)
        else:
            self._hand_on(hint)
        for overtaken in held:
            self._hand_on(overtaken)

    def _late(self, hint: Hint) -> None:
        def due() -> None:
            self._timers.discard(timer)
            self._hand_on(hint)

        timer = asyncio.get_running_loop().call_later(self._transport._pause(), due)
        self._timers.add(timer)

    def _hand_on(self, hint: Hint) -> None:
        if not self._closed:
            self._transport._count("delivered")
            self._deliver(hint)

    def watch(self, key: GenerationKey, *, local: bool = False) -> None:
        self.inner.watch(key, local=local)

    def unwatch(self, key: GenerationKey) -> None:
        self.inner.unwatch(key)

    def publish(self, hint: Hint) -> None:
        self.inner.publish(hint)

    async def close(self) -> None:
        self._closed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        await self.inner.close()
