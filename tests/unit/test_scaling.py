"""Scaling: what so many generations need follows from what was measured, by hand as by code."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.scaling import Assumed, Units, alone, markdown, needs

ROOT = Path(__file__).parents[2]

UNITS = Units(
    emit=20.0, deliver=10.0, further=8.0, redis_emit=40.0, redis_deliver=20.0, redis_follow=60.0, redis_cpu=15.0,
    redis_commands=1.25, redis_bytes=800.0, redis_connections=2.0, wire_bytes=184.0, events=500.0, running_kb=100.0,
    kept_kb=50.0, redis_running_kb=60.0, redis_stored_kb=50.0, redis_kept_kb=10.0, viewer_kb=15.0, base_mb=40.0,
)  # fmt: skip
COSTS = {name: getattr(UNITS, name) for name in Units.__dataclass_fields__}


def test_needs_are_computed_from_what_was_measured() -> None:
    """By hand: 10,000 generations at 20/s are 200,000 events/s, each 100 µs of replicas and 15 µs of Redis."""
    found = needs(UNITS, Assumed(), 10_000)
    assert found.events == 200_000
    assert found.cores == pytest.approx(20.0)
    assert found.replicas == 34  # 20 / 0.6
    assert found.viewers_each == pytest.approx(10_000 / 34)
    assert found.replicas_gb == pytest.approx(0.75 + 34 * 0.04)  # 10,000 × 75 kB, and the empty servers
    assert found.redis_cores == pytest.approx(3.0)
    assert found.kept == 1_440_000  # 144 for each: 3,600 s / 25 s
    assert found.redis_running_gb == pytest.approx(0.5)
    assert found.redis_kept_gb == pytest.approx(14.4)
    assert found.shards == 5  # 3 / 0.6; 14.9 GB are less than one
    assert found.redis_commands == 250_000
    assert found.redis_network == pytest.approx(200_000 * 800 * 8 / 1e9)
    assert found.redis_connections == 14  # 34 replicas over 5 servers are 7 each
    assert found.viewer_network == pytest.approx(200_000 * 250 * 8 / 1e9)


def test_ten_times_as_many_need_ten_times_as_much() -> None:
    """But for what is rounded up."""
    small, large = needs(UNITS, Assumed(), 100_000), needs(UNITS, Assumed(), 1_000_000)
    for name in ("events", "cores", "redis_cores", "kept", "redis_running_gb", "redis_kept_gb", "viewer_network"):
        assert getattr(large, name) == pytest.approx(10 * getattr(small, name))
    assert large.replicas == math.ceil(2000 / 0.6)


def test_whatever_runs_out_first_decides() -> None:
    """Viewers instead of CPU at a low rate; memory instead of CPU where much is kept."""
    slow = needs(UNITS, Assumed(rate=0.1), 100_000)
    assert slow.replicas == 10  # 10,000 viewers on each, though two cores would do
    assert slow.shards == math.ceil((5 + 144) / 24)
    assert needs(UNITS, Assumed(rate=0.1, retention=0.0), 100_000).shards == 1


def test_a_process_alone_is_bounded_by_its_core() -> None:
    """0.6 of a core is 600,000 µs in a second: 1,000 generations of 20 events/s at 30 µs."""
    found = alone(UNITS, Assumed())
    assert found.by_cpu == 1_000
    assert found.by_viewers == 3_747  # 30,000 µs for an event: 30 for it and the first, 8 for each further one
    assert found.gigabytes == pytest.approx(1_000 * 115 / 1e6 + 144_000 * 50 / 1e6 + 0.04)


def test_unit_costs_come_alone_or_in_a_run_and_what_is_missing_is_named() -> None:
    """A run with --only has none."""
    assert Units.of(COSTS) == Units.of({"curves": {}, "units": COSTS}) == UNITS
    with pytest.raises(SystemExit, match="missing: emit, viewer_kb"):
        Units.of({name: cost for name, cost in COSTS.items() if name not in ("emit", "viewer_kb")})
    with pytest.raises(SystemExit, match="no unit costs"):
        Units.of({"curves": {}, "units": None})


def test_the_tables_are_printed_from_a_file(tmp_path: Path) -> None:
    """As a command."""
    file = tmp_path / "units.json"
    file.write_text(json.dumps(COSTS))
    done = subprocess.run(
        [sys.executable, "-m", "bench.scaling", str(file)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == markdown(UNITS) + "\n"
    assert "| events/s | 200,000 | 2,000,000 | 20,000,000 |" in done.stdout
