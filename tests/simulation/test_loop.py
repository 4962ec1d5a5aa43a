"""The virtual loop: time, order, freezing, killing, and the end."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from unspool.testing.simulation.loop import Domain, SimLoop


def never(_: Domain) -> bool:
    return False


def test_time_passes_only_when_nothing_is_ready_and_timers_fire_in_order() -> None:
    loop, seen = SimLoop(Random(1)), []
    for delay in (5.0, 1.0, 3600.0, 1.0):
        loop.call_later(delay, lambda delay=delay: seen.append((delay, loop.time())))
    loop.call_soon(lambda: seen.append((0.0, loop.time())))
    loop.run(never)
    assert seen == [(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (5.0, 5.0), (3600.0, 3600.0)]
    loop.close()


def test_a_cancelled_timer_is_passed_over() -> None:
    loop, seen = SimLoop(Random(1)), []
    loop.call_later(1.0, seen.append, "cancelled").cancel()
    loop.call_later(2.0, seen.append, "kept")
    loop.run(never)
    assert seen == ["kept"]
    loop.close()


def interleaving(seed: int, *, shuffle: float = 0.0) -> list[tuple[str, int]]:
    loop, seen = SimLoop(Random(seed), shuffle=shuffle), []
    for domain in (loop.domain("a"), loop.domain("b")):
        for number in range(20):
            loop.call_soon(seen.append, (domain.name, number), context=domain.context)
    loop.run(never)
    loop.close()
    return seen


def test_a_domain_keeps_its_order_and_the_seed_says_which_domain_is_next() -> None:
    courses = [interleaving(seed) for seed in range(5)]
    for course in courses:
        for name in "ab":
            assert [number for domain, number in course if domain == name] == list(range(20))
    assert interleaving(3) == courses[3]
    assert len({tuple(course) for course in courses}) == 5


def test_a_shuffling_loop_breaks_the_order_of_a_domain_the_same_way_every_time() -> None:
    course = interleaving(1, shuffle=0.5)
    assert [number for domain, number in course if domain == "a"] != list(range(20))
    assert sorted(course) == sorted(interleaving(1))
    assert course == interleaving(1, shuffle=0.5)


def test_tasks_belong_to_the_domain_that_made_them() -> None:
    loop = SimLoop(Random(1))
    domain = loop.domain("a")

    async def child() -> str:
        await asyncio.sleep(1)
        return loop.running

    async def parent() -> str:
        return await asyncio.create_task(child())

    task = loop.create_task(parent(), context=domain.context)
    loop.run(lambda _: task.done())
    assert task.result() == "a"
    loop.close()


def test_a_frozen_domain_waits_while_the_others_go_on() -> None:
    loop, seen = SimLoop(Random(1)), []
    frozen, other = loop.domain("frozen"), loop.domain("other")

    async def tick(name: str) -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append((name, loop.time()))

    for domain in (frozen, other):
        loop.create_task(tick(domain.name), context=domain.context)
    loop.call_later(1.5, loop.freeze, frozen)
    loop.call_later(10.0, loop.thaw, frozen)
    loop.run(never)
    assert [time for name, time in seen if name == "other"] == [1.0, 2.0, 3.0]
    assert [time for name, time in seen if name == "frozen"] == [1.0, 10.0, 11.0]
    loop.close()


def test_nothing_of_a_killed_domain_runs_again_its_clean_up_included() -> None:
    loop, seen = SimLoop(Random(1)), []
    victim = loop.domain("victim")

    async def work() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                seen.append(loop.time())
        finally:
            seen.append("cleaned up")

    task = loop.create_task(work(), context=victim.context)
    loop.call_later(2.5, loop.kill, victim)
    loop.call_later(3.0, task.cancel)
    loop.call_later(4.0, loop.call_soon, seen.append, "revived", context=victim.context)
    loop.run(never)
    loop.thaw(victim)
    loop.run(never)
    assert seen == [1.0, 2.0]
    assert not task.done()
    loop.close()


def test_what_asyncio_offers_works_on_it() -> None:
    loop = SimLoop(Random(1), shuffle=0.5)

    async def work() -> list[Any]:
        found: list[Any] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.Event().wait()
        found.append(loop.time())
        queue: asyncio.Queue[int] = asyncio.Queue(1)

        async def put() -> None:
            for number in range(3):
                await queue.put(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            found.extend([await queue.get() for _ in range(3)])
        found.append(await asyncio.gather(asyncio.sleep(2, "a"), asyncio.sleep(1, "b")))
        found.append(await asyncio.wait_for(asyncio.shield(asyncio.sleep(1, "c")), 2))
        found.append(loop.time())
        return found

    assert loop.run_until_complete(work()) == [5.0, 0, 1, 2, ["a", "b"], "c", 8.0]
    loop.close()


def test_going_round_in_circles_without_a_moment_passing_is_an_error() -> None:
    loop = SimLoop(Random(1))

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    loop.create_task(spin())
    with pytest.raises(RuntimeError, match="without a moment passing"):
        loop.run(never)
    loop.close()


def test_what_never_ends_is_an_error() -> None:
    loop = SimLoop(Random(1))
    with pytest.raises(RuntimeError, match="nothing is left to do"):
        loop.run_until_complete(asyncio.Event().wait())
    loop.close()


def test_an_error_that_nobody_caught_is_reported_and_the_loop_goes_on() -> None:
    errors, seen = [], []
    loop = SimLoop(Random(1), on_error=errors.append)
    loop.call_soon(lambda: 1 // 0)
    loop.call_later(1.0, seen.append, "on")
    loop.run(never)
    assert [type(error["exception"]) for error in errors] == [ZeroDivisionError]
    assert seen == ["on"]
    loop.close()


def test_closing_ends_every_coroutine_and_runs_nothing_more() -> None:
    loop, seen = SimLoop(Random(1)), []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            seen.append("ended")
            asyncio.create_task(asyncio.sleep(0))  # noqa: RUF006  (asked for too late)
            await asyncio.sleep(1)
            seen.append("never")

    task = loop.create_task(work())
    loop.run(lambda _: True)
    loop.close()
    loop.close()
    loop.run(never)
    assert seen == ["ended"]
    assert not task.done()
    assert loop.is_closed()


def test_its_repr_says_where_it_is() -> None:
    loop = SimLoop(Random(1))
    assert (repr(loop), repr(loop.home)) == ("<SimLoop t=0.000000 steps=0 timers=0>", "<Domain home alive ready=0>")
    loop.close()
