"""The owners of runs: no run may be taken from an owner that lives."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import httpx2

from tests.chaos.report import Fault
from tests.integration.redis.replica import Stalls
from unspool.events import Record

if TYPE_CHECKING:
    from tests.chaos.turns import Turn
    from tests.chaos.world import World


class Absences:
    """When processes could not do their part: dead, frozen, cut off, or kept from their event loop."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float]]] = {}
        self.own = Stalls()
        """Of this process, through which everything passes between replicas and store."""

    def died(self, process: str) -> None:
        self.add(process, time.monotonic(), math.inf)

    def add(self, process: str, begin: float, end: float) -> None:
        self._spans.setdefault(process, []).append((begin, end))

    def returned(self, process: str, when: float) -> None:
        """Close the latest span of a process, which was open."""
        spans = self._spans[process]
        at = max(index for index, (begin, end) in enumerate(spans) if end == math.inf and begin <= when)
        spans[at] = (spans[at][0], when)

    def any(self, process: str, begin: float, end: float) -> bool:
        """Whether a process was away at some time between two moments."""
        spans = [*self._spans.get(process, ()), *self.own.seen]
        return any(first < end and last > begin for first, last in spans)


async def check(world: World, turn: Turn, log: Sequence[Record]) -> None:
    """Raise Fault where a generation was ended or resumed in place of an owner that lived and reached the store.

    Neither a store that is away nor one whose clock was stepped is an excuse. A store that takes back what it has
    accepted is: renewals are among that. So is another version, whose judgement is not tested.
    """
    lost = next((record.type for record in log if record.type == "resumed" or _is_lost(record)), None)
    if lost is None or world.store.lossy or world.settings.mixed:
        return
    seen = [viewer.seen[lost] for viewer in turn.viewers if lost in viewer.seen]
    when = min(seen, default=time.monotonic())
    for process in turn.asked:
        if world.absences.any(process, turn.begun, when) or await _stalled(world, process, turn.begun, when):
            return
    raise Fault(f"{turn} was taken from {' or '.join(sorted(turn.asked))}, which lived: it is {lost}")


def _is_lost(record: Record) -> bool:
    return record.type == "failed" and record.data.get("code") == "owner_lost"


async def _stalled(world: World, process: str, begin: float, end: float) -> bool:
    """Whether a process that lives says itself that it came to nothing for a while, on a busy machine."""
    node = next((node for node in world.everyone if node.process == process), None)
    if node is None or node.replica is None:
        return True  # it has died meanwhile, and what it knew with it
    try:
        census = await node.replica.census()
    except httpx2.TransportError:
        return True
    return any(first < end and last > begin for first, last in census["stalls"])
