"""Shared turns of the loop: who begins when, and who is told when."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from unspool.followers import EACH_TURN, Followers
from unspool.turns import EACH, RATE, Turns


class Clocked:
    """A loop of which only the turns and the clock are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.soon: list[Callable[[], None]] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def time(self) -> float:
        return self.now

    def call_soon(self, call: Callable[[], None]) -> None:
        self.soon.append(call)

    def turn(self, lasted: float = 0.0) -> None:
        self.now += lasted
        due, self.soon = self.soon, []
        for call in due:
            call()


def failing() -> None:
    raise ValueError


def test_each_turn_begins_so_many_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, turns, begun = Clocked(monkeypatch), Turns(), list[int]()
    for number in range(2 * EACH + 5):
        turns.enter(lambda number=number: begun.append(number))
    assert begun == []
    for count in (EACH, 2 * EACH, 2 * EACH + 5):
        loop.turn()
        assert begun == list(range(count))
    assert loop.soon == []


def test_who_comes_while_others_begin_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last of them, whose place is the only one."""
    loop, turns, begun = Clocked(monkeypatch), Turns(), list[str]()
    turns.enter(lambda: turns.enter(lambda: begun.append("again")))
    loop.turn()
    assert begun == []
    loop.turn()
    assert begun == ["again"]
    assert loop.soon == []


def test_one_that_raises_holds_up_no_other(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Neither those of its turn nor those that come later."""
    loop, turns, begun = Clocked(monkeypatch), Turns(), list[int]()
    turns.enter(failing)
    turns.enter(lambda: begun.append(1))
    loop.turn()
    turns.enter(lambda: begun.append(2))
    loop.turn()
    assert begun == [1, 2]
    assert loop.soon == []
    assert [record.exc_info is not None for record in caplog.records] == [True]


def test_long_turns_begin_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something else takes the time, nobody waits for turns on end."""
    loop, turns, begun = Clocked(monkeypatch), Turns(), list[int]()
    for number in range(10 * EACH):
        turns.enter(lambda number=number: begun.append(number))
    loop.turn(lasted=4 * EACH / RATE + 1e-6)
    assert len(begun) == 4 * EACH
    loop.turn()
    assert len(begun) == 5 * EACH


class Told:
    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self.times = 0
        self.tell = tell

    def changed(self) -> None:
        self.times += 1
        if self.tell is not None:
            self.tell()

    def rewound(self, to: int) -> None: ...


def test_many_followers_are_told_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, followers = Clocked(monkeypatch), Followers()
    told = [Told() for _ in range(2 * EACH_TURN + 3)]
    followers.update(dict.fromkeys(told))
    followers.tell()
    for turn in (1, 2):
        assert [one.times for one in told] == [1] * (turn * EACH_TURN) + [0] * (EACH_TURN * (2 - turn) + 3)
        loop.turn()
    assert all(one.times == 1 for one in told)
    assert loop.soon == []


@pytest.mark.parametrize("turns", range(4))
def test_a_change_meanwhile_is_told_to_all_again(monkeypatch: pytest.MonkeyPatch, turns: int) -> None:
    """Whoever was told of the first one, and whoever came since; nobody is told for ever."""
    loop, followers = Clocked(monkeypatch), Followers()
    told = [Told() for _ in range(3 * EACH_TURN)]
    followers.update(dict.fromkeys(told))
    followers.tell()
    for _ in range(turns):
        loop.turn()
    before = [one.times for one in told]
    late = Told()
    followers[late] = None
    gone = told[0]
    del followers[gone]
    followers.tell()
    followers.tell()
    for _ in range(10):
        loop.turn()
    assert late.times >= 1
    assert all(one.times > times for one, times in zip(told[1:], before[1:], strict=True))
    assert gone.times == 1
    assert loop.soon == []


@pytest.mark.parametrize("others", [2, 2 * EACH_TURN])
def test_a_follower_that_raises_keeps_no_other_from_being_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, others: int
) -> None:
    """Of this change and of those that come later, among few and among many."""
    loop, followers, told = Clocked(monkeypatch), Followers(), [Told() for _ in range(others)]
    followers.update(dict.fromkeys([told[0], Told(failing), *told[1:]]))
    for times in (1, 2):
        followers.tell()
        for _ in range(4):
            loop.turn()
        assert [one.times for one in told] == [times] * others
    assert loop.soon == []
    assert len(caplog.records) == 2


def test_few_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, followers = Clocked(monkeypatch), Followers()
    told = [Told() for _ in range(EACH_TURN)]
    followers.update(dict.fromkeys(told))
    followers.tell()
    assert [one.times for one in told] == [1] * EACH_TURN
    assert loop.soon == []
