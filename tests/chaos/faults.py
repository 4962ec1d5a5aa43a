"""The trouble: processes killed, frozen, drained, cut off; servers restarted, frozen, failed over. From a seed."""

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
        self._store_is_in_trouble = False
        self._for_nodes: list[tuple[int, str, Callable[[Node], Awaitable[str]]]] = [
            (12, "killed", self._kill), (4, "frozen", self._freeze), (2, "drained", self._drain),
            (3, "cable cut", self._cut), (3, "cable pulled", self._pull),
        ]  # fmt: skip

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
        draw, store = self._draw, self._world.store
        # One thing at a time for each node, and for the store; and somebody is always left to take over.
        idle = [node for node in self._world.nodes if not node.busy]
        if draw.random() < 0.2 and not self._store_is_in_trouble:
            self._store_is_in_trouble = True
            _, name, trouble = _pick(draw, store.troubles)
            self._world.report.note(f"{name} …")
            try:
                with self._world.trouble(None):
                    told = await trouble(Random(draw.random()))
            finally:
                self._store_is_in_trouble = False
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

    def _done(self, name: str, told: str) -> None:
        self._world.report.counts[f"trouble: {name}"] += 1
        self._world.report.note(f"{name}: {told}")

    async def _kill(self, node: Node) -> str:
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
        await asyncio.sleep(self._draw.uniform(0.0, 1.5))
        await node.start()
        return f"owning {sorted(owned)}"

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
