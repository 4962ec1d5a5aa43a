"""`python -m bench`: what the machine's own floor costs, and what we cost beside it, in the same run.

Each figure is the median of several rounds, ours and the floor's in turn. `--json` for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from bench import fanout, local

Round = Callable[[], Awaitable[float]]
Case = tuple[str, str, str, Round, Round]


def cases() -> list[Case]:
    """Name, unit, what the floor is, our round, the floor's round. All figures are seconds per unit."""
    return [
        ("W1 emit 100,000 events to one subscriber, content folded", "event", "list.append and a callback",
         local.emit_and_follow, local.floor_callback),
        ("W1 the same, every event a record of its own", "event", "list.append and a callback",
         local.emit_unmerged, local.floor_callback),
        ("W5 join with a snapshot after 20,000 events", "join", "json.loads of the same content",
         lambda: local.join(20_000), lambda: local.floor_join(20_000)),
        ("W5 join with a snapshot after 100,000 events", "join", "the same after 20,000",
         lambda: local.join(100_000), lambda: local.join(20_000)),
        ("W3 1,000 SSE viewers x 200 events, CPU of the server", "delivery", "bare socket loop, same bytes",
         lambda: fanout.server_cpu("unspool"), lambda: fanout.server_cpu("bare")),
    ]  # fmt: skip


async def measure(rounds: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name, unit, floor_name, ours, floor in cases():
        print(f"… {name}", file=sys.stderr, flush=True)
        pairs = [(await ours(), await floor()) for _ in range(rounds)]
        value, below = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        rows.append(
            {
                "name": name,
                "unit": unit,
                "us": value * 1e6,
                "floor": floor_name,
                "floor_us": below * 1e6,
                "ratio": ratio,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each, ours and the floor's in turn")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    begun = time.monotonic()
    rows = asyncio.run(measure(options.rounds))
    if options.json:
        print(json.dumps({"rows": rows, "seconds": time.monotonic() - begun}, indent=2))
        return
    print(f"{'':58} {'µs per':>16} {'floor':>10} {'ratio':>7}")
    for row in rows:
        figures = f"{row['us']:8.2f} {row['unit']:<8}{row['floor_us']:9.2f} {row['ratio']:7.2f}"
        print(f"{row['name']:58} {figures}  ({row['floor']})")


if __name__ == "__main__":
    main()
