"""The audit of the books. Each equation is a query; its result names the accounts that break it."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import ColumnElement, Executable, exists, func, literal, select, union_all

from unspool.ledger.database import Transaction
from unspool.ledger.tables import account, entry, hold, model_call, outbox


class Fault(msgspec.Struct, frozen=True):
    """An equation that does not hold for an account. `expected` and `found`: nano-USD, or counts."""

    account: str
    equation: str
    expected: int
    found: int


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an audit: numbers of rows, the faults, and counts that are no faults but worth knowing."""

    accounts: int
    entries: int
    calls: int
    open_calls: int
    unpriced_calls: int
    undelivered: int
    faults: list[Fault]

    @property
    def balanced(self) -> bool:
        return not self.faults


def _sums(column: ColumnElement[int], of: Any) -> Executable:
    """Accounts whose column differs from the sum of the rows that it should be."""
    sums = of.subquery()
    found = func.coalesce(sums.c.total, 0)
    return (
        select(account.c.account_id, found, column)
        .join_from(account, sums, account.c.account_id == sums.c.account_id, isouter=True)
        .where(column != found)
    )


_CHARGED: Final = select(entry.c.account_id, entry.c.amount.label("amount")).where(entry.c.key.startswith("call:"))
_COST: Final = select(model_call.c.account_id, func.coalesce(model_call.c.cost_nano, 0).label("amount"))
_BOTH: Final = union_all(_CHARGED, _COST).subquery("both")
_MONEY: Final = exists().where(
    entry.c.key.in_([
        literal("call:") + model_call.c.call_id,
        literal("call:") + model_call.c.call_id + literal(":trueup"),
    ])
)  # fmt: skip

_EQUATIONS: Final[dict[str, Executable]] = {
    "posted is the sum of the entries": _sums(
        account.c.posted,
        select(entry.c.account_id, func.sum(entry.c.amount).label("total")).group_by(entry.c.account_id),
    ),
    "held is the sum of the open holds": _sums(
        account.c.held,
        select(hold.c.account_id, func.sum(hold.c.remaining).label("total"))
        .where(hold.c.state == "open")
        .group_by(hold.c.account_id),
    ),
    "closed holds are empty": (
        select(hold.c.account_id, literal(0), func.sum(hold.c.remaining))
        .where(hold.c.state == "closed", hold.c.remaining > 0)
        .group_by(hold.c.account_id)
    ),
    "each entry has an outbox row": (
        select(entry.c.account_id, func.count(), func.count(outbox.c.key))
        .join_from(entry, outbox, entry.c.key == outbox.c.key, isouter=True)
        .group_by(entry.c.account_id)
        .having(func.count() != func.count(outbox.c.key))
    ),
    "the cost of the calls is what was charged for them": (
        select(_BOTH.c[0], literal(0), func.sum(_BOTH.c[1])).group_by(_BOTH.c[0]).having(func.sum(_BOTH.c[1]) != 0)
    ),
    "each settled call has its entry": (
        select(model_call.c.account_id, func.count(), literal(0))
        .where(model_call.c.source.in_(["provider", "estimate"]), ~_MONEY)
        .group_by(model_call.c.account_id)
    ),
}

_COUNTS: Final = select(
    select(func.count()).select_from(account).scalar_subquery(),
    select(func.count()).select_from(entry).scalar_subquery(),
    select(func.count()).select_from(model_call).scalar_subquery(),
    select(func.count()).select_from(model_call).where(model_call.c.state == "started").scalar_subquery(),
    select(func.count())
    .select_from(model_call)
    .where(model_call.c.state == "settled", model_call.c.cost_nano.is_(None))
    .scalar_subquery(),
    select(func.count()).select_from(outbox).where(outbox.c.delivered_at.is_(None)).scalar_subquery(),
)


def audit(tx: Transaction) -> Audit:
    """Check every equation for every account, at one moment."""
    faults: list[Fault] = []
    for equation, statement in _EQUATIONS.items():
        broken = tx.all(statement)
        faults += [Fault(whose, equation, int(expected), int(found)) for whose, expected, found in broken]
    counts = tx.first(_COUNTS)
    assert counts is not None
    return Audit(
        accounts=counts[0], entries=counts[1], calls=counts[2], open_calls=counts[3], unpriced_calls=counts[4],
        undelivered=counts[5], faults=sorted(faults, key=lambda fault: (fault.account, fault.equation)),
    )  # fmt: skip
