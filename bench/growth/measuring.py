"""The measurements behind the points: viewers who follow, what joining takes, and many replicas over one Redis."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from bench.growth.model import Figures, Metric
from bench.harness import Failed, Load, Server
from bench.peers import OURS, Peer
from bench.redis import Usage, redis
from bench.workloads.w5 import caught_up

CPU: Final = Metric("server CPU", "µs per delivered event", flat=True)
EMIT: Final = Metric("server CPU", "µs per event", flat=True)
SIZED_CPU: Final = Metric(CPU.name, CPU.unit)
"""It may grow with the size, up to in proportion."""
PER_KB: Final = Metric("server CPU per kB", "µs", flat=True)
WAITING: Final = Metric("CPU while all wait", "ms per second")
P50: Final = Metric("latency p50", "ms")
P99: Final = Metric("latency p99", "ms")
MEMORY: Final = Metric("memory", "kB per viewer", flat=True)
STREAM_MEMORY: Final = Metric("memory", "kB per stream", flat=True)
KEPT: Final = Metric("memory per event", "bytes", flat=True)
SNAPSHOT: Final = Metric("join with a snapshot", "ms")
SNAPSHOT_EACH: Final = Metric("the same, per 1,000 events", "ms", flat=True)
REPLAY_FIRST: Final = Metric("replay: first event", "ms", flat=True, least=3.0)
REPLAY_LAST: Final = Metric("replay: last", "ms")
RATE: Final = Metric("rate", "events/s")
REDIS_CPU: Final = Metric("Redis CPU", "µs per event", flat=True)
COMMANDS: Final = Metric("commands sent", "per event", flat=True)
BYTES: Final = Metric("bytes at Redis", "per event", flat=True)

_JOINS: Final = 5
_ENOUGH: Final = 100  # viewers, for whom memory is more than noise
_LONG: Final = 90.0
_MEMORY_NOISE: Final = 10_000  # events, likewise


def follow(
    peer: Peer, *, streams: int, viewers: int, events: int, rate: float = 0.0, size: int = 0, unit: str = MEMORY.name
) -> Figures:
    """Viewers who are there before the first event. The streams stay open: an end is a cost of its own.

    CPU is the server's, from the first event until all are delivered; and, where there is a pace, while nobody emits.
    `unit`: the metric of what a viewer, with its share of the stream, holds in memory.
    """
    with Server(peer) as server:
        empty = server.settled_memory()
        server.order("prepare", streams=streams, events=events, rate=rate, seal=False, size=size)
        with Load(server, viewers=viewers, streams=streams, events=events, seconds=_LONG) as load:
            connected(load, viewers)
            waiting = {WAITING.name: _idle(server)} if rate else {}
            before = server.cpu
            server.order("go")
            found = load.result()
            server.order("wait")
            spent = server.cpu - before
            held = server.settled_memory() - empty
    total = viewers * events
    figures = {
        CPU.name: spent / total * 1e6,
        P50.name: found["latency_ms"]["p50"],
        P99.name: found["latency_ms"]["p99"],
        **waiting,
    }
    return {**figures, unit: held / viewers / 1e3} if viewers >= _ENOUGH else figures


def _idle(server: Server) -> float:
    """ms of CPU in a second in which nothing happens: what timers, sweeps and renewals take."""
    time.sleep(0.3)  # what a start leaves behind is done
    before, begun = server.cpu, time.monotonic()
    time.sleep(1.0)
    return (server.cpu - before) / (time.monotonic() - begun) * 1e3


def connected(load: Load, viewers: int) -> None:
    """Wait for all of them. Raises Failed when some are missing."""
    opened = load.ready()
    if opened["ready"] < viewers:
        raise Failed(f"only {opened['ready']:,} of {viewers:,} connected")


def emitted(events: int, *, small: int) -> Figures:
    """Generations of so many events that nobody watches, and then somebody joins the first of them.

    Short generations come in numbers, so that there is something to measure. Nothing merges; an event is `small`
    characters of text, so that a million of them are within the bytes that a log may have.
    """
    streams = max(_MEMORY_NOISE // events, 1)
    with Server(OURS) as server:
        server.order("prepare", streams=streams, events=events, seal=False, viewed=False, size=small)
        empty, before = server.settled_memory(), server.cpu
        server.order("go")
        server.order("wait", seconds=_LONG)
        spent = server.cpu - before
        time.sleep(0.2)
        held = server.settled_memory() - empty
        snapshots = [_joined(server, events, OURS.snapshot_path) for _ in range(_JOINS)]
        replays = [_joined(server, events, OURS.path) for _ in range(_JOINS)]
    total = streams * events
    snapshot = _middle([last for _, last in snapshots])
    return {
        EMIT.name: spent / total * 1e6,
        KEPT.name: held / total,
        SNAPSHOT.name: snapshot,
        SNAPSHOT_EACH.name: snapshot / events * 1e3,
        REPLAY_FIRST.name: _middle([first for first, _ in replays]),
        REPLAY_LAST.name: _middle([last for _, last in replays]),
    }


def _joined(server: Server, events: int, path: str | None) -> tuple[float, float]:
    """Milliseconds to the first event and to the last, of one viewer. What is trimmed comes as a snapshot."""
    with Load(server, viewers=1, events=events, path=path, seconds=20) as load:
        load.ready()
        found = caught_up(load, snapshot=True)
    return found["first_ms"]["p50"], found["last_ms"]["p50"]


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def replicated(count: int, *, streams: int, events: int, rate: float, remote: bool) -> Figures:
    """So many replicas over one Redis, with `streams` generations each and one viewer for each of those.

    `remote`: the viewers of a replica's generations are at the next replica. CPU is of all replicas together.
    """
    with ExitStack() as stack:
        store = stack.enter_context(redis())
        servers = [stack.enter_context(Server(OURS, store.url)) for _ in range(count)]
        loads: list[Load] = []
        for number, server in enumerate(servers):
            server.order("prepare", streams=streams, events=events, rate=rate, seal=False, name=f"r{number}")
            at = servers[(number + 1) % count] if remote else server
            path = OURS.path.replace("s-{n}", f"r{number}-{{n}}")
            loads.append(
                stack.enter_context(Load(at, viewers=streams, streams=streams, events=events, path=path, seconds=_LONG))
            )
        for load in loads:
            connected(load, streams)
        time.sleep(0.2)  # what a start leaves behind is done
        usage, before, begun = Usage(store), sum(server.cpu for server in servers), time.monotonic()
        for server in servers:
            server.order("go")
        found = [load.result() for load in loads]
        for server in servers:
            server.order("wait")
        spent = sum(server.cpu for server in servers) - before
        total = count * streams * events
        cost = usage.per_event(total)
    return {
        RATE.name: total / (max(one["ended"] for one in found) - begun),
        EMIT.name: spent / total * 1e6,
        REDIS_CPU.name: cost["cpu"],
        COMMANDS.name: cost["sent"],
        BYTES.name: cost["bytes"],
        P50.name: _middle([one["latency_ms"]["p50"] for one in found]),
        P99.name: max(one["latency_ms"]["p99"] for one in found),
    }
