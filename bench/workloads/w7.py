"""W7: memory, of what is kept and of who waits; and ten thousand who wait."""

from __future__ import annotations

import time
from functools import partial
from typing import Final

from bench.cases import Case, Figures, Metric, at_most
from bench.harness import Failed, Load, Server
from bench.peers import FLOORS, OURS, PEERS, RS_PYPI, Peer

KEPT: Final = Metric("per generation", "kB")
IDLE: Final = Metric("per viewer", "kB")
CONNECTED: Final = Metric("connected in", "s")
REACHED: Final = Metric("an event reaches all in", "ms")


_SETTLED: Final = 2.0
"""Seconds after the last event: what a server does to a log that has ended is done by then."""


def _kept(short: bool, peer: Peer, quick: bool) -> Figures:
    """The slope between a few generations and many, so that the server itself does not count."""
    few, many = (20, 120) if quick else (100, 600)
    sizes: list[int] = []
    for streams in (few, many):
        with Server(peer) as server:
            server.order("prepare", streams=streams, events=200, seal=not peer.forgets, short=short, viewed=False)
            server.order("go")
            server.order("wait")
            time.sleep(0.2 if quick else _SETTLED)
            sizes.append(server.settled_memory())
    return {KEPT.name: (sizes[1] - sizes[0]) / (many - few) / 1e3}


def _idle(few: int, many: int, peer: Peer) -> Figures:
    """The slope again: some are there, then the others come; at last one event for each."""
    with Server(peer) as server:
        server.order("prepare", streams=100, events=1, seal=False)
        with Load(server, viewers=few, streams=100, seconds=30) as first:
            first.ready()
            before = server.settled_memory()
            with Load(server, viewers=many, streams=100, seconds=60) as load:
                opened = load.ready()
                if opened["ready"] < many:
                    raise Failed(f"only {opened['ready']:,} of {many:,} connected")
                grown = server.settled_memory() - before
                begun = time.monotonic()
                server.order("go")
                found = load.result()
    return {
        IDLE.name: grown / many / 1e3,
        CONNECTED.name: opened["seconds"],
        REACHED.name: (found["ended"] - begun) * 1e3,
    }


def _idle_viewers(peer: Peer, quick: bool) -> Figures:
    return _idle(100, 200 if quick else 1_000, peer)


def _ten_thousand(peer: Peer, quick: bool) -> Figures:
    return _idle(100, 900 if quick else 9_900, peer)


CASES: Final = (
    Case(
        "W7 kept", "memory of a generation of 200 events that is kept: short texts, the rest of the JSON is marks",
        PEERS, (KEPT,), partial(_kept, True), (at_most(KEPT.name, 25),), rounds=1,
    ),
    Case(
        "W7 kept, prose", "the same where 109 of the 135 bytes are text that compresses as prose does",
        (OURS, RS_PYPI), (KEPT,), partial(_kept, False), rounds=1,
    ),
    Case(
        "W7 idle", "memory of an idle SSE viewer, whole server, 100 streams", (*FLOORS, *PEERS), (IDLE,),
        _idle_viewers, (at_most(IDLE.name, 12),), rounds=1,
    ),
    Case(
        "W7 10,000", "10,000 idle viewers in one process, then one event for each", (*FLOORS, OURS),
        (IDLE, CONNECTED, REACHED), _ten_thousand, (at_most(IDLE.name, 12),), rounds=1,
    ),
)  # fmt: skip
