"""What a workload is: a case that gives figures for whoever takes part, and the budgets that ours must keep."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bench.peers import OURS, Peer

Figures = Mapping[str, float]
"""Metric → value, of one round."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`better`: which way is good; None: it is only told."""

    name: str
    unit: str
    better: Literal["less", "more"] | None = "less"

    def best(self, values: Sequence[float]) -> float:
        return max(values) if self.better == "more" else min(values)


@dataclass
class Results:
    """Everything measured so far: per case and participant the figures of each round, or why there are none."""

    rounds: dict[tuple[str, str], list[Figures | None]] = field(
        default_factory=dict[tuple[str, str], list[Figures | None]]
    )
    notes: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])

    def values(self, case: str, who: str, metric: str) -> list[float]:
        return [found[metric] for found in self.rounds.get((case, who), []) if found is not None and metric in found]

    def median(self, case: str, who: str, metric: str) -> float | None:
        values = self.values(case, who, metric)
        return statistics.median(values) if values else None

    def ratio(self, case: str, who: str, other: str, metric: str) -> float | None:
        """The median of the ratios within the rounds: the machine's mood is the same on both sides."""
        pairs = zip(self.rounds.get((case, who), []), self.rounds.get((case, other), []), strict=False)
        ratios = [a[metric] / b[metric] for a, b in pairs if a and b and metric in a and b.get(metric)]
        return statistics.median(ratios) if ratios else None


Holds = Callable[[Results, "Case"], bool | None]


@dataclass(frozen=True, slots=True)
class Budget:
    """`holds` is None where there is no figure to judge."""

    metric: str
    text: str
    holds: Holds


def at_most(metric: str, limit: float) -> Budget:
    def holds(results: Results, case: Case) -> bool | None:
        value = results.median(case.key, OURS.name, metric)
        return None if value is None else value <= limit

    return Budget(metric, f"≤ {limit:g}", holds)


def at_least(metric: str, limit: float) -> Budget:
    def holds(results: Results, case: Case) -> bool | None:
        value = results.median(case.key, OURS.name, metric)
        return None if value is None else value >= limit

    return Budget(metric, f"≥ {limit:,g}", holds)


def ahead(metric: str) -> Budget:
    """Better than every peer; the floors are no peers."""

    def holds(results: Results, case: Case) -> bool | None:
        better = case.metric(metric).better
        ratios = [
            results.ratio(case.key, OURS.name, peer.name, metric)
            for peer in case.peers
            if not peer.floor and peer.command != OURS.command
        ]
        found = [ratio for ratio in ratios if ratio is not None]
        if not found:
            return None
        return all(ratio < 1 if better == "less" else ratio > 1 for ratio in found)

    return Budget(metric, "ahead of every peer", holds)


def within(metric: str, times: float, other: Peer) -> Budget:
    """At most so many times what the other takes, in the same round."""

    def holds(results: Results, case: Case) -> bool | None:
        ratio = results.ratio(case.key, OURS.name, other.name, metric)
        return None if ratio is None else ratio <= times

    return Budget(metric, f"≤ {times:g} × {other.name.removeprefix('floor: ')}", holds)


def as_in(metric: str, other: str, words: str, *, slack: float = 1.25) -> Budget:
    """No slower than in another case of the same run, but for noise."""

    def holds(results: Results, case: Case) -> bool | None:
        value = results.median(case.key, OURS.name, metric)
        base = results.median(other, OURS.name, metric)
        return None if value is None or base is None else value <= base * slack

    return Budget(metric, words, holds)


@dataclass(frozen=True)
class Case:
    """`run` gives the figures of one round for one participant, smaller in a quick run. Raises harness.Failed."""

    key: str
    title: str
    peers: Sequence[Peer]
    metrics: Sequence[Metric]
    run: Callable[[Peer, bool], Figures]
    budgets: Sequence[Budget] = ()
    rounds: int | None = None
    """At most so many: what does not swing needs no more."""

    def metric(self, name: str) -> Metric:
        return next(metric for metric in self.metrics if metric.name == name)


CPU: Final = Metric("server CPU", "s per million")
RATE: Final = Metric("rate", "events/s", "more")
P50: Final = Metric("latency p50", "ms")
P99: Final = Metric("latency p99", "ms")
CLIENT: Final = Metric("load client", "% of a core", None)
