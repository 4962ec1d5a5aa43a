"""Unit costs: what one event, one viewer, one generation take. `bench.scaling` computes from them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bench.growth.measuring import connected
from bench.harness import Load, Server
from bench.peers import OURS
from bench.peers.worker import stamp
from bench.redis import Usage, redis
from bench.workloads import CASES
from bench.workloads.w7 import IDLE
from tests.servers.redis import RedisServer

_PACE: Final = 20.0
_EVENTS: Final = 500  # of a generation whose memory is measured
_SMALL: Final = len(stamp(0))  # characters of text in each of those
_VIEWERS: Final = 5
_BUSY: Final = 400  # generations at once, so that a server that is nearly idle is not what is measured
_BUSY_REDIS: Final = 200  # likewise
_PACKED: Final = 3.0  # seconds after which a log that has ended is packed


@dataclass(frozen=True, slots=True)
class _Cost:
    """Per event: CPU in µs of the replica that runs it and of the one that its viewers are at; bytes to a viewer."""

    owner: float
    other: float
    wire: float
    redis: Mapping[str, float]
    connections: float


def measure_units(quick: bool, tell: Callable[[str], None]) -> Mapping[str, float]:
    """All of them; the names are those of `bench.scaling.Units`. `tell` says what is under way."""
    tell("units: events in memory mode")
    nobody, one = (_in_memory(_BUSY, viewers, quick) for viewers in (0, 1))
    few, many = (_in_memory(_BUSY // _VIEWERS, viewers, quick) for viewers in (1, _VIEWERS))
    tell("units: events over Redis")
    alone, local = (_over_redis(viewers, False, quick) for viewers in (0, 1))
    apart = _over_redis(1, True, quick)
    tell("units: memory")
    running, base = _resident(None, False, quick)
    kept, _ = _resident(None, True, quick)
    idle = next(case for case in CASES if case.key == "W7 idle").run(OURS, quick)[IDLE.name]
    tell("units: memory over Redis")
    with redis() as store:
        before = _used(store)
        redis_running, _ = _resident(store, False, quick)
        stored = _used(store) - before
    with redis() as store:
        before = _used(store)
        _resident(store, True, quick)
        packed = _used(store) - before
    many_streams = _streams(quick)
    return {
        "emit": nobody.owner,
        "deliver": max(one.owner - nobody.owner, 0.0),
        "further": max(many.owner - few.owner, 0.0) / (_VIEWERS - 1),
        "redis_emit": alone.owner,
        "redis_deliver": max(local.owner - alone.owner, 0.0),
        "redis_follow": apart.other,
        "redis_cpu": apart.redis["cpu"],
        "redis_commands": apart.redis["sent"],
        "redis_bytes": apart.redis["bytes"],
        "redis_connections": apart.connections,
        "wire_bytes": one.wire,
        "events": float(_EVENTS),
        "running_kb": running,
        "kept_kb": kept,
        "redis_running_kb": redis_running,
        "redis_stored_kb": stored / many_streams / 1e3,
        "redis_kept_kb": packed / many_streams / 1e3,
        "viewer_kb": idle,
        "base_mb": base,
    }


def _in_memory(streams: int, viewers: int, quick: bool) -> _Cost:
    with Server(OURS) as server:
        return _cost(server, server, None, streams, viewers, quick)


def _over_redis(viewers: int, apart: bool, quick: bool) -> _Cost:
    with ExitStack() as stack:
        store = stack.enter_context(redis())
        owner = stack.enter_context(Server(OURS, store.url))
        other = stack.enter_context(Server(OURS, store.url)) if apart else owner
        return _cost(owner, other, store, _BUSY_REDIS, viewers, quick)


def _cost(owner: Server, other: Server, store: RedisServer | None, streams: int, viewers: int, quick: bool) -> _Cost:
    """Generations at a pace, so many viewers on each of them, all at `other`."""
    events = 15 if quick else 60
    owner.order("prepare", streams=streams, events=events, rate=_PACE, seal=False)
    with ExitStack() as stack:
        load: Load | None = None
        if viewers:
            load = stack.enter_context(Load(other, viewers=streams * viewers, streams=streams, events=events))
            connected(load, streams * viewers)
        time.sleep(0.2)  # what a start leaves behind is done
        usage = Usage(store) if store is not None else None
        before = owner.cpu, other.cpu
        owner.order("go")
        wire = 0.0
        if load is not None:
            wire = load.result()["bytes"] / (streams * viewers * events)
        owner.order("wait")
        time.sleep(0.1)  # the last append is through
        spent = owner.cpu - before[0], other.cpu - before[1]
        total = streams * events
        return _Cost(
            owner=spent[0] / total * 1e6,
            other=spent[1] / total * 1e6,
            wire=wire,
            redis=usage.per_event(total) if usage is not None else {},
            connections=_connections(store) / (1 if other is owner else 2) if store is not None else 0.0,
        )


def _connections(store: RedisServer) -> int:
    with store.client as client:
        return len(client.client_list()) - 1  # pyright: ignore[reportUnknownMemberType]


def _used(store: RedisServer) -> int:
    with store.client as client:
        return client.info("memory")["used_memory"]  # pyright: ignore[reportIndexIssue, reportUnknownMemberType]


def _streams(quick: bool) -> int:
    return 40 if quick else 300


def _resident(store: RedisServer | None, ended: bool, quick: bool) -> tuple[float, float]:
    """Memory of the process: kB per generation, and MB before there is one. Nobody watches, and nothing merges."""
    with Server(OURS, store.url if store is not None else None) as server:
        base = server.settled_memory()
        server.order("prepare", streams=_streams(quick), events=_EVENTS, seal=ended, viewed=False, size=_SMALL)
        server.order("go")
        server.order("wait")
        time.sleep(_PACKED if ended else 0.5)
        held = server.settled_memory() - base
    return held / _streams(quick) / 1e3, base / 1e6
