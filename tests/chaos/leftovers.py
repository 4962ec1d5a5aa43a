"""What must be left when everything is over: nothing in the replicas, and in Redis nothing but what has an end."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

from tests.chaos.report import Fault
from tests.chaos.settings import FAR
from tests.chaos.world import Node, World

STAYS = (
    re.compile(rb"unspool:\{[^{}]+\}"),  # a stream's hash: it remembers the number of its last generation
    re.compile(rb"unspool:(leases|completed|unfinished|streams):\{\d\}"),
    re.compile(rb"unspool:owner:.*"),
    re.compile(rb"unspool:(numbers|floor):\{0\}(:.*)?"),  # the second of versions from before
)
_FORGOTTEN = 60.0
"""Seconds after retention in which Redis forgets by itself what no replica has deleted."""
_SWEEPS = 5.0
"""Seconds after retention for which the replicas are waited for, which delete it sooner."""
_POOL = 10
"""Connections to the ledger's database that a replica may keep."""
_EMPTY = ("runs", "tails", "viewers", "watched")


async def check(world: World) -> None:
    """Wait until retention is over, and look. Raises Fault."""
    if world.store.clock is not None:
        kept = world.settings.kept(steps=True) - world.settings.retention
        world.store.clock.set(FAR + kept)  # so that what is left of it is what it is without steps
    await _check_keys(world)
    # Who looks for the master anew keeps a connection to each sentinel.
    more = 6 if world.settings.topology == "sentinel" else 1
    if world.books is not None:
        more += _POOL
    for node in world.nodes:
        await _check_node(node, more)
    for server in world.store.servers:
        lines = await asyncio.to_thread(server.ask, "CLIENT", "LIST")
        world.report.counts["connections to redis at the end"] += len(lines.splitlines())


async def _check_keys(world: World) -> None:
    until = time.monotonic() + world.settings.retention + _SWEEPS
    while True:
        found = await asyncio.to_thread(world.store.keys)
        left = {key: ends for key, ends in found.items() if not any(pattern.fullmatch(key) for pattern in STAYS)}
        if not left or time.monotonic() > until:
            break
        await asyncio.sleep(0.5)
    immortal = [key for key, milliseconds in found.items() if milliseconds < 0]
    if immortal:
        raise Fault(f"keys in Redis without an end: {immortal[:10]}")
    # Whoever sealed it was killed before it could say so: then it is not swept away, but forgotten by Redis itself.
    late = {key: ends for key, ends in left.items() if ends > _FORGOTTEN * 1000}
    if late:
        raise Fault(f"keys in Redis that are kept for too long: {late}")
    world.report.counts["keys in redis at the end"] = len(found)
    world.report.counts["of these, of generations"] = len(left)


async def _check_node(node: Node, more: int) -> None:
    """No run, tail or viewer, no more tasks or descriptors than when the process was new."""
    assert node.replica is not None
    until = time.monotonic() + 60.0
    while True:
        found = await node.replica.census()
        wrong = _wrong(node.baseline, found, more)
        if not wrong:
            return
        if time.monotonic() > until:
            raise Fault(f"{node.process} still holds {wrong}; when it was new: {node.baseline}")
        await asyncio.sleep(0.5)


def _wrong(before: dict[str, Any], now: dict[str, Any], more: int) -> dict[str, Any]:
    wrong = {name: now[name] for name in _EMPTY if now[name]}
    tasks = {name: count for name, count in now["tasks"].items() if count > before["tasks"].get(name, 0)}
    if tasks:
        wrong["tasks"] = tasks
    if now["descriptors"] > before["descriptors"] + more:  # connections that come or go
        wrong["descriptors"] = now["descriptors"]
    return wrong
