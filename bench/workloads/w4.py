"""W4: through Redis. Every event is stored there, and comes from there where its viewer is on another replica."""

from __future__ import annotations

import time
from typing import Final

from bench.cases import CLIENT, CPU, P50, P99, RATE, Case, Figures, Metric, ahead, at_least, at_most
from bench.harness import Load, Server
from bench.peers import OURS, RS_NPM, Peer
from bench.redis import Usage, redis

SENT: Final = Metric("commands sent", "per event")
CARRIED: Final = Metric("commands carried out", "per event")
BYTES: Final = Metric("bytes", "per event")
REDIS_CPU: Final = Metric("Redis CPU", "s per million")
CONNECTIONS: Final = Metric("connections", "", None)


def _fan(peer: Peer, *, streams: int, events: int, rate: float) -> Figures:
    """One viewer on each stream, on the replica that produces it."""
    total = streams * events
    with redis() as store, Server(peer, store.url) as server:
        server.order("prepare", streams=streams, events=events, rate=rate)
        with Load(server, viewers=streams, streams=streams, events=events, seconds=60) as load:
            load.ready()
            usage, before, begun = Usage(store), server.cpu, time.monotonic()
            server.order("go")
            found = load.result()
            server.order("wait")
            spent, cost = server.cpu - before, usage.per_event(total)
    lasted = found["ended"] - begun
    return {
        RATE.name: total / lasted,
        CPU.name: spent / total * 1e6,
        P50.name: found["latency_ms"]["p50"],
        P99.name: found["latency_ms"]["p99"],
        CLIENT.name: found["cpu"] / lasted * 100,
        **_named(cost),
    }


def _named(cost: Figures) -> Figures:
    return {
        SENT.name: cost["sent"],
        CARRIED.name: cost["carried out"],
        BYTES.name: cost["bytes"],
        REDIS_CPU.name: cost["cpu"],
    }


def _unpaced(peer: Peer, quick: bool) -> Figures:
    return _fan(peer, streams=50 if quick else 200, events=200, rate=0)


def _paced(peer: Peer, quick: bool) -> Figures:
    return _fan(peer, streams=50 if quick else 200, events=20 if quick else 60, rate=20)


def _followers(peer: Peer, quick: bool) -> Figures:
    """One run at 50 events/s; ten viewers, all of them on the other replica."""
    events = 50 if quick else 250
    with redis() as store, Server(peer, store.url) as owner, Server(peer, store.url) as other:
        owner.order("prepare", streams=1, events=events, rate=50)
        with Load(other, viewers=10, streams=1, events=events, seconds=30) as load:
            load.ready()
            usage = Usage(store)
            owner.order("go")
            found = load.result()
            cost = usage.per_event(events)
            with store.client as client:
                connections = len(client.client_list()) - 1  # pyright: ignore[reportUnknownMemberType]
    return {
        P50.name: found["latency_ms"]["p50"],
        P99.name: found["latency_ms"]["p99"],
        CONNECTIONS.name: connections,
        **_named(cost),
    }


_REDIS: Final = (SENT, CARRIED, BYTES, REDIS_CPU)

CASES: Final = (
    Case(
        "W4", "through Redis: 200 generations × 1 SSE viewer × 200 events, as fast as the loop turns", (OURS, RS_NPM),
        (RATE, CPU, *_REDIS, CLIENT), _unpaced,
        (at_least(RATE.name, 60_000), at_most(SENT.name, 0.2), at_most(BYTES.name, 300), ahead(RATE.name)),
    ),
    Case(
        "W4 paced", "the same at 20 events/s each", (OURS, RS_NPM), (P50, P99, CPU, *_REDIS), _paced,
        (at_most(P50.name, 0.5), at_most(P99.name, 5), at_most(SENT.name, 3)),
    ),
    Case(
        "W4 followers", "through Redis: ten viewers of one run at 50 events/s, on another replica", (OURS,),
        (P50, P99, *_REDIS, CONNECTIONS), _followers,
        (at_most(P50.name, 1), at_most(P99.name, 5), at_most(SENT.name, 3)),
    ),
)  # fmt: skip
