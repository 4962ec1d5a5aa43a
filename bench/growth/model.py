"""A curve: what is measured at each of its points, and where a cost per unit grows although it should not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

Figures = Mapping[str, float]
"""Metric → value."""

LIMIT: Final = 1.5
"""Growth of a cost per unit, from one decade to the next, that is more than noise."""


@dataclass(frozen=True, slots=True)
class Metric:
    """`flat`: a cost per unit, which should not grow along the curve, unless it stays below `least`."""

    name: str
    unit: str
    flat: bool = False
    least: float = 0.0

    @property
    def label(self) -> str:
        return f"{self.name}, {self.unit}" if self.unit else self.name


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a curve: whose it is and under which conditions. `measure` gives the figures of a point, smaller in a
    quick run; raises harness.Failed."""

    name: str
    measure: Callable[[int, bool], Figures]
    least: int = 0
    """Points below are left out."""


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture: these metrics of these lines. `name`: of its file. `lines`: all of the curve when there are none."""

    name: str
    title: str
    unit: str
    metrics: Sequence[str]
    lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Curve:
    """`axis`: what its points are, as words; `points` for a full run, the first of them for a quick one."""

    key: str
    title: str
    axis: str
    points: Sequence[int]
    quick: Sequence[int]
    lines: Sequence[Line]
    metrics: Sequence[Metric]
    plots: Sequence[Plot]


@dataclass
class Measured:
    """What a curve has given: line → point → figures; why a point has none; and the figures of the machine's run."""

    figures: dict[str, dict[int, Figures]] = field(default_factory=dict[str, dict[int, Figures]])
    notes: dict[str, dict[int, str]] = field(default_factory=dict[str, dict[int, str]])

    def values(self, line: str, metric: str) -> list[tuple[int, float]]:
        """The points of a line that have this metric, in order."""
        found = self.figures.get(line, {})
        return [(point, found[point][metric]) for point in sorted(found) if metric in found[point]]

    def add(self, line: str, point: int, figures: Figures) -> None:
        """Keep the less of what several rounds have found: whatever else the machine does only adds."""
        known = self.figures.setdefault(line, {}).get(point, {})
        self.figures[line][point] = {
            name: min(value, known.get(name, value)) for name, value in figures.items()
        }  # fmt: skip

    def document(self) -> dict[str, Any]:
        """As JSON, whose keys are texts."""
        figures = {line: {str(n): dict(found) for n, found in points.items()} for line, points in self.figures.items()}
        notes = {line: {str(n): note for n, note in found.items()} for line, found in self.notes.items()}
        return {"figures": figures, "notes": notes}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Measured:
        return cls(
            {line: {int(n): found for n, found in points.items()} for line, points in document["figures"].items()},
            {line: {int(n): note for n, note in notes.items()} for line, notes in document["notes"].items()},
        )


@dataclass(frozen=True, slots=True)
class Step:
    """From one point to its neighbour. `slope`: on two logarithmic axes; 0 is flat, 1 is in proportion. `factor`: the
    growth for a decade, or for the whole step where it is shorter than one."""

    start: int
    end: int
    slope: float
    factor: float

    @property
    def grows(self) -> bool:
        return self.factor > LIMIT


def steps(values: Sequence[tuple[int, float]], least: float = 0.0) -> list[Step]:
    """The steps between neighbouring points. Less than `least` counts as `least`; nothing has no logarithm, no step."""
    found: list[Step] = []
    positive = [(point, max(value, least)) for point, value in values if value > 0]
    for (x, y), (next_x, next_y) in pairwise(positive):
        decades = math.log10(next_x / x)
        rise = math.log10(next_y / y)
        found.append(Step(x, next_x, rise / decades, 10 ** (rise / max(decades, 1.0))))
    return found
