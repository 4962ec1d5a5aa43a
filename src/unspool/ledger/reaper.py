"""The reaper: holds that ran out, and calls whose process died before it could settle them. Each item fails alone."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, or_, select

from unspool.errors import InvalidArgument, StoreUnavailable, UsageConflict
from unspool.jobs import GenerationKey
from unspool.ledger import holds, reads
from unspool.ledger.database import Transaction
from unspool.ledger.estimates import estimate
from unspool.ledger.reads import CallRecord
from unspool.ledger.tables import hold, model_call
from unspool.ledger.usage import Usage

if TYPE_CHECKING:
    from unspool.ledger.ledger import Ledger

_log = logging.getLogger("unspool.ledger")
_BATCH: Final = 100  # rows that a sweep looks at in one transaction
_PING: Final = 3.0  # seconds
_ITEM: Final = 5.0  # seconds for each transaction of an item
_RECALL: Final = 30.0  # seconds that the application may take to remember a call

Recall = Callable[[CallRecord], Awaitable[Usage | None]]
"""Asks the application for the usage of a call that was never settled, from its log for example. A usage whose `source`
is `provider` is taken for the truth; None: the application knows no more than the ledger itself."""

Work = Callable[["Ledger", str], Awaitable[bool]]


async def sweep_for_ever(ledger: Ledger, rng: random.Random) -> None:
    """Sweep again and again. A database that is away is waited for."""
    failing = False
    while True:
        await asyncio.sleep(ledger.options.sweep * (0.5 + rng.random()))
        try:
            await ledger.within(_PING).ping()
            if ledger.database.health.steady >= ledger.options.hold_lease / 2:  # owners that were cut off renew first
                await sweep(ledger)
            failing = False
        except StoreUnavailable:
            pass  # the database has said so
        except Exception:  # noqa: BLE001  (not foreseen; the next sweep tries again)
            if not failing:
                _log.exception("the sweep of the ledger failed")
            failing = True


async def sweep(ledger: Ledger) -> int:
    """Give back what expired holds have, then settle the calls that were left open. Returns the number of calls."""
    after, oldest = ledger.options.stale_after, ledger.options.oldest_call
    ledger = ledger.within(_ITEM)
    settled_elsewhere = set(ledger.setbacks.items)
    await _each(ledger, lambda tx, behind: holds.expired(tx, behind, _BATCH), _lapse, settled_elsewhere)
    settled = await _each(
        ledger, lambda tx, behind: stale(tx, after, oldest, behind, _BATCH), _settle, settled_elsewhere
    )
    for name in settled_elsewhere:
        ledger.setbacks.done(name)
    return settled


async def reap(ledger: Ledger, key: GenerationKey) -> int:
    """Settle every open call of a generation. Returns their number."""
    found = await ledger.database.read(lambda tx: reads.open_calls(tx, str(key)))
    return sum([await _alone(ledger, call_id, _settle) for call_id in found])


async def _each(
    ledger: Ledger, page: Callable[[Transaction, str], Sequence[str]], work: Work, unlisted: set[str]
) -> int:
    """Do `work` for every name, page by page, but for those whose pause is not over. Returns how often it did.

    Names that are listed are removed from `unlisted`.
    """
    done, behind = 0, ""
    while names := await ledger.database.read(lambda tx, behind=behind: page(tx, behind)):
        unlisted.difference_update(names)
        for name in names:
            if not ledger.setbacks.waiting(name):
                done += await _alone(ledger, name, work)
        behind = names[-1]
    return done


async def _alone(ledger: Ledger, name: str, work: Work) -> bool:
    """Do `work` for one item, whose failure is its own unless the database is away. Raises StoreUnavailable."""
    try:
        done = await work(ledger, name)
    except Exception as error:  # noqa: BLE001  (an application's `recall` or pricer, a locked row, rows without sense)
        ledger.setbacks.failed(name, error)
        if ledger.database.health.away:
            await ledger.within(_PING).ping()  # this one item may have been too slow
        return False
    ledger.setbacks.done(name)
    return done


async def _lapse(ledger: Ledger, generation: str) -> bool:
    return await ledger.database.write(lambda tx: holds.lapse(tx, generation))


async def _settle(ledger: Ledger, call_id: str) -> bool:
    """Settle a call that its process left open. Returns whether this did it."""
    call = await ledger.database.read(lambda tx: reads.call(tx, call_id))
    usage: Usage | None = None
    if call is None:
        return False
    if ledger.recall is not None:
        async with asyncio.timeout(_RECALL):
            usage = await ledger.recall(call)
    try:
        charge = await ledger.settle(call_id, usage or remembered(call))
    except InvalidArgument as error:  # what is remembered is not believed
        ledger.report(error)
        charge = await ledger.settle(call_id, remembered(call))
    except UsageConflict:
        return False  # the provider's word came at the same time; reported
    _log.info("call %s was left open: %s", call_id, charge.outcome)
    return charge.outcome != "duplicate"


def stale(tx: Transaction, after: float, oldest: float, behind: str, limit: int) -> Sequence[str]:
    """Open calls that no process seems to settle, in the order of their ids, behind one of them: of generations without
    an open hold when they are `after` seconds old, of all when they are `oldest`."""
    own = and_(hold.c.generation == model_call.c.generation, hold.c.state == "open", hold.c.expires_at >= tx.now())
    statement = (
        select(model_call.c.call_id)
        .join_from(model_call, hold, own, isouter=True)
        .where(
            model_call.c.state == "started",
            model_call.c.call_id > behind,
            or_(
                and_(hold.c.generation.is_(None), model_call.c.started_at <= tx.later(-after)),
                model_call.c.started_at <= tx.later(-oldest),
            ),
        )
        .order_by(model_call.c.call_id)
        .limit(limit)
    )
    return [row.call_id for row in tx.all(statement)]


def remembered(call: CallRecord) -> Usage | None:
    """Estimate a call by the ledger's own record: its input, where that was counted before it left."""
    return estimate(None, call.input_tokens, 0)
