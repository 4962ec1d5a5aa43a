"""The trouble: processes killed, frozen, drained, cut off, and new ones in the midst of it; servers restarted, emptied,
frozen, failed over, with clocks that step; a ledger that is away. From a seed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TypeVar

from tests.chaos.report import Fault
from tests.chaos.streams import User
from tests.chaos.world import Node, World
from unspool.errors import StoreUnavailable

T = TypeVar("T")


class Troublemaker:
    """Makes trouble until the world is over, and puts everything right again."""

    def __init__(self, world: World, users: Sequence[User], draw: Random) -> None:
        self._world = world
        self._users = users
        self._draw = draw
        self._under_way: set[asyncio.Task[None]] = set()
        self._servers_in_trouble: set[str] = set()
        for_nodes: list[tuple[int, str, Callable[[Node], Awaitable[str]]]] = [
            (12, "killed", self._kill), (4, "frozen", self._freeze), (2, "drained", self._drain),
            (3, "cable cut", self._cut), (3, "cable pulled", self._pull),
        ]  # fmt: skip
        self._for_nodes = [trouble for trouble in for_nodes if trouble[1] not in world.settings.without]

    async def run(self) -> None:
        world = self._world
        while not world.over.is_set():
            await asyncio.sleep(self._draw.expovariate(1 / world.settings.trouble))
            for task in [task for task in self._under_way if task.done()]:
                self._under_way.remove(task)
                task.result()
            self._under_way.add(asyncio.create_task(self._make()))
        await asyncio.gather(*self._under_way)

    async def _make(self) -> None:
        draw, books = self._draw, self._world.books
        # One thing at a time for each node, for the store and for the ledger; and a node is always left to take over.
        idle = [node for node in self._world.nodes if not node.busy]
        kind = draw.random()
        if kind < 0.25 and "store" not in self._servers_in_trouble:
            await self._trouble_store()
        elif kind < 0.35 and books is not None and "ledger" not in self._servers_in_trouble:
            self._servers_in_trouble.add("ledger")
            _, name, trouble = _pick(draw, books.troubles)
            self._world.report.note(f"{name} …")
            try:  # no trouble for promises about time: none of them depends on a ledger
                told = await trouble(Random(draw.random()))
            finally:
                self._servers_in_trouble.discard("ledger")
            self._done(name, told)
        elif len(idle) > 1:
            node = draw.choice(idle)
            troubles = [entry for entry in self._for_nodes if node.cable is not None or "cable" not in entry[1]]
            _, name, do = _pick(draw, troubles)
            process = node.process
            self._world.report.note(f"{process} {name} …")
            node.busy = True
            try:
                told = await do(node)
            finally:
                node.busy = False
            self._done(name, f"{process} {told}")

    async def _trouble_store(self) -> None:
        draw, world = self._draw, self._world
        self._servers_in_trouble.add("store")
        _, name, trouble = _pick(draw, world.store.troubles)
        world.report.note(f"{name} …")
        if draw.random() < 0.5 and not world.newcomer.busy and "newcomer" not in world.settings.without:
            world.newcomer.busy = True
            self._under_way.add(asyncio.create_task(self._join(world.newcomer)))
        try:
            with world.trouble(None):
                told = await trouble(Random(draw.random()))
        finally:
            self._servers_in_trouble.discard("store")
        self._done(name, told)

    async def _join(self, node: Node) -> None:
        """A replica begins while the store is in trouble or just back, takes part, and leaves or is killed."""
        draw, lease = self._draw, self._world.settings.lease
        try:
            await asyncio.sleep(draw.uniform(0.0, 2.0))
            await node.start()
            process = node.process
            self._done("newcomer", process)
            await asyncio.sleep(draw.uniform(0.5, 3.0) * lease)
            if draw.random() < 0.5:
                self._world.report.note(f"{process}: {await self._end(node)}")
                return
            code = await node.leave()
            if code != 0:
                raise Fault(f"{process} ended with {code} when it was told to end")
            self._world.report.note(f"{process} has left")
        finally:
            node.busy = False

    def _done(self, name: str, told: str) -> None:
        self._world.report.counts[f"trouble: {name}"] += 1
        self._world.report.note(f"{name}: {told}")

    async def _kill(self, node: Node) -> str:
        told = await self._end(node)
        await asyncio.sleep(self._draw.uniform(0.0, 1.5))
        await node.start()
        return told

    async def _end(self, node: Node) -> str:
        """Kill a process, and remember what it owned."""
        try:
            jobs = await self._world.truth.jobs(None, None, 10_000)
        except StoreUnavailable:
            jobs = []
        if node.replica is None:
            return "was dead already"
        owned = {str(job.key) for job in jobs if job.lease.replica == node.process and not job.settled}
        await node.kill()
        for user in self._users:
            for turn in user.turns[-2:]:
                if str(turn) in owned:
                    turn.kills.append(node.killed)
        return f"killed, owning {sorted(owned)}"

    async def _freeze(self, node: Node) -> str:
        assert node.replica is not None
        seconds = self._draw.uniform(0.1, 2.0) * self._world.settings.lease
        with self._world.trouble(node):
            node.replica.freeze()
            try:
                await asyncio.sleep(seconds)
            finally:
                node.replica.thaw()
        return f"for {seconds:.1f} s"

    async def _drain(self, node: Node) -> str:
        with self._world.trouble(node):
            code = await node.leave()
            if code != 0:
                raise Fault(f"{node.process} ended with {code} when it was told to end")
            await node.start()
        return ""

    async def _cut(self, node: Node) -> str:
        """All connections between a replica and the store break; new ones are refused for a while, or not at all."""
        assert node.cable is not None
        seconds = self._draw.choice((0.0, self._draw.uniform(0.0, 1.5) * self._world.settings.lease))
        with self._world.trouble(node):
            node.cable.refusing = seconds > 0
            node.cable.cut_all()
            await asyncio.sleep(seconds)
            node.cable.refusing = False
        return f"for {seconds:.1f} s"

    async def _pull(self, node: Node) -> str:
        """Nothing gets through between a replica and the store, and neither is told."""
        assert node.cable is not None
        seconds = self._draw.uniform(0.1, 1.5) * self._world.settings.lease
        with self._world.trouble(node):
            node.cable.silence()
            await asyncio.sleep(seconds)
            node.cable.speak()
        return f"for {seconds:.1f} s"


def _pick(draw: Random, entries: Sequence[tuple[int, str, T]]) -> tuple[int, str, T]:
    return draw.choices(entries, [entry[0] for entry in entries])[0]
