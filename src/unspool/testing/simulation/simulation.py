"""Simulating: one seed or many, what was counted, and how to see a failure again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

import msgspec

from unspool.testing.simulation.node import Factory
from unspool.testing.simulation.plants import NONE, PLANTS, Plant
from unspool.testing.simulation.trace import Violation
from unspool.testing.simulation.world import World, memory

STEPS: Final = 40_000
"""Steps that one world lives for, unless told otherwise."""

COUNTED: Final = (
    "reconnects", "delivered", "lost", "repeated", "disordered", "syncs", "compared", "gone", "stops", "probes",
    "crashes",
)  # fmt: skip


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one world. `limit`: steps after which it came to its end, `steps`: those of the end included.

    `digest`: equal for two runs that took the same course. Times in seconds.
    """

    seed: int
    limit: int
    steps: int
    virtual_time: float
    real_time: float
    counts: dict[str, int]
    digest: str
    violation: Violation | None
    trace: list[str]
    profile: dict[str, Any]
    plant: str

    def __str__(self) -> str:
        state = "held" if self.violation is None else f"BROKEN {self.violation}"
        return f"seed {self.seed}: {state} ({self.steps} steps, {self.virtual_time:.1f} virtual seconds)"


def simulate(
    seed: int, *, steps: int = STEPS, plant: Plant = NONE, backend: Factory = memory, trace: int | None = 300
) -> Report:
    """Let one world live for `steps` steps and come to its end. The same arguments give the same report, times apart.

    `plant`: a fault to plant, see PLANTS. `backend`: another back end than memory's, see `Factory`. `trace`: lines of
    the past that the report has at most; None: all of them.
    """
    began = time.perf_counter()
    world = World(seed, plant=plant, backend=backend, trace=trace)
    world.run(steps)
    lines = world.trace.lines()
    truth = world.truth
    counts = {name: getattr(world, name) for name in COUNTED}
    counts |= {
        "generations": len(truth.logs), "records": truth.records, "appends": truth.appends, "seals": truth.seals,
        "refused": truth.refused, "take_overs": truth.take_overs,
    }  # fmt: skip
    course = repr((lines, counts, world.loop.steps, world.loop.time(), world.random.getstate()))
    return Report(
        seed=seed, limit=steps, steps=world.loop.steps, virtual_time=world.loop.time(),
        real_time=time.perf_counter() - began, counts=counts, digest=_digest(course), violation=world.violation,
        trace=lines, profile=msgspec.to_builtins(world.profile, enc_hook=str), plant=plant.name,
    )  # fmt: skip


def _digest(course: str) -> str:
    return blake2b(course.encode(), digest_size=16).hexdigest()


def explain(report: Report, *, lines: int = 60) -> str:
    """A failure for a person: what went wrong, what led there, and the command that shows it again."""
    violation = report.violation
    if violation is None:
        return str(report)
    again = f"python -m unspool.testing.simulation --seed {report.seed} --steps {report.limit}"
    if report.plant != NONE.name:
        again += f" --plant {report.plant}"
    return "\n".join(
        [
            f"Broken: {violation.invariant}",
            f"  {violation.message}",
            f"  seed {report.seed}, step {violation.step}, {violation.time:.6f} virtual seconds",
            "World:",
            *(f"  {name}: {value}" for name, value in report.profile.items()),
            "What led there (virtual seconds, who, what):",
            *(report.trace[-lines:]),
            "See it again:",
            f"  {again}",
        ]
    )


def simulate_many(
    seeds: Iterable[int],
    *,
    steps: int = STEPS,
    plant: Plant = NONE,
    backend: Factory = memory,
    enough: Callable[[Report], bool] = lambda _: False,
) -> Iterator[Report]:
    """One world after the other; ends after the first that broke an invariant, or when it is `enough`."""
    for seed in seeds:
        report = simulate(seed, steps=steps, plant=plant, backend=backend)
        yield report
        if report.violation is not None or enough(report):
            return


def plant_named(name: str) -> Plant:
    """The planted fault of this name. Raises KeyError."""
    return NONE if name == NONE.name else PLANTS[name]
