"""Entries, the movements of money. An account, its entry and the entry's outbox row change in one transaction."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from sqlalchemy import bindparam, insert, select, update

from unspool.errors import LedgerConflict, NotFound
from unspool.ledger.database import Transaction
from unspool.ledger.tables import account, entry, outbox

Kind = Literal["charge", "trueup", "grant", "refill", "adjust"]

_MOVE: Final = (
    update(account)
    .where(account.c.account_id == bindparam("whose"))
    .values(posted=account.c.posted + bindparam("by"), held=account.c.held - bindparam("released"))
    .returning(account.c.posted)
)
_ENTER: Final = insert(entry)
_SEND: Final = insert(outbox)
_FOUND: Final = select(entry).where(entry.c.key == bindparam("wanted"))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One movement of money. `amount` is what was added to the account, negative for a charge; both are nano-USD.

    `key` names what it is for: `call:{id}`, `call:{id}:trueup`, `call:{id}:rerate:{n}`, `grant:{id}`,
    `refill:{account}:{window}`, `adjust:{id}`. `generation`: whose call it was. `created_at`: Unix seconds.
    """

    key: str
    account: str
    kind: str
    amount: int
    balance_after: int
    created_at: float
    generation: str | None = None


def entry_of(row: Any) -> Entry:
    return Entry(
        key=row.key, account=row.account_id, kind=row.kind, amount=row.amount, balance_after=row.balance_after,
        created_at=row.created_at, generation=row.generation,
    )  # fmt: skip


class Posting(msgspec.Struct, frozen=True, kw_only=True):
    """An entry to be made. `released`: what it takes out of the account's holds. `about`: more for the outbox."""

    key: str
    account: str
    kind: Kind
    amount: int
    at: float
    target: str
    generation: str | None = None
    released: int = 0
    about: dict[str, Any] = {}


def post(tx: Transaction, posting: Posting) -> Entry:
    """Make an entry. The caller has locked the row that its key stands for. Raises NotFound."""
    moved = tx.first(_MOVE, {"whose": posting.account, "by": posting.amount, "released": posting.released})
    if moved is None:
        raise NotFound(f"there is no account {posting.account!r}")
    made = Entry(
        key=posting.key, account=posting.account, kind=posting.kind, amount=posting.amount, balance_after=moved.posted,
        created_at=posting.at, generation=posting.generation,
    )  # fmt: skip
    told = msgspec.structs.asdict(made)
    row = {name: value for name, value in told.items() if name != "account"} | {"account_id": made.account}
    tx.run(_ENTER, row)
    tx.run(
        _SEND,
        {
            "key": made.key,
            "target": posting.target,
            "payload": told | posting.about,
            "attempts": 0,
            "next_at": made.created_at,
        },
    )
    return made


def post_once(tx: Transaction, posting: Posting) -> tuple[Entry, bool]:
    """Make an entry unless its key has one. Returns the entry, and whether it is new.

    The account is locked before the look, so that of two at the same time one finds the other's. Raises LedgerConflict
    where the key has an entry of another amount or account.
    """
    tx.insert_new(account, {"account_id": posting.account, "posted": 0, "held": 0, "floor": 0})
    tx.first(select(account.c.account_id).where(account.c.account_id == posting.account).with_for_update())
    found = tx.first(_FOUND, {"wanted": posting.key})
    if found is None:
        return post(tx, posting), True
    there = entry_of(found)
    if (there.account, there.amount) != (posting.account, posting.amount):
        raise LedgerConflict(
            f"{posting.key} was entered before, with another amount or account; nothing was changed",
            key=posting.key, account=there.account, amount=there.amount,
        )  # fmt: skip
    return there, False
