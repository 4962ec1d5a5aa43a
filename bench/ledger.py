"""The ledger's figures: settlements per second, and what metering adds to a token and to a call.

    python -m bench.ledger [--calls 2000] [--json FILE]

SQLite writes through to the disk (`synchronous=FULL`); PostgreSQL is a server of its own that does so too.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from tests.servers import postgres
from unspool.jobs import GenerationKey
from unspool.ledger import Ledger, LedgerOptions, schema
from unspool.ledger.database import Database
from unspool.ledger.meter import Meter
from unspool.ledger.owned import OwnedTasks

USAGE = {"prompt_tokens": 1000, "completion_tokens": 200, "prompt_tokens_details": {"cached_tokens": 800}}
CHUNK = {"choices": [{"index": 0, "delta": {"content": " token"}, "finish_reason": None}], "usage": None}
LAST: dict[str, Any] = {"choices": [], "usage": USAGE}
AT_ONCE = 50
ACCOUNTS = 100

Work = Callable[[], Awaitable[object]]
Figures = dict[str, float]


async def rate(work: list[Work]) -> float:
    """Do it all, `AT_ONCE` at a time; how many per second."""

    async def share(mine: list[Work]) -> None:
        for one in mine:
            await one()

    begun = time.perf_counter()
    await asyncio.gather(*(share(work[n::AT_ONCE]) for n in range(AT_ONCE)))
    return len(work) / (time.perf_counter() - begun)


async def settlements(ledger: Ledger, name: str, accounts: int, calls: int) -> Figures:
    """Starts and settlements of calls that lie on so many accounts, each with one generation."""
    keys = [GenerationKey(f"{name}{number}", 1) for number in range(accounts)]
    for key in keys:
        await ledger.grant(str(key), 10**15, id=str(key))
        await ledger.admit(key, str(key), amount=10**12)
    made = [
        ledger.call(keys[n % accounts], provider="openai", model="gpt-5", step=str(n), hold=0) for n in range(calls)
    ]
    starts = await rate([call.__aenter__ for call in made])
    settles = await rate([lambda call_id=call.call_id: ledger.settle(call_id, USAGE) for call in made])
    return {f"starts/s, {name}": starts, f"settles/s, {name}": settles}


async def one_call(ledger: Ledger, calls: int) -> Figures:
    """A whole metered call, one after the other: what a run waits for, in milliseconds."""
    key = GenerationKey("alone", 1)
    await ledger.admit(key, "alone", amount=0)
    taken: list[float] = []
    for step in range(calls):
        begun = time.perf_counter()
        async with ledger.call(key, provider="openai", model="gpt-5", step=str(step), hold=0) as call:
            call.observe(LAST)
        taken.append((time.perf_counter() - begun) * 1e3)
    return {"ms per call, alone": median(taken)}


def one_token(chunks: int = 200_000) -> Figures:
    """What observing a chunk takes, in microseconds."""
    observe = Meter().observe
    best = min(_took(lambda: [observe(CHUNK) for _ in range(chunks)]) for _ in range(3))
    return {"µs per token": best / chunks * 1e6}


def _took(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


async def measure(url: str, calls: int) -> Figures:
    database = Database(url, OwnedTasks())
    await schema.migrate(database)
    await database.close()
    async with Ledger.from_url(url, options=LedgerOptions(sweep=3600)) as ledger:
        found = await settlements(ledger, "one hot account", 1, calls)
        found |= await settlements(ledger, f"{ACCOUNTS} accounts", ACCOUNTS, calls)
        found |= await one_call(ledger, min(calls, 500))
        assert (await ledger.audit()).balanced
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description="The ledger's figures.")
    parser.add_argument("--calls", type=int, default=2000, help="calls for each figure")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    given = parser.parse_args()
    found: dict[str, Figures] = {"metering": one_token()}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="unspool-bench-"))
        urls = {"SQLite": f"sqlite:///{folder}/ledger.db"}
        if postgres.binaries() is not None:
            urls["PostgreSQL"] = stack.enter_context(postgres.server(durable=True)).url()
        for engine, url in urls.items():
            found[engine] = asyncio.run(measure(url, given.calls))
    for engine, figures in found.items():
        for name, figure in figures.items():
            print(f"{engine:12} {name:32} {figure:12,.2f}")
    if given.json is not None:
        given.json.write_bytes(msgspec.json.encode(found))


if __name__ == "__main__":
    main()
