"""Judgement on expired leases: trusted after a whole lease of answers by clocks that went on as one's own did."""

from __future__ import annotations

import pytest

from unspool.store_watch import StoreWatch

LEASE, SWEEP = 10.0, 1.0


class Store:
    """A store with a clock, that is asked once a second. `now`: our own clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.clocks = {"": 5_000.0}
        self.watch = StoreWatch(LEASE, SWEEP, self.now)

    def run(self, seconds: float, *, took: float = 0.01) -> bool:
        """Let time pass, and ask once a second; whether it is trusted in the end."""
        end = self.now + seconds
        while self.now < end:
            self._pass(1.0)
            asked, read = self.now, dict(self.clocks)
            self._pass(took)
            self.watch.answered(asked, self.now, read)
        return self.watch.trusts(self.now)

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self.clocks = {name: clock + seconds for name, clock in self.clocks.items()}

    def away(self, seconds: float) -> None:
        """Let time pass without an answer and without a word of it."""
        self._pass(seconds)

    def step(self, seconds: float, name: str = "") -> None:
        self.clocks[name] = self.clocks.get(name, 0.0) + seconds


@pytest.fixture
def store() -> Store:
    return Store()


def test_a_newcomer_judges_after_a_lease(store: Store) -> None:
    assert not store.run(LEASE - 1.0)
    assert store.run(3.0)


def test_it_goes_on_trusting_a_store_that_answers(store: Store) -> None:
    assert store.run(1000.0)


@pytest.mark.parametrize("seconds", [60.0, -60.0, 2.0, -2.0, 7200.0])
def test_a_step_of_the_clock_suspends_judgement_for_a_lease(store: Store, seconds: float) -> None:
    """Whatever the direction, from an eighth of a lease on; and at once, with the answer that shows it."""
    store.run(20.0)
    store.step(seconds)
    assert not store.run(1.0)
    assert not store.run(LEASE - 2.0)
    assert store.run(3.0)


@pytest.mark.parametrize("seconds", [0.2, -0.2])
def test_a_correction_of_the_clock_is_no_step(store: Store, seconds: float) -> None:
    """A clock that is set right by a little, again and again, changes no lease by as much as a renewal gives."""
    store.run(20.0)
    for _ in range(50):
        store.step(seconds)
        assert store.run(2 * LEASE)


def test_a_clock_of_another_node_is_new(store: Store) -> None:
    """A fail-over: its clock may be any; so is that of a node that is seen for the first time."""
    store.run(20.0)
    store.step(9_000.0, "another")
    assert not store.run(1.0)
    assert store.run(LEASE + 2.0)


def test_a_step_of_one_node_is_seen(store: Store) -> None:
    store.step(9_000.0, "another")
    assert store.run(30.0)
    store.step(30.0, "another")
    assert not store.run(1.0)


def test_an_outage_suspends_judgement(store: Store) -> None:
    store.run(20.0)
    store.watch.suspend(store.now)
    assert not store.run(LEASE - 2.0)
    assert store.run(4.0)


def test_a_replica_that_looked_away_does_not_know(store: Store) -> None:
    """It was frozen, or its loop was busy: the store may have been away meanwhile."""
    store.run(20.0)
    store.away(8.0)
    assert not store.run(1.0)
    assert store.run(LEASE + 2.0)


def test_slow_answers_are_an_outage(store: Store) -> None:
    """An owner whose renewal takes as long may be late."""
    store.run(20.0)
    assert not store.run(30.0, took=6.0)
    assert store.run(30.0, took=3.0)
