"""The curves. Every point lasts a few seconds at most: the more there are of something, the less each of them does."""

from __future__ import annotations

from functools import partial
from typing import Final

from bench.growth.measuring import (
    BYTES,
    COMMANDS,
    CPU,
    EMIT,
    KEPT,
    MEMORY,
    P50,
    P99,
    PER_KB,
    RATE,
    REDIS_CPU,
    REPLAY_FIRST,
    REPLAY_LAST,
    SIZED_CPU,
    SNAPSHOT,
    SNAPSHOT_EACH,
    STREAM_MEMORY,
    WAITING,
    emitted,
    follow,
    replicated,
)
from bench.growth.model import Curve, Figures, Line, Plot
from bench.peers import BARE, OURS, Peer
from bench.peers.worker import stamp

OURS_UNPACED: Final = "unspool, unpaced"
OURS_PACED: Final = "unspool, paced"
BARE_UNPACED: Final = "bare socket loop, unpaced"
BARE_PACED: Final = "bare socket loop, paced"
LOCAL: Final = "viewers where the run is"
REMOTE: Final = "viewers on another replica"

_LEAST: Final = len(stamp(0))
"""Characters of a text that the load client can check: 25, the smallest payload."""


def _within(least: int, value: float, most: int) -> int:
    return int(min(max(value, least), most))


# Viewers of one generation: unpaced some 300,000 deliveries, paced at most 20,000 in a second.


def _viewers_unpaced(peer: Peer, viewers: int, quick: bool) -> Figures:
    events = _within(20, 10_000 / viewers, 2_000) if quick else _within(30, 300_000 / viewers, 20_000)
    return follow(peer, streams=1, viewers=viewers, events=events)


def _viewers_paced(peer: Peer, viewers: int, quick: bool) -> Figures:
    rate = min(100.0, 20_000 / viewers)
    return follow(peer, streams=1, viewers=viewers, events=int(rate * (0.5 if quick else 3)), rate=rate)


# Streams with a viewer each: unpaced some 100,000 events, paced 2,000 in a second over all of them.


def _streams_unpaced(peer: Peer, streams: int, quick: bool) -> Figures:
    events = _within(20, 4_000 / streams, 2_000) if quick else _within(20, 100_000 / streams, 20_000)
    return follow(peer, streams=streams, viewers=streams, events=events, unit=STREAM_MEMORY.name)


def _streams_paced(peer: Peer, streams: int, quick: bool) -> Figures:
    rate = 2_000 / streams
    events = max(int(rate * (0.5 if quick else 3)), 2)
    return follow(peer, streams=streams, viewers=streams, events=events, rate=rate, unit=STREAM_MEMORY.name)


def _events(events: int, quick: bool) -> Figures:
    return emitted(events, small=_LEAST)


# Payload: ten streams with a viewer each, at most 2,000 events and 50 MB in a second.

_TEN: Final = 10


def _payload(peer: Peer, size: int, quick: bool) -> Figures:
    rate = min(200.0, 50e6 / size / _TEN)
    figures = follow(
        peer, streams=_TEN, viewers=_TEN, events=max(int(rate * (0.5 if quick else 3)), 3), rate=rate, size=size
    )
    return {**figures, PER_KB.name: figures[CPU.name] / size * 1e3}


# Replicas: 50 generations at 20 events/s on each.


def _replicas(remote: bool, count: int, quick: bool) -> Figures:
    return replicated(count, streams=50, events=10 if quick else 60, rate=20, remote=remote)


_FOLLOWED: Final = {OURS_UNPACED: OURS, OURS_PACED: OURS, BARE_UNPACED: BARE, BARE_PACED: BARE}
_PACED: Final = (OURS_PACED, BARE_PACED)

CURVES: Final = (
    Curve(
        "viewers", "Viewers of one generation", "viewers", (1, 10, 100, 1_000, 10_000), (1, 10, 100),
        [
            Line(name, partial(_viewers_paced if name in _PACED else _viewers_unpaced, peer))
            for name, peer in _FOLLOWED.items()
        ],
        (CPU, P50, P99, WAITING, MEMORY),
        (
            Plot("viewers-cpu", "CPU of the server per delivered event", "µs of CPU", (CPU.name,)),
            Plot("viewers-latency", "Latency from the model to the viewer", "ms", (P50.name, P99.name), _PACED),
        ),
    ),
    Curve(
        "streams", "Streams with one viewer each", "streams", (1, 10, 100, 1_000, 10_000), (1, 10, 100),
        [
            Line(name, partial(_streams_paced if name in _PACED else _streams_unpaced, peer))
            for name, peer in _FOLLOWED.items()
        ],
        (CPU, P50, P99, WAITING, STREAM_MEMORY),
        (
            Plot("streams-cpu", "CPU of the server per delivered event", "µs of CPU", (CPU.name,)),
            Plot("streams-latency", "Latency from the model to the viewer", "ms", (P50.name, P99.name), _PACED),
        ),
    ),
    Curve(
        "events", "Events of one generation", "events", (100, 1_000, 10_000, 100_000, 1_000_000), (100, 1_000, 10_000),
        [Line("unspool", _events)],
        (EMIT, KEPT, SNAPSHOT, SNAPSHOT_EACH, REPLAY_FIRST, REPLAY_LAST),
        (
            Plot("events-cpu", "CPU of the server per event, nobody watching", "µs of CPU", (EMIT.name,)),
            Plot("events-memory", "Memory per event while the generation runs", "bytes", (KEPT.name,)),
            Plot(
                "events-join", "Joining a generation that is under way", "ms",
                (SNAPSHOT.name, REPLAY_FIRST.name, REPLAY_LAST.name),
            ),
        ),
    ),
    Curve(
        "payload", "Size of an event", "bytes of text", (_LEAST, 100, 1_000, 10_000, 100_000, 1_000_000),
        (_LEAST, 1_000, 100_000),
        [Line(name, partial(_payload, peer)) for name, peer in _FOLLOWED.items() if name in _PACED],
        (SIZED_CPU, PER_KB, P50, P99),
        (
            Plot("payload-cpu", "CPU of the server per delivered event", "µs of CPU", (CPU.name,)),
            Plot("payload-kb", "CPU of the server per kB of text", "µs of CPU", (PER_KB.name,)),
        ),
    ),
    Curve(
        "replicas", "Replicas over one Redis", "replicas", (1, 2, 3, 4), (1, 2),
        [Line(LOCAL, partial(_replicas, False)), Line(REMOTE, partial(_replicas, True), least=2)],
        (EMIT, REDIS_CPU, COMMANDS, BYTES, P50, P99, RATE),
        (
            Plot(
                "replicas-cpu", "CPU per event: all replicas together, and Redis", "µs of CPU",
                (EMIT.name, REDIS_CPU.name),
            ),
        ),
    ),
)  # fmt: skip
