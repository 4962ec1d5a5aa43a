"""W3: one generation, many viewers."""

from __future__ import annotations

from typing import Final

from bench.cases import CLIENT, CPU, P50, P99, RATE, Case, Figures, ahead, at_least, at_most, within
from bench.peers import BARE, FLOORS, PEERS, Peer
from bench.workloads.fan import fan


def _unpaced(peer: Peer, quick: bool) -> Figures:
    return fan(peer, streams=1, viewers=100 if quick else 1_000, events=200, rate=0)


def _paced(peer: Peer, quick: bool) -> Figures:
    return fan(peer, streams=1, viewers=100 if quick else 1_000, events=20 if quick else 40, rate=20)


_ALL: Final = (*FLOORS, *PEERS)

CASES: Final = (
    Case(
        "W3", "1 generation × 1,000 SSE viewers × 200 events, as fast as the loop turns", _ALL, (CPU, RATE, CLIENT),
        _unpaced, (at_most(CPU.name, 5), at_least(RATE.name, 200_000), ahead(CPU.name)),
    ),
    Case(
        "W3 paced", "the same at 20 events/s: every event wakes every viewer", _ALL, (P50, P99, CPU, CLIENT),
        _paced, (within(CPU.name, 1.5, BARE), ahead(CPU.name)),
    ),
)  # fmt: skip
