"""W8: viewers who are cut off anywhere in a frame, over and over, while events come."""

from __future__ import annotations

from typing import Final

from bench.cases import CPU, P99, Case, Figures, Metric, at_most
from bench.harness import Load, Server
from bench.peers import PEERS, Peer

FAULTS: Final = Metric("lost, repeated, out of order", "events", None)
RECONNECTS: Final = Metric("reconnects", "", None)
PACE: Final = Metric("reconnects/s", "", "more")
REFUSED: Final = Metric("refused", "", None)

_STREAMS: Final = 20
_PER_SECOND: Final = 100


def _run(peer: Peer, quick: bool) -> Figures:
    """Five viewers on each stream. It ends when all of them have all events, whatever became of them on the way."""
    cuts, events = (200, 100) if quick else (2_000, 300)
    viewers = 5 * _STREAMS
    with Server(peer) as server:
        server.order("prepare", streams=_STREAMS, events=events, rate=_PER_SECOND, seal=False)
        with Load(
            server, viewers=viewers, streams=_STREAMS, events=events, seconds=30, cuts=cuts,
            cut_every=viewers * events // cuts * 3 // 4,
        ) as load:  # fmt: skip
            load.ready()
            before = server.cpu
            server.order("go")
            found = load.result(exact=False)
            spent = server.cpu - before
    return {
        FAULTS.name: found["missing"] + found["repeated"] + found["misordered"],
        RECONNECTS.name: found["reconnects"],
        PACE.name: found["reconnects"] / (found["ended"] - found["begun"]),
        REFUSED.name: found["refused"],
        P99.name: found["latency_ms"]["p99"],
        CPU.name: spent / (viewers * events) * 1e6,
    }


CASES: Final = (
    Case(
        "W8", "2,000 random reconnects of 100 viewers on 20 generations at 100 events/s", PEERS,
        (FAULTS, RECONNECTS, PACE, REFUSED, P99, CPU), _run, (at_most(FAULTS.name, 0),), rounds=2,
    ),
)  # fmt: skip
