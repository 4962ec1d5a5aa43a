"""The simulator: replicas, store, hints, viewers and models in one process, on a loop with virtual time.

`simulate(seed)` lets one world live, with crashes, pauses, partitions, lost and doubled hints, slow readers, a store
that is away, a clock that steps, and holds everything that happens against the invariants. The same seed takes the same
course. `python -m unspool.testing.simulation` runs many.
"""

from __future__ import annotations

from unspool.testing.simulation.node import Factory
from unspool.testing.simulation.plants import PLANTS, Plant
from unspool.testing.simulation.simulation import STEPS, Report, explain, simulate, simulate_many
from unspool.testing.simulation.trace import Violation

__all__ = ["PLANTS", "STEPS", "Factory", "Plant", "Report", "Violation", "explain", "simulate", "simulate_many"]
