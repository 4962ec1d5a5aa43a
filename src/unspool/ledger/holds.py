"""Holds: money that is set aside for a generation while it runs. Leased, topped up, and closed once, by its seal.

Money is set aside before there is a generation, since a start that is refused must not have replaced anything: the hold
then bears a reserved name, `stream/+token`, and is given the generation's once that has a number.

A hold whose lease has run out gives back what it has and stays open, for the ledger does not know who lives: its owner
may only have been cut off from the ledger, and opens it again by a renewal or its next call. One that is only reserved
is deleted.

Rows are locked in one order, here and wherever the ledger writes: call, hold, stream, account. The one exception is the
start of a call, which locks its hold before it inserts the call. A transaction that locks several holds takes them in
the order of their names.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Select, bindparam, delete, or_, select, update

from unspool.errors import Fenced, InsufficientBalance, TooManyGenerations
from unspool.ledger.database import Transaction
from unspool.ledger.money import in_usd
from unspool.ledger.tables import account, hold, stream

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
_RENAME: Final = (
    update(hold)
    .where(hold.c.generation == bindparam("reserved"), hold.c.state == OPEN)
    .values(generation=bindparam("whose"), epoch=bindparam("by"))
)
_HIGHEST: Final = select(stream.c.highest).where(stream.c.stream_id == bindparam("whose"))
_RAISE_HIGHEST: Final = (
    update(stream)
    .where(stream.c.stream_id == bindparam("whose"), stream.c.highest < bindparam("number"))
    .values(highest=bindparam("number"))
)
_REMOVE: Final = delete(hold).where(hold.c.generation == bindparam("whose"))


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Money set aside for a generation. `remaining`: nano-USD. `expires_at`: Unix seconds of the database's clock."""

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


def reserved_name(stream_id: str, token: str) -> str:
    """The name of a hold whose generation has no number yet."""
    return f"{stream_id}/+{token}"


def numbered(generation: str) -> tuple[str, int]:
    """The stream and the number of a hold's generation; 0 where it is only reserved."""
    stream_id, _, number = generation.rpartition("/")
    return stream_id, 0 if number.startswith("+") else int(number)


def running(tx: Transaction, whose: str) -> list[str]:
    """The generations whose holds on an account are open, and not run out."""
    mine = select(hold.c.generation).where(
        hold.c.account_id == whose, hold.c.state == OPEN, hold.c.expires_at >= tx.now()
    )
    return [row.generation for row in tx.all(mine.order_by(hold.c.generation))]


def highest(tx: Transaction, stream_id: str) -> int:
    """The highest number of a stream's generations that ever had a hold."""
    found = tx.first(_HIGHEST, {"whose": stream_id})
    return 0 if found is None else found.highest


def _note(tx: Transaction, generation: str) -> None:
    """Remember the number of a generation that has a hold now."""
    stream_id, number = numbered(generation)
    if number and not tx.insert_new(stream, {"stream_id": stream_id, "highest": number}):
        tx.run(_RAISE_HIGHEST, {"whose": stream_id, "number": number})


def reserve(tx: Transaction, name: str, whose: str, amount: int, lease: float, limit: int) -> int:
    """Set money aside for a start. Returns the highest number that its stream ever had here.

    `limit`: how many streams may hold something of the account, this one included; 0: any number. Raises
    InsufficientBalance, TooManyGenerations.
    """
    admit(tx, name, whose, amount, 1, lease)  # from here on others who start on this account wait
    stream_id, _ = numbered(name)
    others = {numbered(generation) for generation in running(tx, whose)}
    others = {(other, number) for other, number in others if other != stream_id}
    if limit and len(streams := {other for other, _ in others}) >= limit:
        raise TooManyGenerations(
            f"{len(streams)} generations are running on the account, and {limit} may; stop one, or wait for its end",
            limit=limit, running=[{"stream_id": other, "generation": number} for other, number in sorted(others)],
        )  # fmt: skip
    return highest(tx, stream_id)


def release(tx: Transaction, name: str) -> None:
    """Give back what was reserved for a start that did not come about. Harmless where that was done before."""
    if close(tx, name) is not None:
        tx.run(_REMOVE, {"whose": name})


