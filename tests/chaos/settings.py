"""What a run of chaos is made of, and how long things may take in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

TOPOLOGIES = ("single", "sentinel", "cluster")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """`viewers`: of each generation. `hold`: mean seconds of one connection of theirs. `trouble`: mean seconds between
    two troubles. It is not over before so many `kills` and `reconnects`, or twice its time."""

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

    @property
    def options(self) -> dict[str, Any]:
        """Those of a replica's manager."""
        return {
            "lease": self.lease, "abort_grace": self.grace, "retention": self.retention, "poll": 0.3, "sweep": 0.3,
            "drain": 1.0, "backlog": 64, "window": 128, "checkpoint_every": 100,
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
