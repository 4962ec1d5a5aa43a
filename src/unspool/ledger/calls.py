"""Model calls: an intent before the request leaves, one charge when its usage is known, the truth after an estimate."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec
from sqlalchemy import bindparam, select, update

from unspool.errors import CallStarted, Fenced, InvalidArgument, NotFound, UnspoolError, UsageConflict
from unspool.events import Event
from unspool.ledger.database import Transaction
from unspool.ledger.entries import Posting, post
from unspool.ledger.holds import LOCK_HOLD, OPEN, admit, hold_of, take_over, top_up
from unspool.ledger.prices import Price, Pricer
from unspool.ledger.rules import RULES, Source, Step, fingerprint, keepable, restored, stored
from unspool.ledger.tables import hold, model_call
from unspool.ledger.usage import Usage, usage_told

_log = logging.getLogger("unspool.ledger")

_CALL: Final = select(model_call).where(model_call.c.call_id == bindparam("wanted"))
LOCK_CALL: Final = _CALL.with_for_update()
_SETTLE: Final = (
    update(model_call)
    .where(model_call.c.call_id == bindparam("settled"))
    .values({
        name: bindparam(name)
        for name in (
            "state", "source", "usage", "usage_hash", "raw", "price_version", "unit_prices", "cost_nano", "settled_at",
        )
    })
)  # fmt: skip
_SPEND: Final = (
    update(hold).where(hold.c.generation == bindparam("whose")).values(remaining=hold.c.remaining - bindparam("spent"))
)
_GIVEN: Final = ("call_id", "generation", "agent", "step", "attempt", "provider", "model")


class CallStart(msgspec.Struct, frozen=True, kw_only=True):
    """A model call that is about to leave. `epoch`: the owner's, which fences it. `hold`: nano-USD that the
    generation's hold is raised to before. `input_tokens`: of the request, as far as the caller knows. `account`: who
    pays where the generation was not admitted yet, and `reserved` the name of the hold, if there is one. `token`: this
    start, which tells it from another start of the call."""

    call_id: str
    generation: str
    agent: str
    step: str
    attempt: int
    provider: str
    model: str
    epoch: int
    token: str
    reserved: str | None = None
    hold: int = 0
    input_tokens: int | None = None
    account: str | None = None


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a report of usage.

    `outcome`: `charged` (or settled without money: an unpriced or unknown usage), `trued_up`, `void`, or `duplicate`:
    it was settled before, and the figures are those of then. `key`: of the entry, None where there is none. `cost`:
    nano-USD of the whole call, None where it is not known. `amount`: what this report added to the account, negative
    for a charge. `usage` is None where nothing is known of it.
    """

    call_id: str
    outcome: str
    source: str
    provider: str
    model: str
    agent: str
    usage: Usage | None = None
    cost: int | None = None
    amount: int = 0
    key: str | None = None
    balance: int | None = None

    def event(self) -> Event:
        """The `usage` event for viewers: the usage, what it costs, and the entry's key, which tells repetitions."""
        return usage_told(
            self.usage, call_id=self.call_id, model=self.model, provider=self.provider, agent=self.agent,
            money={"key": self.key, "cost_nano": self.cost, "source": self.source},
        )  # fmt: skip


def start(tx: Transaction, call: CallStart, lease: float) -> None:
    """Write the intent. A hold that has run out, or has not heard of a take-over, is opened again for `lease` seconds;
    that of an owner who died before it was admitted is opened now.

    Raises CallStarted, Fenced, InsufficientBalance: then nothing may be sent.
    """
    # The hold comes first here: a call that is being made can only be waited for by another start of the same call,
    # which wants the same hold first. Everywhere else the order is call, hold, account.
    lock = LOCK_HOLD.add_columns((hold.c.expires_at < tx.now()).label("late"))
    found = tx.first(lock, {"whose": call.generation})
    if found is None and call.account is not None:
        admit(tx, call.generation, call.account, call.hold, call.epoch, lease, call.reserved)
        found = tx.first(lock, {"whose": call.generation})
    if found is None or found.state != OPEN or found.epoch > call.epoch:
        raise Fenced(f"{call.generation} has no open hold under epoch {call.epoch}; the call must not be sent")
    ceiling = max(found.remaining, call.hold)  # what an estimate may come to
    context = {"token": call.token, "input_tokens": call.input_tokens, "ceiling": ceiling or None}
    row = {name: getattr(call, name) for name in _GIVEN}
    row |= {"account_id": found.account_id, "state": "started", "context": context, "started_at": tx.now()}
    if tx.insert_new(model_call, row):
        if found.epoch < call.epoch or found.late:
            take_over(tx, call.generation, call.epoch, lease)
        top_up(tx, hold_of(found), call.hold)
        return
    if is_open(tx, call):
        return  # by this very start, whose commit was not answered
    raise CallStarted(f"the call {call.call_id} was started before; a retry is a new attempt", call_id=call.call_id)


