"""Movements of money outside of calls: grants, refills, adjustments; and the re-rating of calls."""

from __future__ import annotations

from typing import Final

import msgspec
from sqlalchemy import bindparam, func, select, update

from unspool.errors import NotFound
from unspool.ledger.calls import LOCK_CALL
from unspool.ledger.database import Transaction
from unspool.ledger.entries import Entry, Posting, post, post_once
from unspool.ledger.prices import Pricer
from unspool.ledger.rules import Source, restored
from unspool.ledger.tables import account, entry, model_call

_FLOOR: Final = update(account).where(account.c.account_id == bindparam("whose")).values(floor=bindparam("lowest"))


class Credit(msgspec.Struct, frozen=True):
    """A movement of money with the caller's own key. `new`: False where the key has an entry from before."""

    entry: Entry
    new: bool


class Rerate(msgspec.Struct, frozen=True):
    """A call that was priced again. Nano-USD; `before` is None where it had no price. `amount`: the difference that was
    entered, 0 for none."""

    call_id: str
    before: int | None
    after: int
    amount: int
    key: str | None


def credit(tx: Transaction, posting: Posting) -> Credit:
    """A grant, a refill or an adjustment, once for its key. Raises LedgerConflict."""
    return Credit(*post_once(tx, posting))


def set_floor(tx: Transaction, whose: str, lowest: int) -> None:
    """Set how far down admissions may take an account, which is made where there is none."""
    tx.insert_new(account, {"account_id": whose, "posted": 0, "held": 0, "floor": lowest})
    tx.run(_FLOOR, {"whose": whose, "lowest": lowest})


def rerate(tx: Transaction, call_id: str, *, pricer: Pricer, at: float, target: str) -> Rerate | None:
    """Price a settled call by today's list, as of when it started, and enter the difference.

    None where there is nothing to do: it is not settled, nothing is known of its usage, or it still has no price.
    Raises NotFound.
    """
    call = tx.first(LOCK_CALL, {"wanted": call_id})
    if call is None:
        raise NotFound(f"there is no model call {call_id!r} in the ledger")
    usage = restored(call.usage, call.source)
    if usage is None or call.source == Source.VOID:
        return None
    price = pricer.price(usage, provider=call.provider, model=call.model, at=call.started_at)
    if price is None:
        return None
    cost = price.amount
    if call.source == Source.ESTIMATE and call.context.get("ceiling") is not None:
        cost = min(cost, call.context["ceiling"])
    mine = update(model_call).where(model_call.c.call_id == call_id)
    tx.run(mine.values(cost_nano=cost, price_version=price.version, unit_prices=price.unit_prices))
    amount = (call.cost_nano or 0) - cost
    if amount == 0:
        return Rerate(call_id, call.cost_nano, cost, 0, None)
    prefix = f"call:{call_id}:rerate:"
    earlier = select(func.count()).where(
        entry.c.generation == call.generation, entry.c.key.startswith(prefix, autoescape=True)
    )
    counted = tx.first(earlier)
    posting = Posting(
        key=f"{prefix}{(counted[0] if counted is not None else 0) + 1}", account=call.account_id, kind="adjust",
        amount=amount, at=at, target=target, generation=call.generation,
        about={
            "call": {
                "call_id": call_id, "agent": call.agent, "provider": call.provider, "model": call.model,
                "usage": call.usage, "cost_nano": cost, "price_version": price.version,
                "unit_prices": price.unit_prices,
            }
        },
    )  # fmt: skip
    made = post(tx, posting)
    return Rerate(call_id, call.cost_nano, cost, amount, made.key)