def bind(tx: Transaction, name: str, generation: str, epoch: int) -> bool:
    """Give a reserved hold the name of its generation. False where there is none, or the name is taken."""
    if tx.first(LOCK_HOLD, {"whose": generation}) is not None:
        return False
    renamed = tx.change(_RENAME, {"reserved": name, "whose": generation, "by": epoch}) == 1
    if renamed:
        _note(tx, generation)
    return renamed


def admit(
    tx: Transaction, generation: str, whose: str, amount: int, epoch: int, lease: float, reserved: str | None = None
) -> Hold:
    """Open a generation's hold, or take over the one that was reserved for it; a repetition finds the one that is
    there. Raises InsufficientBalance, Fenced."""
    if reserved is not None and bind(tx, reserved, generation, epoch):
        return hold_of(tx.first(LOCK_HOLD, {"whose": generation}))
    tx.insert_new(account, {"account_id": whose, "posted": 0, "held": 0, "floor": 0})
    values = {
        "generation": generation, "account_id": whose, "remaining": amount, "state": OPEN,
        "expires_at": tx.later(lease), "epoch": epoch,
    }  # fmt: skip
    new = tx.insert_new(hold, values)
    if new:
        _note(tx, generation)
        _set_aside(tx, whose, amount)
    found = hold_of(tx.first(LOCK_HOLD, {"whose": generation}))
    if found.state != OPEN or found.account != whose:
        raise Fenced(f"the hold of {generation} is closed, or another account's")
    return found


def top_up(tx: Transaction, held: Hold, wanted: int) -> int:
    """Raise a hold that is locked to `wanted`. Returns what it has then. Raises InsufficientBalance."""
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


def close(tx: Transaction, generation: str, reserved: str | None = None) -> int | None:
    """Close a hold and give back what remains, once. Returns the amount, None where it was closed or never there."""
    if reserved is not None:
        bind(tx, reserved, generation, 1)
    found = tx.first(LOCK_HOLD, {"whose": generation})
    if found is None or found.state != OPEN:
        return None
    tx.run(_CLOSE, {"whose": generation})
    if found.remaining:
        tx.run(_GIVE_BACK, {"whose": found.account_id, "rest": found.remaining})
    return found.remaining


def renew(
    tx: Transaction, generations: Collection[str], epoch: int, lease: float, *, wait: bool = True
) -> Sequence[str]:
    """Renew open holds under an epoch, which fences owners of lower epochs off. Returns the generations renewed.

    Without `wait`, a hold that another transaction has locked is passed over.
    """
    mine = select(hold.c.generation).where(
        hold.c.generation.in_(generations), hold.c.epoch <= epoch, hold.c.state == OPEN
    )
    locked = mine.order_by(hold.c.generation).with_for_update(skip_locked=not wait)
    names = [row.generation for row in tx.all(locked)]
    if names:
        renewed = update(hold).where(hold.c.generation.in_(names))
        tx.run(renewed.values(epoch=epoch, expires_at=tx.later(lease)))
    return names


def take_over(tx: Transaction, generation: str, epoch: int, lease: float) -> bool:
    """Fence a hold's owner off by a higher epoch. Returns whether there is an open hold under it now."""
    return bool(renew(tx, [generation], epoch, lease))


def _late(tx: Transaction) -> Select[Any]:
    """Open holds that have run out and have something to give back, or are only reserved."""
    rest = or_(hold.c.remaining > 0, hold.c.generation.like("%/+%"))
    return select(hold).where(hold.c.state == OPEN, hold.c.expires_at < tx.now(), rest)


def expired(tx: Transaction, behind: str, limit: int) -> Sequence[str]:
    """The generations of holds for `lapse`, in order, behind one of them."""
    page = _late(tx).where(hold.c.generation > behind).order_by(hold.c.generation).limit(limit)
    return [row.generation for row in tx.all(page)]


def lapse(tx: Transaction, generation: str) -> bool:
    """Give back what a hold has, if it is still expired now that it is locked. It stays open, or is deleted where it
    is only reserved."""
    found = tx.first(_late(tx).where(hold.c.generation == generation).with_for_update())
    if found is None:
        return False
    _, number = numbered(generation)
    tx.run(_EMPTY if number else _REMOVE, {"whose": generation})
    if found.remaining:
        tx.run(_GIVE_BACK, {"whose": found.account_id, "rest": found.remaining})
    return True