def is_open(tx: Transaction, call: CallStart) -> bool:
    """Tell whether this start has written its intent, and the call is not settled yet."""
    found = tx.first(_CALL, {"wanted": call.call_id})
    return found is not None and found.state == "started" and found.context.get("token") == call.token


def settle(
    tx: Transaction, call_id: str, usage: Usage | None, source: Source, *, pricer: Pricer, at: float, target: str
) -> Charge:
    """Settle a call by a report: see `rules.RULES`. Raises NotFound, UsageConflict, InvalidArgument."""
    call = tx.first(LOCK_CALL, {"wanted": call_id})
    if call is None:
        raise NotFound(f"there is no model call {call_id!r} in the ledger")
    step = RULES[None if call.source is None else Source(call.source), source]
    mark = fingerprint(usage) if usage is not None else None
    if step is Step.COMPARE and call.usage_hash != mark:
        raise UsageConflict(
            f"the provider's usage of {call_id} was reported before, with other figures; no money moved",
            call_id=call_id, known=call.usage, reported=stored(usage) if usage is not None else None,
        )  # fmt: skip
    if step in (Step.COMPARE, Step.DUPLICATE):
        return _told(call, "duplicate", str(call.source), restored(call.usage, call.source), call.cost_nano)
    price = _price(pricer, usage, source, call)
    cost = price.amount if price is not None else None
    if step is Step.TRUE_UP and cost is None:
        cost = call.cost_nano  # the truth has no price: what the estimate came to stays
    ceiling = call.context.get("ceiling")
    if source is Source.ESTIMATE and cost is not None and ceiling is not None:
        cost = min(cost, ceiling)
    settled: dict[str, Any] = {
        "settled": call_id, "state": "settled", "source": str(source), "usage_hash": mark, "settled_at": at,
        "usage": stored(usage) if usage is not None else None,
        "raw": keepable(usage.raw) if usage is not None else None,
        "price_version": price.version if price is not None else call.price_version,
        "unit_prices": price.unit_prices if price is not None else call.unit_prices,
        "cost_nano": 0 if step is Step.VOID else cost,
    }  # fmt: skip
    tx.run(_SETTLE, settled)
    if step is Step.VOID:
        return _told(call, "void", source, None, 0)
    amount = (call.cost_nano or 0) - (cost or 0)
    key = f"call:{call_id}:trueup" if step is Step.TRUE_UP else f"call:{call_id}"
    made = post(
        tx,
        Posting(
            key=key,
            account=call.account_id,
            kind="trueup" if step is Step.TRUE_UP else "charge",
            amount=amount,
            at=at,
            target=target,
            generation=call.generation,
            released=_spend(tx, call.generation, -amount),
            about={"call": _about(call, settled)},
        ),
    )
    outcome = "trued_up" if step is Step.TRUE_UP else "charged"
    charge = _told(call, outcome, source, usage, cost)
    return msgspec.structs.replace(charge, key=key, amount=amount, balance=made.balance_after)


def _told(call: Any, outcome: str, source: str, usage: Usage | None, cost: int | None) -> Charge:
    key = None if outcome == "void" or call.source == Source.VOID else f"call:{call.call_id}"
    return Charge(
        call_id=call.call_id, outcome=outcome, source=str(source), provider=call.provider, model=call.model,
        agent=call.agent, usage=usage, cost=cost, key=key,
    )  # fmt: skip


def _about(call: Any, settled: dict[str, Any]) -> dict[str, Any]:
    """Describe the call behind an entry to exporters."""
    names = ("source", "usage", "price_version", "unit_prices", "cost_nano")
    fixed = {name: getattr(call, name) for name in ("call_id", "agent", "step", "attempt", "provider", "model")}
    return fixed | {name: settled[name] for name in names}


def _price(pricer: Pricer, usage: Usage | None, source: Source, call: Any) -> Price | None:
    """Price a usage; None where no price is known, which settlement is never refused for."""
    if usage is None:
        return None
    try:
        price = pricer.price(usage, provider=call.provider, model=call.model, at=call.started_at)
    except UnspoolError as error:
        if isinstance(error, InvalidArgument) and source is Source.PROVIDER:
            raise
        _log.warning("call %s: %s", call.call_id, error)
        return None
    except Exception:  # noqa: BLE001  (an application's own pricer; the usage must be kept whatever it does)
        _log.exception("call %s: the pricer failed; its usage is recorded without a cost", call.call_id)
        return None
    if price is None:
        _log.warning("call %s: no price for %s/%s; recorded without a cost", call.call_id, call.provider, call.model)
    return price


def _spend(tx: Transaction, generation: str, cost: int) -> int:
    """Take a cost out of the hold, as far as that reaches, and return the amount."""
    if cost <= 0:
        return 0
    found = tx.first(LOCK_HOLD, {"whose": generation})
    spent = min(found.remaining, cost) if found is not None else 0
    if spent:
        tx.run(_SPEND, {"whose": generation, "spent": spent})
    return spent
