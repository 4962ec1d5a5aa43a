"""The ways between replicas, their store and each other: slow, cut, or failing when nobody can tell what was done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from random import Random
from typing import Any, Final

from unspool.errors import StoreUnavailable
from unspool.jobs import GenerationKey
from unspool.protocols import Channel, EventTransport, Hint, JobStore
from unspool.testing.simulation.loop import Domain, SimLoop

_TIMEOUT: Final = 0.3
"""Seconds, at most, after which a call that gets no answer is given up."""


class Network:
    """The state of the ways. `down`: the store is away for everybody; `flaky`: the share of calls that fails."""

    def __init__(self, loop: SimLoop, random: Random, *, slow_calls: float, latency: float) -> None:
        self.loop = loop
        self.random = random
        self.slow_calls = slow_calls
        self.latency = latency
        self.down = False
        self.flaky = 0.0
        self.domain = loop.domain("store")
        """Where calls under way are carried out: they go on when whoever made them is frozen or dead."""


_AMBUSHES: Final = {
    "create": 0.02, "append": 0.004, "renew": 0.005, "request_abort": 0.02, "seal": 0.1, "take_over": 0.5,
}  # fmt: skip
"""Calls during which misfortune likes to strike, and the share of them: between the steps that must not be torn."""


class StoreLink:
    """One replica's way to the store. `cut`: nothing gets through, neither calls nor their answers.

    `strike` brings misfortune upon the replica, in the middle of a call, which is carried out all the same: some time
    within the seconds that it answers. None: it is spared. `stuck`: how many such calls are under way;
    `unstuck_at`: when the last one was over, in the loop's time.
    """

    def __init__(self, network: Network, store: JobStore, strike: Callable[[], float] | None) -> None:
        self.kind = store.kind
        self.passed_over = store.passed_over
        self.cut = False
        self.stuck = 0
        self.unstuck_at = 0.0
        self._network = network
        self._store = store
        self._strike = strike
        self._random = network.random.random

    def as_store(self) -> JobStore:
        return self  # pyright: ignore[reportReturnType]  (its verbs are those of the store, see below)

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        network = self._network
        if self.cut or network.down or network.flaky:
            await self._maybe_fail(name)
        latency = network.latency if self._random() < network.slow_calls else None
        if self._strike is not None and name in _AMBUSHES and self._random() < _AMBUSHES[name]:
            return await self._stuck(self._strike(), name, args, kwargs)
        if latency is None:
            answer = await getattr(self._store, name)(*args, **kwargs)
        else:
            answer = await self._over_there(latency, name, args, kwargs)
        if self.cut or network.down or network.flaky:
            await self._maybe_fail(name)
        return answer

    async def _stuck(self, latency: float, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.stuck += 1
        try:
            answer = await self._over_there(latency, name, args, kwargs)
        finally:
            self.stuck -= 1
            self.unstuck_at = self._network.loop.time()
        if self.cut or self._network.down:
            await self._maybe_fail(name)
        return answer

    async def _over_there(self, latency: float, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        network = self._network
        slow = network.loop.create_task(self._slowly(latency, name, args, kwargs), context=network.domain.context)
        try:
            return await asyncio.shield(slow)  # whoever is cancelled while waiting cannot call it back
        except asyncio.CancelledError:
            slow.add_done_callback(_consume)
            raise

    async def _slowly(self, latency: float, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        await asyncio.sleep(self._random() * latency)
        answer = await getattr(self._store, name)(*args, **kwargs)
        await asyncio.sleep(self._random() * self._network.latency)
        return answer

    async def _maybe_fail(self, name: str) -> None:
        network = self._network
        if not self.cut and not network.down and self._random() >= network.flaky:
            return
        if self._random() < 0.5:
            await asyncio.sleep(self._random() * _TIMEOUT)
        raise StoreUnavailable(f"{name} got no answer")

    async def open(self) -> None:
        await self._store.open()

    async def close(self) -> None:
        await self._store.close()


def _consume(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _verb(name: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: StoreLink, *args: Any, **kwargs: Any) -> Any:
        return await self._call(name, args, kwargs)

    call.__name__ = name
    return call


for _name in (
    "active", "append", "checkpoint", "counts", "create", "delete", "delete_expired", "expired", "get", "jobs",
    "mark_synced", "ping", "read", "renew", "request_abort", "save_checkpoint", "seal", "take_over", "trim", "update",
):  # fmt: skip
    setattr(StoreLink, _name, _verb(_name))


class Wire:
    """One replica's way to the hints of the others: an EventTransport around theirs. `cut`: silent, both ways."""

    def __init__(self, loop: SimLoop, domain: Domain, inner: EventTransport) -> None:
        self.cut = False
        self.channels: list[WireChannel] = []
        self._loop = loop
        self._domain = domain
        self._inner = inner

    async def connect(self, replica: str, deliver: Callable[[Hint], None]) -> WireChannel:
        channel = WireChannel(self, deliver, copy_context())
        channel.inner = await self._inner.connect(replica, channel.receive)
        self.channels.append(channel)
        return channel

    def _arrive(self, deliver: Callable[[Hint], None], hint: Hint, context: Context) -> None:
        if not self.cut and not self._domain.dead:
            self._loop.call_soon(deliver, hint, context=context)


class WireChannel:
    """One replica's end. What arrives is handed over in the replica's own domain."""

    inner: Channel

    def __init__(self, wire: Wire, deliver: Callable[[Hint], None], context: Context) -> None:
        self._wire = wire
        self._deliver = deliver
        self._context = context

    def receive(self, hint: Hint) -> None:
        self._wire._arrive(self._deliver, hint, self._context)

    def watch(self, key: GenerationKey, *, local: bool = False) -> None:
        self.inner.watch(key, local=local)

    def unwatch(self, key: GenerationKey) -> None:
        self.inner.unwatch(key)

    def publish(self, hint: Hint) -> None:
        if not self._wire.cut:
            self.inner.publish(hint)

    async def close(self) -> None:
        await self.inner.close()
