"""Queries of the ledger: balances, entries page by page, the usage of a generation."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, select

from unspool.errors import InvalidArgument
from unspool.events import Event
from unspool.ledger.database import Transaction
from unspool.ledger.entries import Entry, entry_of
from unspool.ledger.rules import restored
from unspool.ledger.tables import Instant, account, entry, model_call
from unspool.ledger.usage import Usage, usage_told

_CURSOR: Final = re.compile(r"([0-9]{1,17}) ([0-9]{1,9})", re.ASCII)
_BALANCE: Final = select(account).where(account.c.account_id == bindparam("whose"))
_CALLS: Final = (
    select(model_call)
    .where(model_call.c.generation == bindparam("whose"))
    .order_by(model_call.c.started_at, model_call.c.call_id)
)


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """An account, in nano-USD. `posted`: all entries. `held`: what running generations have set aside. `floor`: how
    far down admissions may take it."""

    account: str
    posted: int = 0
    held: int = 0
    floor: int = 0

    @property
    def available(self) -> int:
        """The most that an admission or a call may still set aside; negative below the floor."""
        return self.posted - self.held - self.floor

    @property
    def debt(self) -> int:
        """The cost of calls beyond the balance; the next grant repays it."""
        return max(0, -self.posted)


class Page(msgspec.Struct, frozen=True):
    """Entries, newest first. `next`: the cursor of the page after this one, None on the last."""

    entries: list[Entry]
    next: str | None


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One model call as the ledger has it. `state`: started or settled; `source`: provider, estimate or void. `cost`
    in nano-USD: None where it has no price or its usage is not known. Times are Unix seconds."""

    call_id: str
    generation: str
    account: str
    agent: str
    step: str
    attempt: int
    provider: str
    model: str
    state: str
    started_at: float
    source: str | None = None
    usage: Usage | None = None
    cost: int | None = None
    price_version: str | None = None
    unit_prices: dict[str, str] | None = None
    settled_at: float | None = None
    input_tokens: int | None = None
    """Tokens of the request, as its caller had counted them."""

    def event(self) -> Event | None:
        """The `usage` event for viewers, as that of a `Charge`; None while it is open, and for one that never left."""
        if self.state != "settled" or self.source is None or self.source == "void":
            return None
        return usage_told(
            self.usage, call_id=self.call_id, model=self.model, provider=self.provider, agent=self.agent,
            money={"key": f"call:{self.call_id}", "cost_nano": self.cost, "source": self.source},
        )  # fmt: skip


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over calls. `unpriced`: settled ones whose cost is not known. `open`: not settled yet."""

    calls: int = 0
    open: int = 0
    unpriced: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost: int = 0


class GenerationUsage(msgspec.Struct, frozen=True, kw_only=True):
    """The usage of a generation. `reported_…`: as a chat product shows it, the input of the first call and the output
    of all. `billed`: every call, which is what is charged; also by agent, and by `provider/model`."""

    generation: str
    calls: list[CallRecord]
    reported_input_tokens: int
    reported_output_tokens: int
    billed: Totals
    by_agent: dict[str, Totals]
    by_model: dict[str, Totals]


def balance(tx: Transaction, whose: str) -> Balance:
    found = tx.first(_BALANCE, {"whose": whose})
    if found is None:
        return Balance(account=whose)
    return Balance(account=whose, posted=found.posted, held=found.held, floor=found.floor)


def entries(tx: Transaction, whose: str | None, after: str | None, limit: int) -> Page:
    """A page of an account's entries, or of all. Raises InvalidArgument for a cursor that is none."""
    statement = select(entry).order_by(entry.c.created_at.desc(), entry.c.key.desc()).limit(limit + 1)
    if whose is not None:
        statement = statement.where(entry.c.account_id == whose)
    at, seen = (None, 0) if after is None else _decode_cursor(after)
    if at is not None:
        statement = statement.where(entry.c.created_at <= bindparam("at", at, Instant)).offset(seen)
    found = [entry_of(row) for row in tx.all(statement)]
    if len(found) <= limit:
        return Page(found, None)
    shown = found[:limit]
    last = shown[-1].created_at
    known = sum(one.created_at == last for one in shown) + (seen if last == at else 0)
    return Page(shown, _encode_cursor(last, known))


