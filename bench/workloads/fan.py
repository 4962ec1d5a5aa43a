"""What W2 and W3 have in common: viewers who are there before the first event, and stay to the last."""

from __future__ import annotations

import time

from bench.cases import CLIENT, CPU, P50, P99, RATE, Figures
from bench.harness import Load, Server
from bench.peers import Peer


def fan(peer: Peer, *, streams: int, viewers: int, events: int, rate: float, seconds: float = 40.0) -> Figures:
    """`viewers` over `streams` of `events` each, `rate` per second and stream or, at 0, as fast as the loop turns.

    CPU is the server's, from the first event until all are delivered and every stream is ended.
    """
    with Server(peer) as server:
        server.order("prepare", streams=streams, events=events, rate=rate)
        with Load(server, viewers=viewers, streams=streams, events=events, seconds=seconds) as load:
            load.ready()
            before, begun = server.cpu, time.monotonic()
            server.order("go")
            found = load.result()
            server.order("wait")
            spent = server.cpu - before
    total = viewers * events
    lasted = found["ended"] - begun
    return {
        CPU.name: spent / total * 1e6,
        RATE.name: total / lasted,
        P50.name: found["latency_ms"]["p50"],
        P99.name: found["latency_ms"]["p99"],
        CLIENT.name: found["cpu"] / lasted * 100,
    }
