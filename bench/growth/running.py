"""A run: every point of every curve, one after the other, with a word on each; failures become notes."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench.growth.curves import CURVES
from bench.growth.model import Curve, Measured
from bench.growth.units import measure_units
from bench.harness import Failed
from bench.report import figure

UNITS = "units"


def chosen(only: str | None) -> tuple[Sequence[Curve], bool]:
    """The curves that are named, and whether the unit costs are. Raises SystemExit for a name that is none."""
    if only is None:
        return CURVES, True
    names = [name.strip().lower() for name in only.split(",")]
    known = [*(curve.key for curve in CURVES), UNITS]
    for name in names:
        if name not in known:
            raise SystemExit(f"no curve is called {name!r}: there are {', '.join(known)}")
    return [curve for curve in CURVES if curve.key in names], UNITS in names


def run(curves: Sequence[Curve], *, units: bool, quick: bool, rounds: int) -> dict[str, Any]:
    """Everything, as JSON: what `--json` writes and the pages are made of."""
    begun = time.monotonic()
    measured = {curve.key: _curve(curve, quick, rounds).document() for curve in curves}
    costs: Mapping[str, float] | None = None
    if units:
        try:
            costs = measure_units(quick, tell)
        except Failed as failure:
            tell(f"{UNITS}: failed: {failure}")
    return {
        "machine": {
            "cores": os.cpu_count(), "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "quick": quick, "rounds": rounds, "seconds": round(time.monotonic() - begun, 1),
        "curves": measured, UNITS: costs,
    }  # fmt: skip


def _curve(curve: Curve, quick: bool, rounds: int) -> Measured:
    found = Measured()
    for _ in range(rounds):
        for point in curve.quick if quick else curve.points:
            for line in curve.lines:
                if point < line.least:
                    continue
                begun = time.monotonic()
                try:
                    figures = line.measure(point, quick)
                except Failed as failure:
                    found.notes.setdefault(line.name, {})[point] = str(failure)
                    told = f"failed: {failure}"
                else:
                    found.add(line.name, point, figures)
                    told = ", ".join(
                        f"{metric.name} {figure(figures[metric.name])}"
                        for metric in curve.metrics
                        if metric.name in figures
                    )
                tell(f"{curve.key} {point:,}: {line.name}: {told} ({time.monotonic() - begun:.1f} s)")
    return found


def tell(what: str) -> None:
    """A line of progress."""
    print(what, file=sys.stderr, flush=True)
