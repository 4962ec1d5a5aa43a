"""The command: `python -m unspool.testing.simulation --seed 1 --steps 100000`."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from unspool.testing.simulation.plants import NONE, PLANTS
from unspool.testing.simulation.simulation import STEPS, Report, explain, plant_named, simulate_many


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m unspool.testing.simulation",
        description="Simulate replicas, store, hints, viewers and every kind of trouble, and check every invariant. "
        "Ends with 1 at the first one that does not hold, and prints what led there.",
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=None, help="how many seeds, one world each (1)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of the loop in each world ({STEPS})")
    parser.add_argument("--reconnects", type=int, help="go on with further seeds until so many reconnects were made")
    parser.add_argument("--plant", choices=sorted(PLANTS), default=NONE.name, help="plant a fault, which must be found")
    parser.add_argument("--lines", type=int, default=60, help="lines of the past that a failure prints (60)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when everything held, 1 when something did not."""
    options = _parser().parse_args(arguments)
    seeds = itertools.count(options.seed)
    if options.reconnects is None or options.seeds is not None:
        seeds = itertools.islice(seeds, options.seeds or 1)
    counts: Counter[str] = Counter()
    worlds, began, told, failed = 0, time.perf_counter(), 0.0, None

    def enough(_: Report) -> bool:
        return options.reconnects is not None and counts["reconnects"] >= options.reconnects

    for report in simulate_many(seeds, steps=options.steps, plant=plant_named(options.plant), enough=enough):
        worlds += 1
        counts.update(report.counts, steps=report.steps)
        failed = report if report.violation is not None else None
        spent = time.perf_counter() - began
        if spent - told >= 1.0 or failed is not None:
            told = spent
            line = f"{worlds} worlds, {counts['steps']} steps, {counts['reconnects']} reconnects, {spent:.0f} s"
            sys.stderr.write(line + "\n")
    _tell(options, worlds, dict(counts), time.perf_counter() - began, failed)
    return 0 if failed is None else 1


def _tell(options: Any, worlds: int, counts: dict[str, int], seconds: float, failed: Report | None) -> None:
    if options.json:
        found = {"worlds": worlds, "seconds": round(seconds, 3), "counts": counts, "failure": failed}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(found)).decode() + "\n")
        return
    for name, count in counts.items():
        sys.stdout.write(f"{name:>12}  {count}\n")
    reconnects = counts.get("reconnects", 0)
    each = f", {1e6 * seconds / reconnects:.0f} µs per reconnect" if reconnects else ""
    sys.stdout.write(f"{worlds} worlds in {seconds:.1f} s{each}\n")
    if failed is None:
        sys.stdout.write("Every invariant held.\n")
    else:
        sys.stdout.write(explain(failed, lines=options.lines) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
