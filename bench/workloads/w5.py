"""W5: joining a generation that is under way, alone and a hundred at once."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from bench.cases import Budget, Case, Figures, Metric, ahead, as_in, at_most, within
from bench.harness import Failed, Load, Server, TooSlow
from bench.peers import ASGI, OURS, PEERS, Peer

ONE_FIRST: Final = Metric("one: first event", "ms")
ONE_LAST: Final = Metric("one: last", "ms")
HUNDRED: Final = Metric("100 at once: last", "ms")
SPENT: Final = Metric("100 at once: server CPU", "ms")
GROWN: Final = Metric("100 at once: memory", "MB more")
_ONES: Final = 5


def _run(events: int, snapshot: bool, peer: Peer, quick: bool) -> Figures:
    """`first event` is the first that a viewer can show, `last` when it has caught up."""
    events = events // 50 if quick else events
    many = 20 if quick else 100
    path = peer.snapshot_path if snapshot else peer.path
    joiners = partial(Load, events=events, path=path, frames=snapshot)
    with Server(peer) as server:
        # Nothing merges, so that the log is as long as its events are many; the content is the same.
        server.order("prepare", streams=1, events=events, seal=False, short=True, viewed=False)
        server.order("go")
        server.order("wait")
        firsts: list[float] = []
        lasts: list[float] = []
        for _ in range(_ONES):
            with joiners(server, viewers=1, seconds=10) as load:
                load.ready()
                found = caught_up(load, snapshot)
            firsts.append(found["first_ms"]["p50"])
            lasts.append(found["last_ms"]["p50"])
        figures = {ONE_FIRST.name: sorted(firsts)[_ONES // 2], ONE_LAST.name: sorted(lasts)[_ONES // 2]}
        before, spent = server.memory, server.cpu
        try:
            with joiners(server, viewers=many, seconds=6) as load:
                load.ready()
                figures[HUNDRED.name] = caught_up(load, snapshot)["last_ms"]["max"]
                figures[SPENT.name] = (server.cpu - spent) * 1e3
                figures[GROWN.name] = max(server.memory - before, 0) / 1e6
        except TooSlow as slow:
            raise TooSlow(f"100 at once: {slow}", figures) from slow
    return figures


def caught_up(load: Load, snapshot: bool) -> dict[str, Any]:
    """A snapshot may say a text more than once, but must say all of it."""
    found = load.result(exact=not snapshot)
    if found["missing"]:
        raise Failed(f"{found['missing']:,} missing")
    return found


_JOINERS: Final = (ASGI, *PEERS)
_METRICS: Final = (ONE_FIRST, ONE_LAST, HUNDRED, SPENT, GROWN)


def _like(other: str) -> tuple[Budget, ...]:
    return tuple(as_in(metric.name, other, "as with 20,000") for metric in (ONE_FIRST, HUNDRED))


CASES: Final = (
    Case(
        "W5 snapshot", "joining after 20,000 events, with a snapshot", (ASGI, OURS), _METRICS,
        partial(_run, 20_000, True),
        (at_most(ONE_LAST.name, 3), at_most(HUNDRED.name, 60), within(HUNDRED.name, 1.2, ASGI)),
    ),
    Case(
        "W5 replay", "joining after 20,000 events, all of them replayed", _JOINERS, _METRICS,
        partial(_run, 20_000, False), (at_most(ONE_FIRST.name, 3), at_most(ONE_LAST.name, 15), ahead(HUNDRED.name)),
        rounds=2,
    ),
    Case(
        "W5 snapshot, long", "joining after 100,000 events, with a snapshot", (ASGI, OURS), _METRICS,
        partial(_run, 100_000, True), (at_most(ONE_FIRST.name, 20), *_like("W5 snapshot")),
    ),
    Case(
        "W5 replay, long", "joining after 100,000 events, all of them replayed", _JOINERS, _METRICS,
        partial(_run, 100_000, False), (at_most(ONE_FIRST.name, 20), ahead(HUNDRED.name)), rounds=1,
    ),
)  # fmt: skip
