"""The outbox: every entry leaves for the outside at least once, with the key by which repetitions are told."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import msgspec
from sqlalchemy import bindparam, or_, select, update

from unspool.errors import StoreUnavailable
from unspool.ledger.database import Database, Transaction
from unspool.ledger.setbacks import pause
from unspool.ledger.tables import outbox

_log = logging.getLogger("unspool.ledger")

_BATCH: Final = 50

_DELIVERED: Final = (
    update(outbox).where(outbox.c.key == bindparam("sent")).values(delivered_at=bindparam("at"), leased_until=None)
)


class Parcel(msgspec.Struct, frozen=True, kw_only=True):
    """An entry on its way out. `key` is the idempotency key. `payload`: the entry (`account`, `kind`, `amount` in
    nano-USD, `balance_after`, `generation`, `created_at`) and, of a call, `call`: its id, agent, provider, model,
    usage, cost and prices. `attempts`: this one included."""

    key: str
    payload: dict[str, Any]
    attempts: int


class Exporter(Protocol):
    """Delivers entries to another system. One that raises is given the parcel again later."""

    async def export(self, parcel: Parcel) -> None: ...

    async def close(self) -> None: ...


class Delivery:
    """Takes what is due from the outbox to an exporter.

    Rows are leased: of several processes each takes its own, and those of one that died come back after `lease`
    seconds. A parcel that is refused comes again after a pause that doubles, up to an hour, for ever: none is lost.
    """

    def __init__(
        self,
        database: Database,
        exporter: Exporter,
        target: str,
        *,
        clock: Callable[[], float],
        rng: random.Random,
        lease: float = 60.0,
    ) -> None:
        self.exporter = exporter
        self.delivered = 0
        self.failed = 0
        self._database = database
        self._target = target
        self._clock = clock
        self._rng = rng
        self._lease = lease

    async def deliver(self) -> int:
        """Deliver one batch of what is due now. Returns the number of rows that were claimed."""
        parcels = await self._database.write(self._claim)
        # What cannot be ticked off comes again when its lease has run out, and fails alone.
        results = await asyncio.gather(*(self._send(parcel) for parcel in parcels), return_exceptions=True)
        delivered = results.count(True)
        self.delivered += delivered
        self.failed += len(results) - delivered
        return len(parcels)

    async def run(self, every: float) -> None:
        """Deliver for ever; a database that is away is waited for."""
        failing = False
        while True:
            try:
                while await self.deliver() == _BATCH:
                    pass
                failing = False
            except StoreUnavailable:
                pass  # the database has said so
            except Exception:  # noqa: BLE001  (the rows stay; the next look tries again)
                if not failing:
                    _log.exception("the outbox cannot be read")
                failing = True
            await asyncio.sleep(every)

    def _claim(self, tx: Transaction) -> Sequence[Parcel]:
        now = tx.now()
        due = (
            select(outbox.c.key)
            .where(
                outbox.c.delivered_at.is_(None),
                outbox.c.target == self._target,
                outbox.c.next_at <= now,
                or_(outbox.c.leased_until.is_(None), outbox.c.leased_until < now),
            )
            .order_by(outbox.c.next_at)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        claim = (
            update(outbox)
            .where(outbox.c.key.in_(due.scalar_subquery()))
            .values(leased_until=tx.later(self._lease), attempts=outbox.c.attempts + 1)
            .returning(outbox.c.key, outbox.c.payload, outbox.c.attempts)
        )
        return [Parcel(key=row.key, payload=row.payload, attempts=row.attempts) for row in tx.all(claim)]

    async def _send(self, parcel: Parcel) -> bool:
        try:
            async with asyncio.timeout(self._lease / 2):
                await self.exporter.export(parcel)
        except Exception as error:  # noqa: BLE001  (an exporter of the application's own may raise anything)
            wait = pause(parcel.attempts, self._rng)
            level = logging.WARNING if parcel.attempts == 1 else logging.DEBUG
            _log.log(level, "%s was not delivered, and is sent again in %.0f s: %r", parcel.key, wait, error)
            await self._database.write(lambda tx: self._again(tx, parcel, wait))
            return False
        done = {"sent": parcel.key, "at": self._clock()}
        await self._database.write(lambda tx: tx.run(_DELIVERED, done))
        return True

    def _again(self, tx: Transaction, parcel: Parcel, wait: float) -> None:
        row = update(outbox).where(outbox.c.key == parcel.key)
        tx.run(row.values(next_at=tx.later(wait), leased_until=None))
