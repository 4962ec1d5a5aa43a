"""Subscriptions: each append is worked on by one worker at a time, none is forgotten, and who was late is refused."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("cryptography") is None:
    pytest.skip("webhooks need the extra `webhooks`", allow_module_level=True)

from tests.unit.durable.kit import JSON, ME, Clock, message, within
from tests.unit.durable.subscribing import add, pair
from tests.virtual import run
from tests.waiting import HANG
from unspool.durable import DurableStreams
from unspool.durable import subscription as rules
from unspool.durable.subscription import Ack, AlreadyClaimed, Fenced, NothingPending, Subscription, Terms, matches
from unspool.errors import NotFound
from unspool.jobs import Owner

pytestmark = pytest.mark.virtual_time

PULL = Terms(type="pull-wake", pattern="events/*", wake_stream="wake/pool", lease_ttl_ms=10_000)


async def wakes(streams: DurableStreams) -> list[int]:
    chunk = await streams.read("wake/pool", ME, 0)
    return [json.loads(part)["generation"] for part in chunk.parts]


@pytest.mark.parametrize(
    ("pattern", "paths", "others"),
    [
        ("events/*", ["events/a", "events/a-b"], ["events", "events/a/b", "other/a", "events/"[:-1]]),
        ("events/**", ["events/a", "events/a/b"], ["other/a"]),
        ("**", ["a", "a/b/c"], []),
        ("**/x", ["x", "a/x", "a/b/x"], ["a/y"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/b"]),
        ("a/**/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a/b"]),
        ("**/b/**", ["b/c", "a/b/c/d"], ["a/b", "b"]),
        ("x*y*z", ["xyz", "x1y2z", "xyzyz"], ["xzy", "xy", "x/yz", "xz"]),
        ("ab*ba", ["abba"], ["aba"]),
        ("a.c", ["a.c"], ["abc"]),
        (None, [], ["a"]),
    ],
)
def test_patterns(pattern: str | None, paths: list[str], others: list[str]) -> None:
    assert [path for path in [*paths, *others] if matches(pattern, path)] == paths


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["*a" * 100 + "b", "**/a/" * 60 + "b"])
def test_a_hostile_pattern_takes_no_longer(pattern: str) -> None:
    for path in ("a" * 1000, "a/" * 500):
        assert not matches(pattern, path)


def subscription(**more: Any) -> Subscription:
    return Subscription(id="s", owner=ME, terms=PULL, base="http://b", secret=b"x" * 32, created_at=0.0, **more)


steps = st.lists(
    st.tuples(st.sampled_from(["append", "claim", "ack", "done", "release", "wait", "stale"]), st.integers(0, 2)),
    max_size=40,
)


@given(steps)
def test_the_rules(todo: list[tuple[str, int]]) -> None:
    """One holder at a time; a token of before never counts; what is acknowledged never goes back; nothing is lost."""
    now, tail = 0.0, {"events/a": 0}
    one = rules.linked(subscription(), tail, explicit=False)
    shown: list[tuple[str, str, int]] = []
    generation = 0
    for step, number in todo:
        before = one.links["events/a"].acked
        if step == "append":
            tail["events/a"] += 1
        elif step == "wait":
            now += number * 6
        elif step == "claim":
            try:
                if rules.idle(one, now) and rules.pending(one, tail):
                    one = rules.woken(one, tail, f"w{len(shown)}", now)
                if one.wake is not None:
                    one = rules.claimed(one, f"worker-{number}", tail, now)
                    shown.append((one.token(), one.wake.id if one.wake else "", one.generation))
            except AlreadyClaimed:
                assert one.wake is not None
                assert one.wake.until > now
        elif shown:
            token, wake, told = shown[-1] if step != "stale" else shown[0]
            current = one.wake is not None and (wake, told) == (one.wake.id, one.generation)
            try:
                rules.check(one, token, wake, told)
            except Fenced:
                assert not current
                continue
            assert current
            acks = [Ack("events/a", tail["events/a"] - number), Ack("elsewhere", 9)]
            if step in ("release", "stale"):
                one = rules.released(one)
            else:
                one = rules.acked(one, acks, now, done=step == "done")
        assert one.links["events/a"].acked >= before
        assert one.generation >= generation
        generation = one.generation
        assert rules.pending(one, tail) == (tail["events/a"] > one.links["events/a"].acked)
        with pytest.raises(Fenced):
            rules.check(one, "forged", one.wake.id if one.wake else "", one.generation)


def test_a_token_says_whose_it_is() -> None:
    one = rules.woken(subscription(), {}, "w", 0.0)
    assert rules.owner_in(one.token()) == ME
    for wrong in ("", "x", "é", ".", base64.urlsafe_b64encode(b"[1]").decode(), one.token()[1:]):
        with pytest.raises(Fenced):
            rules.check(one, wrong, "w", 1)
    with pytest.raises(Fenced):
        rules.owner_in("nonsense")


async def test_workers_take_turns() -> None:
    """Across replicas: one of many who claim at once gets it; a wake at a time; what came meanwhile wakes again."""
    async with pair() as ((one, first), (two, second)):
        for path in ("wake/pool", "events/a", "events/old"):
            await one.create(path, ME, JSON)
        await one.append("events/old", ME, message(b"0"))
        await first.create(ME, "s", PULL, "http://b")
        with pytest.raises(NothingPending):
            await first.claim(ME, "s", "early")  # what was there before is not for it
        number = await add(two, second, "events/a")
        await add(one, first, "events/a")
        assert await wakes(one) == [1]
        claims = await asyncio.gather(
            *((first, second)[n % 2].claim(ME, "s", f"w{n}") for n in range(6)), return_exceptions=True
        )
        won = [claim for claim in claims if not isinstance(claim, BaseException)]
        assert len(won) == 1
        assert sum(isinstance(claim, AlreadyClaimed) for claim in claims) == 5
        claim = won[0].subscription
        assert claim.wake is not None
        shown = (claim.token(), claim.wake.id, claim.generation)
        assert await second.ack(ME, "s", *shown, [Ack("events/a", number)], done=True)  # the other one is left
        assert await wakes(one) == [1, 2]
        with pytest.raises(Fenced):
            await first.ack(ME, "s", *shown, [], done=True)
        again = (await first.claim(ME, "s", "w")).subscription
        assert again.wake is not None
        await first.release(ME, "s", again.token(), again.wake.id, again.generation)
        assert await wakes(one) == [1, 2, 3]
        last = await second.claim(ME, "s", "w")
        held = last.subscription
        assert held.wake is not None
        acks = [Ack(path, tail) for path, tail in last.tails.items()]
        assert not await second.ack(ME, "s", held.token(), held.wake.id, held.generation, acks, done=True)
        with pytest.raises(NothingPending):
            await first.claim(ME, "s", "w")


async def test_a_worker_that_is_gone_loses_its_wake() -> None:
    clock = Clock()
    async with pair(clock) as ((one, first), (_, second)):
        for path in ("wake/pool", "events/a"):
            await one.create(path, ME, JSON)
        await first.create(ME, "s", PULL, "http://b")
        await add(one, first, "events/a")
        lost = (await first.claim(ME, "s", "gone")).subscription
        assert lost.wake is not None
        clock.now += 11
        async with asyncio.timeout(HANG):  # a replica looks, by itself
            while await wakes(one) != [1, 2]:
                await asyncio.sleep(0.01)
        with pytest.raises(Fenced):
            await second.ack(ME, "s", lost.token(), lost.wake.id, lost.generation, [Ack("events/a", 9)], done=True)
        found = (await second.claim(ME, "s", "next")).subscription
        assert found.links["events/a"].acked < 2


async def test_its_own_wakes_wake_nobody() -> None:
    async with pair() as ((one, first), _):
        await one.create("wake/pool", ME, JSON)
        await first.create(ME, "s", Terms(type="pull-wake", pattern="**", wake_stream="wake/pool"), "http://b")
        await one.create("a", ME, JSON)
        await add(one, first, "a")
        assert await wakes(one) == [1]
        assert set((await first.get(ME, "s")).links) == {"a"}


async def test_what_is_left_of_a_deleted_one_keeps_nobody_waiting() -> None:
    """A replica that dies while it deletes leaves it on the list: the others are woken all the same."""
    clock = Clock()
    async with pair(clock) as ((one, first), _):
        for path in ("wake/pool", "events/a"):
            await one.create(path, ME, JSON)
        await first.create(ME, "deleted", PULL, "http://b")
        await first.create(ME, "s", PULL, "http://b")
        await first._board.delete(ME, "deleted")
        await add(one, first, "events/a")
        assert await wakes(one) == [1]
        await first.claim(ME, "s", "gone")
        clock.now += 11
        async with asyncio.timeout(HANG):  # a replica looks, by itself
            while await wakes(one) != [1, 2]:
                await asyncio.sleep(0.01)


async def test_they_are_somebodys() -> None:
    async with pair() as ((_, first), _):
        await first.create(ME, "s", PULL, "http://b")
        other = Owner("u-2")
        with pytest.raises(NotFound):
            await first.get(other, "s")
        await first.create(other, "s", Terms(type="pull-wake", streams=("x",), wake_stream="y"), "http://b")
        assert (await first.get(ME, "s")).terms == PULL
        await first.delete(ME, "s")
        with pytest.raises(NotFound):
            await first.claim(ME, "s", "w")
        assert (await first.get(other, "s")).terms.wake_stream == "y"


@given(st.integers(0, 10_000))
@settings(max_examples=8)
def test_every_append_is_worked_on(seed: int) -> None:
    """Two replicas append, two workers claim, work, and sometimes give up: in the end nothing is left."""

    async def go() -> None:
        random = Random(seed)
        async with pair() as both:
            one, first = both[0]
            for path in ("wake/pool", "events/a", "events/b"):
                await one.create(path, ME, JSON)
            await first.create(ME, "s", PULL, "http://b")
            done: dict[str, int] = {}
            writing = True

            async def write() -> None:
                nonlocal writing
                for number in range(20):
                    await add(*both[number % 2], random.choice(["events/a", "events/b"]))
                    await asyncio.sleep(random.random() * 0.002)
                writing = False

            async def work(name: str) -> None:
                while True:
                    _, subscriptions = random.choice(both)
                    try:
                        claim = await subscriptions.claim(ME, "s", name)
                    except AlreadyClaimed:
                        await asyncio.sleep(0.001)
                        continue
                    except NothingPending:
                        if not writing:
                            return
                        await asyncio.sleep(0.001)
                        continue
                    wake = claim.subscription.wake
                    assert wake is not None
                    shown = (claim.subscription.token(), wake.id, claim.subscription.generation)
                    if random.random() < 0.2:
                        await subscriptions.release(ME, "s", *shown)
                        continue
                    for path, tail in claim.tails.items():
                        assert tail >= done.get(path, 0)
                        done[path] = tail
                    acks = [Ack(path, tail) for path, tail in claim.tails.items()]
                    await subscriptions.ack(ME, "s", *shown, acks, done=True)

            await within(asyncio.gather(write(), work("x"), work("y")))
            for path, number in done.items():
                assert number == (await one.head(path, ME)).next

    run(go())
