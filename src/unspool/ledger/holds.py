"""Holds: what a generation may spend, set aside while it runs. Leased, topped up, and closed once, by its seal.

A hold whose lease has run out gives back what it has and stays open, for the ledger does not know who lives: its owner
may only have been cut off from the ledger, and opens it again by a renewal or its next call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, select, tuple_, update

from unspool.errors import Fenced, InsufficientBalance
from unspool.ledger.database import Transaction
from unspool.ledger.money import in_usd
from unspool.ledger.tables import account, hold

OPEN: Final = "open"
CLOSED: Final = "closed"

LOCK_HOLD: Final = select(hold).where(hold.c.generation == bindparam("whose")).with_for_update()
_SET_ASIDE: Final = (
    update(account)
    .where(
        account.c.account_id == bindparam("whose"),
        account.c.posted - account.c.held - bindparam("more") >= account.c.floor,
    )
    .values(held=account.c.held + bindparam("more"))
    .returning(account.c.posted)
)
_GIVE_BACK: Final = (
    update(account).where(account.c.account_id == bindparam("whose")).values(held=account.c.held - bindparam("rest"))
)
_RAISE: Final = (
    update(hold).where(hold.c.generation == bindparam("whose")).values(remaining=hold.c.remaining + bindparam("more"))
)
_EMPTY: Final = update(hold).where(hold.c.generation == bindparam("whose")).values(remaining=0)
_CLOSE: Final = update(hold).where(hold.c.generation == bindparam("whose")).values(remaining=0, state=CLOSED)
_ACCOUNT: Final = select(account).where(account.c.account_id == bindparam("whose"))


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What is set aside for a generation. `remaining`: nano-USD. `expires_at`: Unix seconds of the database's clock."""

    generation: str
    account: str
    remaining: int
    state: str
    expires_at: float
    epoch: int


def hold_of(row: Any) -> Hold:
    return Hold(
        generation=row.generation, account=row.account_id, remaining=row.remaining, state=row.state,
        expires_at=row.expires_at, epoch=row.epoch,
    )  # fmt: skip


def admit(tx: Transaction, generation: str, whose: str, amount: int, epoch: int, lease: float) -> Hold:
    """Open a generation's hold; a repetition finds the one that is there. Raises InsufficientBalance, Fenced."""
    tx.insert_new(account, {"account_id": whose, "posted": 0, "held": 0, "floor": 0})
    values = {
        "generation": generation, "account_id": whose, "remaining": amount, "state": OPEN,
        "expires_at": tx.later(lease), "epoch": epoch,
    }  # fmt: skip
    new = tx.insert_new(hold, values)
    if new:
        _set_aside(tx, whose, amount)
    found = hold_of(tx.first(LOCK_HOLD, {"whose": generation}))
    if found.state != OPEN or found.account != whose:
        raise Fenced(f"the hold of {generation} is closed, or another account's")
    return found


def top_up(tx: Transaction, held: Hold, wanted: int) -> int:
    """Raise a hold that is locked to `wanted`; what it has then. Raises InsufficientBalance."""
    more = wanted - held.remaining
    if more <= 0:
        return held.remaining
    tx.run(_RAISE, {"whose": held.generation, "more": more})
    _set_aside(tx, held.account, more)
    return wanted


def _set_aside(tx: Transaction, whose: str, more: int) -> None:
    if tx.first(_SET_ASIDE, {"whose": whose, "more": more}) is not None:
        return
    there = tx.first(_ACCOUNT, {"whose": whose})
    balance, held, floor = (there.posted, there.held, there.floor) if there is not None else (0, 0, 0)
    raise InsufficientBalance(
        f"the balance of {whose} does not cover this: {in_usd(balance - held - floor)} USD are available, "
        f"{in_usd(more)} needed",
        account=whose, balance=balance, held=held, needed=more, floor=floor,
    )  # fmt: skip


def close(tx: Transaction, generation: str) -> int | None:
    """Close a hold and give back what remains, once: how much, None where it was closed or never there."""
    found = tx.first(LOCK_HOLD, {"whose": generation})
    if found is None or found.state != OPEN:
        return None
    tx.run(_CLOSE, {"whose": generation})
    if found.remaining:
        tx.run(_GIVE_BACK, {"whose": found.account_id, "rest": found.remaining})
    return found.remaining


def renew(tx: Transaction, epochs: Mapping[str, int], lease: float) -> Sequence[str]:
    """Renew the holds of these generations, each under its epoch; those that are renewed."""
    if not epochs:
        return []
    mine = tuple_(hold.c.generation, hold.c.epoch).in_(list(epochs.items()))
    statement = update(hold).where(mine, hold.c.state == OPEN).values(expires_at=tx.later(lease))
    renewed = {row.generation for row in tx.all(statement.returning(hold.c.generation))}
    # The others are closed, or have not heard of a take-over.
    return [
        generation
        for generation, epoch in epochs.items()
        if generation in renewed or take_over(tx, generation, epoch, lease)
    ]


def take_over(tx: Transaction, generation: str, epoch: int, lease: float) -> bool:
    """Fence the hold's owner off by a higher epoch; whether there is an open hold under it now."""
    lower = update(hold).where(hold.c.generation == generation, hold.c.epoch <= epoch, hold.c.state == OPEN)
    taken = lower.values(epoch=epoch, expires_at=tx.later(lease)).returning(hold.c.generation)
    return tx.first(taken) is not None


def expired(tx: Transaction, behind: str, limit: int) -> Sequence[str]:
    """Generations whose holds have run out with something in them, in their order, behind one of them."""
    late = select(hold.c.generation).where(hold.c.state == OPEN, hold.c.expires_at < tx.now(), hold.c.remaining > 0)
    page = late.where(hold.c.generation > behind).order_by(hold.c.generation).limit(limit)
    return [row.generation for row in tx.all(page)]


def lapse(tx: Transaction, generation: str) -> bool:
    """Give back what a hold has, if it is still expired now that it is locked. It stays open."""
    late = select(hold).where(
        hold.c.generation == generation, hold.c.state == OPEN, hold.c.expires_at < tx.now(), hold.c.remaining > 0
    )
    found = tx.first(late.with_for_update())
    if found is None:
        return False
    tx.run(_EMPTY, {"whose": generation})
    tx.run(_GIVE_BACK, {"whose": found.account_id, "rest": found.remaining})
    return True
