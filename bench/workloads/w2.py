"""W2: many generations, one viewer each."""

from __future__ import annotations

from typing import Final

from bench.cases import CLIENT, CPU, P50, P99, RATE, Case, Figures, ahead, at_most
from bench.peers import FLOORS, PEERS, Peer
from bench.workloads.fan import fan


def _unpaced(peer: Peer, quick: bool) -> Figures:
    return fan(peer, streams=50 if quick else 500, viewers=50 if quick else 500, events=200, rate=0)


def _paced(peer: Peer, quick: bool) -> Figures:
    streams = 50 if quick else 500
    return fan(peer, streams=streams, viewers=streams, events=20 if quick else 40, rate=20)


_ALL: Final = (*FLOORS, *PEERS)

CASES: Final = (
    Case(
        "W2", "500 generations × 1 SSE viewer × 200 events, as fast as the loop turns", _ALL, (CPU, RATE, CLIENT),
        _unpaced, (at_most(CPU.name, 10), ahead(CPU.name), ahead(RATE.name)),
    ),
    Case(
        "W2 paced", "the same at 20 events/s each", _ALL, (P50, P99, CPU, CLIENT),
        _paced, (at_most(P50.name, 0.5), at_most(P99.name, 5), at_most(CPU.name, 31)),
    ),
)  # fmt: skip
