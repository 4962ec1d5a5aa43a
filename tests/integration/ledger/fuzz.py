"""Processes that charge the same calls and are killed at random moments; then what the books say.

    python -m tests.integration.ledger.fuzz URL --kills 200 --workers 4 --seed 1

The database must have its tables. Prints one line of JSON; exits 1 where the books are wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import NoReturn

import msgspec

from tests.integration.ledger.conftest import PRICES, calling, key, used
from unspool.errors import CallStarted, Fenced, NotFound
from unspool.ledger import Ledger, LedgerOptions, Usage

CALLS = 3
HOLD = 500_000
LEAST = 10
"""Calls that must have been made before it is over."""


def truth(generation: int, number: int) -> dict[str, int]:
    return used(100 + generation, number)


def cost(generation: int, number: int) -> int:
    return (100 + generation) * 1_000 + number * 2_000


def open_ledger(url: str) -> Ledger:
    # Every process reaps, and leases are short: the dead are cleared away while others still report.
    options = LedgerOptions(sweep=0.2, stale_after=0.1, hold_lease=1.0)
    return Ledger.from_url(url, options=options, pricer=PRICES)


async def work_on(ledger: Ledger, generation: int, rng: random.Random) -> None:
    """All that happens to a generation, some of it twice, in part at the same time."""
    with suppress(Fenced):
        await ledger.admit(key(generation), f"team{generation % 3}", amount=HOLD)

    async def call(number: int) -> None:
        metered = calling(ledger, key(generation), agent=f"a{number}", input_tokens=50)
        try:
            async with metered:
                metered.observe("some text")
                if rng.random() < 0.5:
                    metered.observe({"choices": [], "usage": truth(generation, number)})
                elif rng.random() < 0.5:
                    raise InterruptedError
        except (CallStarted, Fenced, InterruptedError):
            pass
        for _ in range(rng.randint(0, 2)):
            with suppress(NotFound):
                await ledger.settle(metered.call_id, truth(generation, number))

    await asyncio.gather(*(call(number) for number in range(CALLS)))
    if rng.random() < 0.7:
        await ledger.close_hold(key(generation))


async def worker(url: str, generations: int, seed: int) -> None:
    rng = random.Random(seed)
    async with open_ledger(url) as ledger:
        while True:
            await work_on(ledger, rng.randint(1, generations), rng)


def spawn(url: str, generations: int, seed: int) -> int:
    """A worker in a process of its own. Forked: what it takes to begin is loaded already."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            asyncio.run(worker(url, generations, seed))
        finally:
            os._exit(code)
    return pid


async def calls_made(url: str, generations: int) -> int:
    async with open_ledger(url) as ledger:
        return sum([len((await ledger.usage(key(number))).calls) for number in range(1, generations + 1)])


async def replay_and_check(url: str, generations: int) -> dict[str, object]:
    """Report everything once more, in peace; then count."""
    async with open_ledger(url) as ledger:
        for generation in range(1, generations + 1):
            for record in (await ledger.usage(key(generation))).calls:
                await ledger.settle(record.call_id, truth(generation, int(record.agent[1:])))
            await ledger.close_hold(key(generation))
        await ledger.sweep()
        wrong: list[str] = []
        entries: Counter[str] = Counter()
        moved: Counter[str] = Counter()
        after = None
        while True:
            page = await ledger.entries(after=after, limit=1000)
            for entry in page.entries:
                call_id = entry.key.removeprefix("call:").removesuffix(":trueup")
                moved[call_id] += entry.amount
                entries[call_id] += entry.kind == "charge"
            after = page.next
            if after is None:
                break
        calls = 0
        for generation in range(1, generations + 1):
            for record in (await ledger.usage(key(generation))).calls:
                calls += 1
                right = cost(generation, int(record.agent[1:]))
                if (record.cost, moved[record.call_id], entries[record.call_id]) != (right, -right, 1):
                    wrong.append(record.call_id)
        audit = await ledger.audit()
        held = [(await ledger.balance(f"team{number}")).held for number in range(3)]
        return {
            "calls": calls, "entries": audit.entries, "wrong": wrong, "held": sum(held), "open": audit.open_calls,
            "faults": [msgspec.to_builtins(fault) for fault in audit.faults],
        }  # fmt: skip


async def prepare(url: str) -> None:
    async with open_ledger(url) as ledger:
        for number in range(3):
            await ledger.grant(f"team{number}", 10**15, id=f"fuzz {number}")


def main() -> NoReturn:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    generations = max(20, given.kills * 2)
    asyncio.run(prepare(given.url))
    Usage()  # whatever a worker needs is imported by now
    begun = time.monotonic()
    running = [spawn(given.url, generations, rng.getrandbits(32)) for _ in range(given.workers)]
    for _ in range(given.kills):
        time.sleep(rng.uniform(0.02, 0.25))
        victim = running.pop(rng.randrange(len(running)))
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, f"a worker had ended by itself: {status}"
        running.append(spawn(given.url, generations, rng.getrandbits(32)))
    while asyncio.run(calls_made(given.url, generations)) < LEAST:  # a busy machine has not got far by now
        time.sleep(0.2)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    found = asyncio.run(replay_and_check(given.url, generations))
    found |= {"kills": given.kills + given.workers, "seconds": round(time.monotonic() - begun, 1)}
    print(msgspec.json.encode(found).decode())
    sys.exit(bool(found["wrong"] or found["faults"] or found["held"] or found["open"]))


if __name__ == "__main__":
    main()
