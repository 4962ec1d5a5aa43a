"""The world of a run: the servers, the replicas with their cables, and when something was in trouble."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.books import Books, opened
from tests.chaos.owners import Absences
from tests.chaos.report import Fault, Report
from tests.chaos.settings import Settings
from tests.chaos.stores import Store, running
from tests.chaos.versions import extracted
from tests.integration.redis.processes import ROOT, Replica
from unspool.backends.redis import RedisStore, from_url
from unspool.testing.proxy import Faults, Proxy

_START = 60.0


class Node:
    """A place for a replica: one process after the other, each behind a proxy that cuts its clients at random.

    `other`: its processes run the other version.
    """

    def __init__(self, world: World, number: int, *, other: bool = False) -> None:
        self.letter = "abcdefghijklmnop"[number]
        self.other = other
        self.busy = False
        self.replica: Replica | None = None
        self.cable: Proxy | None = None
        self.front: Proxy | None = None
        self.killed = 0.0
        self.baseline: dict[str, Any] = {}
        self._world = world
        self._lives = 0
        self._root = world.other if other else ROOT
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
                replica = Replica(
                    f"{url}?timeout=1", self.process, heartbeat=2.0, log=log, root=self._root,
                    ledger=world.books.url if world.books is not None else None, ledger_options=world.settings.books,
                    **world.options,
                )  # fmt: skip
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
            self._world.absences.died(self.process)
            replica.kill()
        await self._gone()

    async def leave(self) -> int:
        """Ask it to end, and wait until it has; its exit code."""
        replica, self.replica = self.replica, None
        assert replica is not None
        self._world.absences.died(self.process)
        replica.terminate()
        code = await replica.ended()
        await self._gone()
        return code

    async def close(self) -> None:
        await self.kill()
        await self._stack.aclose()


class World:
    """Everything there is. `truth`: the store, past every replica. `books`: the ledger, where there is one. `other`: a
    checkout of another version. `newcomer`: a place for replicas that come in the middle of trouble. `absences`: which
    processes were away, and when. `over`: no new troubles and no new turns."""

    def __init__(
        self, settings: Settings, report: Report, store: Store, truth: RedisStore, books: Books | None, other: Path
    ) -> None:
        self.settings = settings
        self.report = report
        self.store = store
        self.truth = truth
        self.books = books
        self.other = other
        self.options = settings.options(steps=store.clock is not None)
        self.absences = Absences()
        self.over = asyncio.Event()
        self.draw = Random(settings.seed)
        self.nodes = [
            Node(self, number, other=settings.mixed and number % 2 == 1) for number in range(settings.replicas)
        ]
        self.newcomer = Node(self, settings.replicas)
        self._troubles: list[tuple[float, float]] = []
        self._open: dict[object, float] = {}

    @property
    def everyone(self) -> list[Node]:
        return [*self.nodes, self.newcomer]

    @contextmanager
    def trouble(self, node: Node | None) -> Generator[None]:
        """Something is wrong meanwhile, with a node or (None) with the store: no promise about times holds."""
        mark, process = object(), node.process if node is not None else None
        self._open[mark] = time.monotonic()
        if process is not None:
            self.absences.add(process, time.monotonic(), math.inf)  # until it is over
        try:
            yield
        finally:
            span = self._open.pop(mark), time.monotonic()
            self._troubles.append(span)
            if process is not None:
                self.absences.returned(process, span[1])

    def troubled(self, begin: float, end: float) -> float:
        """For how many seconds something was wrong between two moments, and for a lease after it: owners that could not
        renew come first then."""
        now, lease = time.monotonic(), self.settings.lease
        spans = [*self._troubles, *((since, now) for since in self._open.values())]
        return sum(max(0.0, min(end, last + lease) - max(begin, first)) for first, last in spans)

    def alive(self) -> list[Node]:
        """Nodes whose process answers clients."""
        return [node for node in self.everyone if node.front is not None]

    def emptied_since(self, moment: float) -> bool:
        """Whether the store has lost everything since then."""
        return any(back > moment for back in self.store.emptied)


@asynccontextmanager
async def made(settings: Settings, report: Report) -> AsyncGenerator[World]:
    """A world with all of its replicas."""
    async with running(settings, report) as store, opened(settings, report) as books:
        truth, _ = from_url(store.url, retention=settings.kept(steps=store.clock is not None))
        await truth.open()
        other = extracted(settings.other, report.folder / "other") if settings.mixed else ROOT
        world = World(settings, report, store, truth, books, other)
        world.absences.own.watch()
        try:
            await asyncio.gather(*(node.start() for node in world.nodes))
            yield world
        finally:
            await asyncio.gather(*(node.close() for node in world.everyone))
            await truth.close()
