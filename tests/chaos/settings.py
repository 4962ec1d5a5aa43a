"""What a run of chaos is made of, and how long things may take in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TOPOLOGIES = ("single", "sentinel", "cluster")
FAR = 60.0
"""Seconds by which a clock is off at most."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`viewers`: of each generation. `hold`: mean seconds of one connection of theirs. `trouble`: mean seconds between
    two troubles. It is not over before so many `kills` and `reconnects`, or twice its time.

    `without`: names of troubles that are not made. `mixed`: half of the replicas run another version, of the commit
    `other`. That version judges leases by one reading of a clock, cannot read newer records, and does not know of
    emptied stores: in a mixed fleet clocks stay as they are, the store is not emptied, there is no ledger, and an
    owner that lived may lose its run. All else is checked as ever.
    """

    seed: int
    seconds: float
    replicas: int = 3
    streams: int = 12
    viewers: int = 3
    topology: str = "single"
    lease: float = 2.0
    grace: float = 0.5
    retention: float = 20.0
    hold: float = 0.3
    trouble: float = 1.0
    kills: int = 0
    reconnects: int = 0
    without: tuple[str, ...] = ()
    mixed: bool = False
    other: str = "51a0ca8"

    def options(self, *, steps: bool) -> dict[str, Any]:
        """Those of a replica's manager. `steps`: the store's clock is stepped."""
        return {
            "lease": self.lease, "abort_grace": self.grace, "retention": self.kept(steps=steps), "poll": 0.3,
            "sweep": 0.3, "drain": 1.0, "backlog": 64, "window": 128, "checkpoint_every": 100,
        }  # fmt: skip

    def kept(self, *, steps: bool) -> float:
        """Seconds of retention by the store's clock. No step may end it: viewers still read what has just ended."""
        return self.retention + (2 * FAR if steps else 0.0)

    @property
    def books(self) -> dict[str, Any]:
        """Options of a replica's ledger."""
        return {
            "hold": 10_000_000, "hold_lease": 1.5 * self.lease, "sweep": 1.0, "stale_after": 0.0,
            "settle_wait": 1.0, "drain_on_close": 1.0,
        }  # fmt: skip

    @property
    def told(self) -> float:
        """Seconds from the death of an owner to the terminal record at every viewer, as promised."""
        return self.lease + 2.0

    @property
    def answered(self) -> float:
        """Seconds in which Stop is answered, as promised, while the store is there."""
        return self.grace + min(1.0, self.lease / 3)

    @property
    def slack(self) -> float:
        """Seconds that a busy machine may take for anything, beside what was promised."""
        return 10.0

    @property
    def stuck(self) -> float:
        """Seconds after which a generation whose script is over, and whose troubles are, counts as stuck."""
        return 2 * self.told + 40.0
