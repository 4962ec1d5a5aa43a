"""The reaper: calls whose process died before it could settle them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import and_, or_, select

from unspool.ledger.database import Transaction
from unspool.ledger.estimates import estimate
from unspool.ledger.reads import CallRecord, call_of
from unspool.ledger.tables import hold, model_call
from unspool.ledger.usage import Usage

Recall = Callable[[CallRecord], Awaitable[Usage | None]]
"""What the application knows of a call that nobody settled: from its log, say. A usage whose `source` is `provider` is
taken for the truth; None: nothing more than the ledger itself."""


def stale(tx: Transaction, now: float, after: float, oldest: float, limit: int) -> Sequence[CallRecord]:
    """Calls that nobody seems to settle any more, the oldest first: of generations without an open hold when they are
    `after` seconds old, of all when they are `oldest`."""
    own = and_(hold.c.generation == model_call.c.generation, hold.c.state == "open", hold.c.expires_at >= tx.now())
    statement = (
        select(model_call)
        .join_from(model_call, hold, own, isouter=True)
        .where(
            model_call.c.state == "started",
            or_(
                and_(hold.c.generation.is_(None), model_call.c.started_at <= now - after),
                model_call.c.started_at <= now - oldest,
            ),
        )
        .order_by(model_call.c.started_at)
        .limit(limit)
    )
    return [call_of(row) for row in tx.all(statement)]


def remembered(call: CallRecord) -> Usage | None:
    """What the ledger itself knows of a call: its input, where that was counted before it left."""
    return estimate(None, call.input_tokens, 0)
