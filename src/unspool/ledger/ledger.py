"""The ledger: accounts, holds, charges. A model call is charged once, however often it is reported."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from unspool.errors import InvalidArgument, UnspoolError, UsageConflict
from unspool.jobs import GenerationKey, call_id, check_id
from unspool.ledger import accounts, calls, holds, reads, reaper, schema
from unspool.ledger import audit as books
from unspool.ledger.accounts import Credit, Rerate
from unspool.ledger.calls import CallStart, Charge
from unspool.ledger.database import Database
from unspool.ledger.entries import Kind, Posting
from unspool.ledger.estimates import TokenCounter
from unspool.ledger.holds import Hold
from unspool.ledger.metered import Desk, MeteredCall
from unspool.ledger.money import check_amount
from unspool.ledger.options import LedgerOptions, Policy
from unspool.ledger.outbox import Delivery, Exporter
from unspool.ledger.owned import OwnedTasks
from unspool.ledger.prices import Pricer, Prices
from unspool.ledger.reads import Balance, CallRecord, GenerationUsage, Page
from unspool.ledger.rules import Source, check_word
from unspool.ledger.setbacks import Setbacks
from unspool.ledger.usage import LARGEST, Usage, normalise

_log = logging.getLogger("unspool.ledger")
_NOTHING: Final = Usage()
_CLOSING: Final = 5.0  # seconds that periodic work and the exporter may take to end
_LARGEST_PAGE: Final = 1000
_PIECE: Final = 500  # holds that are renewed in one transaction


class Ledger:
    """Accounts and charges in one database.

    `url`: `sqlite://` (in memory), `sqlite:///file.db`, `postgresql://user@host/database`. `pricer`: else `Prices()`.
    `counter`: counts the tokens of an answer whose usage is not known; else four bytes are one. `recall`: what the
    application knows of a call whose process died. `report`: called with errors that are raised to no
    caller, a UsageConflict above all; else they are logged. `exporter`: delivers entries while the ledger is open.
    `clock`: Unix seconds, in the place of the database's own.

    Enter it, or `open` and `close` it. Amounts are integer nano-USD: `nano("0.10")`. Everything runs in tasks of its
    own: a caller that is cancelled leaves nothing half done. Any call raises StoreUnavailable when the database stays
    away: what reads within three seconds, what writes within `patience`, or both as `within` says.
    """

    def __init__(
        self,
        url: str,
        *,
        options: LedgerOptions | None = None,
        pricer: Pricer | None = None,
        counter: TokenCounter | None = None,
        recall: reaper.Recall | None = None,
        report: Callable[[UnspoolError], None] | None = None,
        exporter: Exporter | None = None,
        clock: Callable[[], float] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.options = options or LedgerOptions()
        self.recall = recall
        self._tasks = OwnedTasks()
        self._clock = clock or time.time
        self._rng = rng or random.Random()
        self.database = Database(url, self._tasks, clock=clock, patience=self.options.patience, rng=self._rng)
        self._pricer = pricer or Prices()
        self._report = report or _log_report
        self._delivery = None if exporter is None else self.delivery(exporter)
        self._workers: list[asyncio.Task[None]] = []
        self.setbacks = Setbacks(self._clock, self._rng)
        """Calls and generations that the sweep could not settle, by name."""
        self._desk = Desk(self._start, self._withdraw, self._settle, self.report, self._tasks, self.options, counter)

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> Self:
        """A ledger at a URL; `settings` are those of the class. Raises ConfigurationError."""
        return cls(url, **settings)

    def __repr__(self) -> str:
        return f"<Ledger {self.database!r} pending={len(self._tasks)}>"

    # its life

    async def open(self) -> None:
        """Check the tables and start the periodic work. A fresh SQLite database is given its tables.

        Raises ConfigurationError where the tables are not there or are of another version: `unspool ledger migrate`.
        """
        await schema.check(self.database)
        self._workers.append(asyncio.create_task(reaper.sweep_for_ever(self, self._rng)))
        if self._delivery is not None:
            self._workers.append(asyncio.create_task(self._delivery.run(self.options.deliver_every)))

    async def close(self, deadline: float | None = None) -> bool:
        """Finish the settlements under way, for `deadline` seconds (else `drain_on_close`), and give back the database.
        Whether all were finished. Bounded, however the database fails. Idempotent."""
        for worker in self._workers:
            worker.cancel()
        if self._workers:
            await asyncio.wait(self._workers, timeout=_CLOSING)
        self._workers.clear()
        left = await self._tasks.drain(self.options.drain_on_close if deadline is None else deadline)
        if self._delivery is not None:
            try:
                async with asyncio.timeout(_CLOSING):
                    await self._delivery.exporter.close()
            except Exception:  # noqa: BLE001  (the application's own)
                _log.exception("the exporter could not be closed")
        await self.database.close()
        return left == 0

    async def __aenter__(self) -> Self:
        try:
            await self.open()
        except BaseException:
            await self.close(0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def statistics(self) -> dict[str, int]:
        """Figures for people and metrics: tasks under way, calls and holds that the sweep could not settle, entries
        delivered and refused."""
        found = {"pending": len(self._tasks), "setbacks": len(self.setbacks.items)}
        if self._delivery is not None:
            found |= {"delivered": self._delivery.delivered, "refused": self._delivery.failed}
        return found

    def within(self, seconds: float) -> Self:
        """A copy for a caller that cannot wait: each transaction is done in so many seconds, or not at all."""
        bounded = copy(self)
        bounded.database = self.database.within(seconds)
        return bounded

    async def ping(self) -> None:
        """Make sure that the database takes writes. Raises StoreUnavailable."""
        await self.database.ping()

    def report(self, error: UnspoolError) -> None:
        """Tell the application of an error that is raised to no caller. One in its `report` is logged."""
        try:
            self._report(error)
        except Exception:  # noqa: BLE001  (the application's own; what is being settled must be settled)
            _log.exception("the application's report failed; what it was told: %s", error)

    # a generation's money

    async def reserve(self, stream: str, token: str, account: str, *, limit: int = 0) -> int:
        """Set `options.hold` aside for a start on a stream, before its generation has a number; `admit` names it then.
        Repeatable. Answers the highest number of the stream's generations that was ever charged here: a store that
        has forgotten it must not use it again.

        `stream`: its internal name. `limit`: on how many streams generations of the account may run; 0: on any number.
        Raises InsufficientBalance, with the figures, and TooManyGenerations: then nothing has changed.
        """
        check_id("account", account)
        name, held, lease = holds.reserved_name(stream, token), self.options.hold, self.options.hold_lease
        return await self.database.write(lambda tx: holds.reserve(tx, name, account, held, lease, limit))

    async def starting(self, stream: str, account: str) -> bool:
        """Check whether something is reserved for a start on this stream that has no generation yet."""
        running = await self.database.read(lambda tx: holds.running(tx, account))
        return any(holds.numbered(name) == (stream, 0) for name in running)

    async def release(self, stream: str, token: str) -> None:
        """Give back what was reserved for a start that has not come about. Harmless where nothing is."""
        await self.database.write(lambda tx: holds.release(tx, holds.reserved_name(stream, token)))

    async def admit(
        self, key: GenerationKey, account: str, *, epoch: int = 1, amount: int | None = None, token: str | None = None
    ) -> Hold:
        """Set `amount` aside (else `options.hold`) for a generation that is about to start. Repeatable.

        `token`: the generation takes over what was reserved under it, where that is still there. An account that is not
        there has a balance of 0. Raises InsufficientBalance, with the figures; Fenced where its hold is closed already
        or another account's.
        """
        check_id("account", account)
        held = self.options.hold if amount is None else check_amount(amount, least=0)
        name, lease = holds.reserved_name(key.stream_id, token) if token else None, self.options.hold_lease
        return await self.database.write(lambda tx: holds.admit(tx, str(key), account, held, epoch, lease, name))

    async def renew(self, epochs: Mapping[GenerationKey, int]) -> set[str]:
        """Renew the holds of running generations under their owners' epochs, also those that have run out. Those that
        were renewed, as `str(key)`: the others are closed, or another owner's by now.

        Any number of them, 500 in a transaction. Holds that are locked come last, so that they hold up no others.
        """
        left, renewed = {str(key): epoch for key, epoch in epochs.items()}, set[str]()
        for wait in (False, True):
            for epoch in sorted(set(left.values())):
                names = sorted(name for name in left if left[name] == epoch)
                for start in range(0, len(names), _PIECE):
                    work = partial(
                        holds.renew, generations=names[start : start + _PIECE], epoch=epoch,
                        lease=self.options.hold_lease, wait=wait,
                    )  # fmt: skip
                    renewed.update(await self.database.write(work))
            left = {name: epoch for name, epoch in left.items() if name not in renewed}
        return renewed

    async def take_over(self, key: GenerationKey, epoch: int) -> bool:
        """Fence the owner off: from now on only `epoch` may start calls. Whether there is an open hold."""
        lease = self.options.hold_lease
        return await self.database.write(lambda tx: holds.take_over(tx, str(key), epoch, lease))

    async def close_hold(self, key: GenerationKey, *, token: str | None = None) -> int | None:
        """The generation is sealed: give back what remains of its hold, once. Nano-USD; None where it was closed
        before or never there. Calls that are still under way are settled against the account. `token`: what its hold
        was reserved under, for one that was never admitted."""
        name = holds.reserved_name(key.stream_id, token) if token else None
        return await self.database.write(lambda tx: holds.close(tx, str(key), name))

    # model calls

    def call(
        self,
        key: GenerationKey,
        *,
        provider: str,
        model: str,
        agent: str = "main",
        step: str = "0",
        attempt: int = 1,
        epoch: int = 1,
        account: str | None = None,
        token: str | None = None,
        input_tokens: int | None = None,
        hold: int | None = None,
        policy: Policy | None = None,
    ) -> MeteredCall:
        """One model call of a generation that was admitted: `async with ledger.call(…) as call: call.observe(chunk)`.

        `attempt` tells a retry from its predecessor: each is charged. `epoch`: the owner's. `account`, `token`: who
        pays, and what its hold was reserved under, for a generation that could not be admitted at its start.
        `input_tokens`: of the request, where they were counted, for an estimate. `hold`: what the generation's hold is
        made up to before (else `options.hold`). `policy`: instead of the ledger's. See `MeteredCall` for what entering
        raises.

        Raises InvalidArgument for names and counts that cannot be kept.
        """
        check_word("agent", agent)
        check_word("step", step)
        check_word("provider", provider)
        check_word("model", model)
        for name, count, least in (("attempt", attempt, 1), ("input_tokens", input_tokens, 0)):
            if count is not None and (isinstance(count, bool) or not least <= count <= LARGEST):
                raise InvalidArgument(f"{name} must be an integer of {least} or more")
        intent = CallStart(
            call_id=call_id(key, agent, step, attempt), generation=str(key), agent=agent, step=step, attempt=attempt,
            provider=provider, model=model, epoch=epoch, token=secrets.token_hex(8),
            reserved=holds.reserved_name(key.stream_id, token) if token else None,
            hold=self.options.hold if hold is None else check_amount(hold, "hold", least=0), input_tokens=input_tokens,
            account=account,
        )  # fmt: skip
        return MeteredCall(self._desk, intent, policy or self.options.policy)

    async def settle(self, call_id: str, usage: Usage | Mapping[str, Any] | None) -> Charge:
        """Report what a call used: the provider's own object, or a `Usage`, whose `source` says whether it is an
        estimate; None: it will never be known. Any number of times, from anywhere, in any order.

        Raises NotFound for a call that was never started, InvalidArgument for a usage that makes no sense,
        UsageConflict where the provider's word was another before: no money moves then, and `report` is told.
        """
        told = normalise(usage) if isinstance(usage, Mapping) else usage
        source = Source.PROVIDER if told is not None and told.source == "provider" else Source.ESTIMATE
        try:
            return await self._settle(call_id, told, source)
        except UsageConflict as error:
            self.report(error)
            raise

    async def void(self, call_id: str) -> Charge:
        """Say that a call's request never left. Raises NotFound."""
        return await self._settle(call_id, None, Source.VOID)

    # accounts

    async def grant(self, account: str, amount: int, *, id: str) -> Credit:
        """Add money, once for each `id` (a payment's, an invoice's). Makes the account where there is none.

        Raises LedgerConflict where this id was granted before with another amount or account.
        """
        return await self._credit("grant", account, check_amount(amount, least=1), f"grant:{check_word('id', id)}")

    async def refill(self, account: str, amount: int, *, window: str) -> Credit:
        """Add money once in a `window`, for example `2026-11` for a monthly allowance."""
        key = f"refill:{account}:{check_word('window', window)}"
        return await self._credit("refill", account, check_amount(amount, least=1), key)

    async def adjust(self, account: str, amount: int, *, id: str) -> Credit:
        """Correct an account by hand, up or down, once for each `id`."""
        return await self._credit("adjust", account, check_amount(amount), f"adjust:{check_word('id', id)}")

    async def set_floor(self, account: str, floor: int) -> None:
        """Set how far down admissions may take an account: below 0 is credit, above 0 a reserve."""
        check_id("account", account)
        lowest = check_amount(floor, "floor")
        await self.database.write(lambda tx: accounts.set_floor(tx, account, lowest))

    async def rerate(self, call_id: str) -> Rerate | None:
        """Price a settled call by the pricer of now and enter the difference; None where there is nothing to price.

        Raises NotFound, and UnknownPrice where the pricer refuses unknown models.
        """
        return await self.database.write(
            lambda tx: accounts.rerate(tx, call_id, pricer=self._pricer, at=self._clock(), target=self.options.target)
        )

    # reading

    async def balance(self, account: str) -> Balance:
        """An account; zeros where there is none."""
        return await self.database.read(lambda tx: reads.balance(tx, account))

    async def entries(self, account: str | None = None, *, after: str | None = None, limit: int = 100) -> Page:
        """Entries, newest first, of one account or of all. `after`: the cursor of the page before.

        Raises InvalidArgument.
        """
        if not 1 <= limit <= _LARGEST_PAGE:
            raise InvalidArgument(f"limit must be 1 to {_LARGEST_PAGE}")
        return await self.database.read(lambda tx: reads.entries(tx, account, after, limit))

    async def usage(self, key: GenerationKey) -> GenerationUsage:
        """Return the usage of a generation: each call, reported and billed totals, by agent and by model."""
        return await self.database.read(lambda tx: reads.usage(tx, str(key)))

    async def running(self, account: str) -> list[GenerationKey]:
        """The generations that hold something of an account: those that are running, by their leases. One that is
        about to start has the number 0."""
        check_id("account", account)
        names = await self.database.read(lambda tx: holds.running(tx, account))
        return [GenerationKey(*holds.numbered(name)) for name in names]

    async def settled_calls(
        self, *, after: str = "", limit: int = 100, provider: str | None = None, model: str | None = None,
        unpriced: bool = False,
    ) -> list[CallRecord]:  # fmt: skip
        """List settled calls with ids behind `after`, in order, for re-rating."""
        return await self.database.unhurried().read(
            lambda tx: reads.settled(tx, after, limit, provider, model, unpriced)
        )

    async def audit(self) -> books.Audit:
        """Check that the books balance, for every account, at one moment."""
        return await self.database.unhurried().read(books.audit)

    # periodic work

    async def sweep(self) -> int:
        """Give back what expired holds have, and settle the calls that were left open. Returns the number of calls.

        One that fails holds up no other: it is counted in `setbacks`, and tried again later and later.
        """
        return await reaper.sweep(self)

    async def reap(self, key: GenerationKey) -> int:
        """Settle at once every open call of a generation whose process is known to be dead. Returns their number."""
        return await reaper.reap(self, key)

    def delivery(self, exporter: Exporter) -> Delivery:
        """A worker that takes outbox rows to an exporter."""
        return Delivery(self.database, exporter, self.options.target, clock=self._clock, rng=self._rng)

    # the desk of metered calls

    async def _start(self, intent: CallStart) -> None:
        self._pricer.price(_NOTHING, provider=intent.provider, model=intent.model, at=self._clock())
        await self.database.write(lambda tx: calls.start(tx, intent, self.options.hold_lease))

    async def _withdraw(self, intent: CallStart) -> None:
        # Its start may still be committing: it has locked the hold until then.
        await self.database.write(lambda tx: tx.first(holds.LOCK_HOLD, {"whose": intent.generation}))
        if await self.database.write(lambda tx: calls.is_open(tx, intent)):
            await self.void(intent.call_id)

    async def _settle(self, call_id: str, usage: Usage | None, source: Source) -> Charge:
        pricer, now, target = self._pricer, self._clock(), self.options.target
        return await self.database.write(
            lambda tx: calls.settle(tx, call_id, usage, source, pricer=pricer, at=now, target=target)
        )

    async def _credit(self, kind: Kind, account: str, amount: int, key: str) -> Credit:
        check_id("account", account)
        posting = Posting(
            key=key, account=account, kind=kind, amount=amount, at=self._clock(), target=self.options.target
        )
        return await self.database.write(lambda tx: accounts.credit(tx, posting))


def _log_report(error: UnspoolError) -> None:
    _log.error("%s: %s", error.code, error.message)
