"""The world of a run: the servers, the replicas with their cables, and when something was in trouble."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from random import Random
from typing import Any

from tests.chaos.report import Fault, Report
from tests.chaos.settings import Settings
from tests.chaos.stores import Store, running
from tests.integration.redis.processes import Replica
from unspool.backends.redis import RedisStore, from_url
from unspool.testing.proxy import Faults, Proxy

_START = 60.0


class Node:
    """A place for a replica: one process after the other, each behind a proxy that cuts its clients at random."""

    def __init__(self, world: World, number: int) -> None:
        self.letter = "abcdefgh"[number]
        self.busy = False
        self.replica: Replica | None = None
        self.cable: Proxy | None = None
        self.front: Proxy | None = None
        self.killed = 0.0
        self.baseline: dict[str, Any] = {}
        self._world = world
        self._lives = 0
        self._stack = AsyncExitStack()

    @property
    def process(self) -> str:
        """The name of the process that runs now, or ran last: no two have the same."""
        return f"{self.letter}{self._lives}"

    async def start(self) -> None:
        """Start the next process, and wait until it answers; while the store is away that takes a few."""
        world = self._world
        url = world.store.url
        if world.store.cable_port is not None and self.cable is None:
            self.cable = await self._stack.enter_async_context(Proxy(world.store.cable_port))
        if self.cable is not None:
            url = f"redis://127.0.0.1:{self.cable.port}"
        until = time.monotonic() + _START
        while True:
            self._lives += 1
            with (world.report.folder / f"{self.process}.log").open("w") as log:  # the process has its own end of it
                replica = Replica(f"{url}?timeout=1", self.process, heartbeat=2.0, log=log, **world.settings.options)
            try:
                await replica.ready()
                break
            except AssertionError as error:  # it found no store
                replica.kill()
                if time.monotonic() > until:
                    raise Fault(f"{self.process} does not start; its log is in {world.report.folder}") from error
                await asyncio.sleep(0.2)
        seed = world.draw.randrange(2**32)
        self.front = Proxy(replica.port, Faults(seed=seed, cut_after=(2_000, 200_000), split=True))
        await self.front.__aenter__()
        if not self.baseline:
            self.baseline = await replica.census()
        self.replica = replica

    async def _gone(self) -> None:
        front, self.front = self.front, None
        if front is not None:
            self._world.report.counts["cut by the network"] += front.cuts
            await front.__aexit__(None, None, None)

    async def kill(self) -> None:
        """End it as `kill -9` does."""
        replica, self.replica = self.replica, None
        self.killed = time.monotonic()
        if replica is not None:
            replica.kill()
        await self._gone()

    async def leave(self) -> int:
        """Ask it to end, and wait until it has; its exit code."""
        replica, self.replica = self.replica, None
        assert replica is not None
        replica.terminate()
        code = await replica.ended()
        await self._gone()
        return code

    async def close(self) -> None:
        await self.kill()
        await self._stack.aclose()


class World:
    """Everything there is. `truth`: the store, past every replica. `over`: no new troubles and no new turns."""

    def __init__(self, settings: Settings, report: Report, store: Store, truth: RedisStore) -> None:
        self.settings = settings
        self.report = report
        self.store = store
        self.truth = truth
        self.over = asyncio.Event()
        self.draw = Random(settings.seed)
        self.nodes = [Node(self, number) for number in range(settings.replicas)]
        self._troubles: list[tuple[float, float]] = []
        self._open: dict[object, float] = {}

    @contextmanager
    def trouble(self, node: Node | None) -> Generator[None]:
        """Something is wrong meanwhile, with a node or (None) with the store: no promise about times holds."""
        mark = object()
        self._open[mark] = time.monotonic()
        try:
            yield
        finally:
            self._troubles.append((self._open.pop(mark), time.monotonic()))

    def troubled(self, begin: float, end: float) -> float:
        """For how many seconds something was wrong between two moments, and for a lease after it: owners that could not
        renew come first then."""
        now, lease = time.monotonic(), self.settings.lease
        spans = [*self._troubles, *((since, now) for since in self._open.values())]
        return sum(max(0.0, min(end, last + lease) - max(begin, first)) for first, last in spans)

    def alive(self) -> list[Node]:
        """Nodes whose process answers clients."""
        return [node for node in self.nodes if node.front is not None]


@asynccontextmanager
async def made(settings: Settings, report: Report) -> AsyncGenerator[World]:
    """A world with all of its replicas."""
    async with running(settings.topology, report.folder) as store:
        truth, _ = from_url(store.url, retention=settings.retention)
        await truth.open()
        world = World(settings, report, store, truth)
        try:
            await asyncio.gather(*(node.start() for node in world.nodes))
            yield world
        finally:
            await asyncio.gather(*(node.close() for node in world.nodes))
            await truth.close()
