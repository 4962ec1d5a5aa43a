"""Judgement on expired leases: when what the store says about them proves that their owners are dead.

A lease ends by the store's clock. One reading of a clock proves nothing: it may have been stepped, the store may have
been away so that no owner could renew, or this replica may have begun to look, or looked away, just then. So a replica
judges by what it has observed itself: the store has answered it for a whole lease, and its clocks went on as this
replica's own monotonic one did. Every living owner has renewed within that time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

_STEP: Final = 1 / 8
"""Share of a lease by which a clock may be off within one lease: owners renew long before it matters."""
_ANSWER: Final = 1 / 2
"""Share of a lease after which an answer counts as missing: a renewal that takes as long is still in time."""


class _Offset(NamedTuple):
    """Difference between a clock of the store and our own: between these two, as measured at this time."""

    low: float
    high: float
    at: float


class StoreWatch:
    """Observes a store. `lease`: seconds; `sweep`: seconds between two looks; times are of one monotonic clock."""

    def __init__(self, lease: float, sweep: float, now: float) -> None:
        self._lease = lease
        self._gap = lease / 2 + 2 * sweep
        self._offsets: dict[str, _Offset] = {}
        self._answered_at = now
        self._trusted_at = now + lease

    def __repr__(self) -> str:
        return f"<StoreWatch trusted_at={self._trusted_at:.3f} clocks={len(self._offsets)}>"

    def trusts(self, now: float) -> bool:
        """Whether a lease that has run out by the store's clock proves that its owner is dead."""
        return now >= self._trusted_at

    def suspend(self, now: float) -> None:
        """Judge nothing for one lease: the store was away, or something else was found to be amiss."""
        self._trusted_at = now + self._lease

    def answered(self, asked: float, now: float, clocks: Mapping[str, float]) -> None:
        """Take in an answer of the store: when it was asked for, when it came, what each of its clocks said then."""
        late = now - asked > self._lease * _ANSWER
        missed = asked - self._answered_at > self._gap
        stepped = [name for name, reading in clocks.items() if not self._went_on(name, reading, asked, now)]
        if late or missed or stepped:
            self.suspend(now)
        self._answered_at = now

    def _went_on(self, name: str, reading: float, asked: float, now: float) -> bool:
        """Whether this clock went on as our own did since it was read before. One that is new has not."""
        known = self._offsets.get(name)
        offset = _Offset(reading - now, reading - asked, now)
        allowed = self._lease * _STEP
        good = known is not None and offset.low <= known.high + allowed and offset.high >= known.low - allowed
        if known is None or not good or now - known.at > self._lease:
            self._offsets[name] = offset
        return good
