"""Two replicas over Redis: joining, cutting and stopping on the one what the other runs; what is kept in Redis."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final

from bench.cases import P99, Case, Figures, Metric, at_most
from bench.harness import Failed, Load, Server
from bench.peers import OURS, Peer
from bench.redis import redis
from bench.workloads.w5 import ONE_FIRST, ONE_LAST, caught_up
from bench.workloads.w8 import FAULTS, PACE, RECONNECTS

STOP_P50: Final = Metric("answered p50", "ms")
STOP_P99: Final = Metric("answered p99", "ms")
HUNDRED: Final = Metric("100 at once: last", "ms")
KEPT: Final = Metric("in Redis, per generation", "kB")


def _join(events: int, snapshot: bool, peer: Peer, quick: bool) -> Figures:
    """Joining on a replica that has nothing of it yet."""
    events = events // 20 if quick else events
    path = peer.snapshot_path if snapshot else peer.path
    joiners = partial(Load, events=events, path=path, frames=snapshot)
    with redis() as store, Server(peer, store.url) as owner:
        owner.order("prepare", streams=1, events=events, seal=False, short=True, viewed=False)
        owner.order("go")
        owner.order("wait")
        with Server(peer, store.url) as other, joiners(other, viewers=1, seconds=20) as load:
            load.ready()
            one = caught_up(load, snapshot)
        with Server(peer, store.url) as other, joiners(other, viewers=100, seconds=30) as load:
            load.ready()
            hundred = caught_up(load, snapshot)
    return {
        ONE_FIRST.name: one["first_ms"]["p50"],
        ONE_LAST.name: one["last_ms"]["p50"],
        HUNDRED.name: hundred["last_ms"]["max"],
    }


def _stop(peer: Peer, quick: bool) -> Figures:
    """Stop asked of the other replica, until its answer with the partial content is there."""
    streams = 20 if quick else 200
    with redis() as store, Server(peer, store.url) as owner, Server(peer, store.url) as other:
        owner.order("prepare", streams=streams, events=100_000, rate=20)
        owner.order("go")
        times = asyncio.run(_stops(other.port, streams))
    return {STOP_P50.name: times[len(times) // 2] * 1e3, STOP_P99.name: times[len(times) * 99 // 100] * 1e3}


async def _stops(port: int, streams: int) -> list[float]:
    from unspool.client import Client

    times: list[float] = []
    async with Client(f"http://127.0.0.1:{port}") as client:
        await client.status("s-1")  # connected
        for stream in range(1, streams + 1):
            begun = time.perf_counter()
            outcome = await client.stop(f"s-{stream}")
            times.append(time.perf_counter() - begun)
            if outcome.outcome != "stopped":
                raise Failed(f"s-{stream} was not stopped: {outcome.outcome}")
    return sorted(times)


def _cut(peer: Peer, quick: bool) -> Figures:
    """Viewers who are cut off anywhere in a frame and come back, all of them on the other replica."""
    cuts, events, streams = (200, 100, 20) if quick else (2_000, 300, 20)
    viewers = 5 * streams
    with redis() as store, Server(peer, store.url) as owner, Server(peer, store.url) as other:
        owner.order("prepare", streams=streams, events=events, rate=100, seal=False)
        with Load(
            other, viewers=viewers, streams=streams, events=events, seconds=40, cuts=cuts,
            cut_every=viewers * events // cuts * 3 // 4,
        ) as load:  # fmt: skip
            load.ready()
            owner.order("go")
            found = load.result(exact=False)
    return {
        FAULTS.name: found["missing"] + found["repeated"] + found["misordered"],
        RECONNECTS.name: found["reconnects"],
        PACE.name: found["reconnects"] / (found["ended"] - found["begun"]),
        P99.name: found["latency_ms"]["p99"],
    }


def _kept(peer: Peer, quick: bool) -> Figures:
    """Ended generations of 200 events each, a few seconds after their end."""
    streams = 50 if quick else 500
    with redis() as store, Server(peer, store.url) as server:
        with store.client as client:
            before = client.info("memory")["used_memory"]  # pyright: ignore[reportIndexIssue, reportUnknownMemberType]
        server.order("prepare", streams=streams, events=200, short=True, viewed=False)
        server.order("go")
        server.order("wait")
        time.sleep(4)
        with store.client as client:
            after = client.info("memory")["used_memory"]  # pyright: ignore[reportIndexIssue, reportUnknownMemberType]
    return {KEPT.name: (after - before) / streams / 1000}


CASES: Final = (
    Case(
        "W5 Redis, snapshot", "joining after 20,000 events on another replica, with a snapshot", (OURS,),
        (ONE_FIRST, ONE_LAST, HUNDRED), partial(_join, 20_000, True), (at_most(ONE_LAST.name, 20),), rounds=2,
    ),
    Case(
        "W5 Redis, replay", "joining after 20,000 events on another replica, all of them replayed", (OURS,),
        (ONE_FIRST, ONE_LAST, HUNDRED), partial(_join, 20_000, False), (), rounds=2,
    ),
    Case(
        "W6", "Stop asked of another replica, until it is answered", (OURS,), (STOP_P50, STOP_P99), _stop,
        (at_most(STOP_P99.name, 250),),
    ),
    Case(
        "W7 Redis", "a retained generation of 200 events that do not merge", (OURS,), (KEPT,), _kept,
        (at_most(KEPT.name, 12),), rounds=1,
    ),
    Case(
        "W8 Redis", "2,000 random reconnects of 100 viewers, on another replica than the 20 generations", (OURS,),
        (FAULTS, RECONNECTS, PACE, P99), _cut, (at_most(FAULTS.name, 0),), rounds=2,
    ),
)  # fmt: skip
