"""What a run of chaos has counted and measured, for people and as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict, deque
from pathlib import Path
from typing import Any

import msgspec

from tests.chaos.settings import Settings

_REMEMBERED = 60


class Fault(Exception):
    """Something that must never happen has happened."""


class Report:
    """Counts, times, and the latest troubles."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        self.begun = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.latest: deque[str] = deque(maxlen=_REMEMBERED)
        self.fault: str | None = None
        self.lacking: list[str] = []

    def lack(self, what: str) -> None:
        """Say at once, and in the end, that a trouble cannot be made here."""
        self.lacking.append(what)
        sys.stderr.write(f"chaos: {what}\n")

    def note(self, what: str) -> None:
        """Remember a trouble, for whoever looks for the cause of a fault."""
        self.latest.append(f"{time.monotonic() - self.begun:8.3f}  {what}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "settings": {name: getattr(self.settings, name) for name in self.settings.__dataclass_fields__},
            "seconds": round(time.monotonic() - self.begun, 1),
            "faults": 0 if self.fault is None else 1,
            "fault": self.fault,
            "lacking": self.lacking,
            "counts": dict(sorted(self.counts.items())),
            "seconds_of": {name: summary(values) for name, values in sorted(self.times.items())},
        }

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(json.dumps(self.as_dict()).encode()) + b"\n")

    def __str__(self) -> str:
        settings, counts = self.settings, self.counts
        sizes = f"{settings.replicas} replicas, {settings.streams} streams, {settings.viewers} viewers each"
        lines = [
            f"chaos: seed {settings.seed}, {settings.topology}, {sizes}, {time.monotonic() - self.begun:.0f} s",
            *(f"  {name:<32}{count:>12,}" for name, count in sorted(counts.items())),
            f"  {'seconds':<32}{'count':>8}{'p50':>9}{'p99':>9}{'max':>9}",
        ]
        for name, values in sorted(self.times.items()):
            found = summary(values)
            lines.append(f"  {name:<32}{found['count']:>8}{found['p50']:>9.3f}{found['p99']:>9.3f}{found['max']:>9.3f}")
        lines += [f"  NOT TRIED: {what}" for what in self.lacking]
        if self.fault is None:
            lines.append("  0 faults")
        else:
            lines += ["", "FAULT", self.fault, "", "before it:", *self.latest, "", f"logs: {self.folder}"]
            lines.append(f"again: python -m tests.chaos --seed {settings.seed} (what processes do when is chance)")
        return "\n".join(lines)


def summary(values: list[float]) -> dict[str, float]:
    """How many, median, 99th percentile, maximum."""
    ordered = sorted(values)
    return {
        "count": len(ordered),
        "p50": round(ordered[len(ordered) // 2], 4),
        "p99": round(ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)], 4),
        "max": round(ordered[-1], 4),
    }