def usage(tx: Transaction, generation: str) -> GenerationUsage:
    return summed(generation, [call_of(row) for row in tx.all(_CALLS, {"whose": generation})])


def call(tx: Transaction, call_id: str) -> CallRecord | None:
    found = tx.first(select(model_call).where(model_call.c.call_id == call_id))
    return None if found is None else call_of(found)


def open_calls(tx: Transaction, generation: str) -> list[str]:
    """The calls of a generation that are not settled yet."""
    mine = select(model_call.c.call_id).where(model_call.c.generation == generation, model_call.c.state == "started")
    return [row.call_id for row in tx.all(mine.order_by(model_call.c.call_id))]


def summed(generation: str, calls: Sequence[CallRecord]) -> GenerationUsage:
    """The totals over the calls of a generation, in their order."""
    told = [call.usage for call in calls if call.usage is not None]
    agents = dict.fromkeys(call.agent for call in calls)
    models = dict.fromkeys(f"{call.provider}/{call.model}" for call in calls)
    return GenerationUsage(
        generation=generation,
        calls=list(calls),
        reported_input_tokens=told[0].input_tokens if told else 0,
        reported_output_tokens=sum(usage.output_tokens for usage in told),
        billed=_totals(calls),
        by_agent={agent: _totals(call for call in calls if call.agent == agent) for agent in agents},
        by_model={
            model: _totals(call for call in calls if f"{call.provider}/{call.model}" == model) for model in models
        },
    )


def call_of(row: Any) -> CallRecord:
    return CallRecord(
        call_id=row.call_id, generation=row.generation, account=row.account_id, agent=row.agent, step=row.step,
        attempt=row.attempt, provider=row.provider, model=row.model, state=row.state, started_at=row.started_at,
        source=row.source, usage=restored(row.usage, row.source), cost=row.cost_nano, price_version=row.price_version,
        unit_prices=row.unit_prices, settled_at=row.settled_at, input_tokens=row.context.get("input_tokens"),
    )  # fmt: skip


def _totals(calls: Iterable[CallRecord]) -> Totals:
    listed = list(calls)
    usages = [call.usage for call in listed if call.usage is not None]
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    return Totals(
        calls=len(listed),
        open=sum(call.state == "started" for call in listed),
        unpriced=sum(call.state == "settled" and call.cost is None for call in listed),
        cost=sum(call.cost or 0 for call in listed),
        **{name: sum(getattr(usage, name) for usage in usages) for name in names},
    )


def _encode_cursor(at: float, seen: int) -> str:
    """Encode the end of a page: the time of its last entry, and the number of that time shown. It names no entry, since
    not all who share an account may know what an entry was for."""
    text = f"{round(at * 1_000_000)} {seen}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode_cursor(cursor: str) -> tuple[float, int]:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        found = _CURSOR.fullmatch(text)
    except (binascii.Error, ValueError):
        found = None
    if found is None:
        raise InvalidArgument("the cursor is not one of this ledger; leave it out to begin with the newest")
    return int(found[1]) / 1_000_000, int(found[2])


def settled(
    tx: Transaction, after: str, limit: int, provider: str | None, model: str | None, unpriced: bool
) -> list[CallRecord]:
    """Settled calls in the order of their ids, behind `after`."""
    statement = select(model_call).where(model_call.c.state == "settled", model_call.c.call_id > after)
    for column, wanted in ((model_call.c.provider, provider), (model_call.c.model, model)):
        if wanted is not None:
            statement = statement.where(column == wanted)
    if unpriced:
        statement = statement.where(model_call.c.cost_nano.is_(None))
    return [call_of(row) for row in tx.all(statement.order_by(model_call.c.call_id).limit(limit))]
