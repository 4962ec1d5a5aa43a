"""Any interleaving of admissions, calls, reports, ends, reapers and repetitions keeps the books balanced, and charges
each call what the best report of it came to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.integration.ledger.conftest import PRICES, key, started
from unspool.errors import CallStarted, Fenced, InsufficientBalance, UsageConflict
from unspool.ledger import Ledger, LedgerOptions, Usage

EXAMPLES = itertools.count(1)
ACCOUNTS = st.sampled_from(["a", "b"])
TOKENS = st.integers(0, 50)
GENERATIONS = st.integers(1, 4)


class Books(RuleBasedStateMachine):
    """The ledger beside a model of it that fits on a page."""

    url = "sqlite://"

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"example{next(EXAMPLES)}"
        self.now = 1_000_000.0
        self.posted = {"a": 0, "b": 0}
        self.owner: dict[int, str] = {}
        self.open: dict[int, int] = {}  # generation → epoch
        self.remaining: dict[int, int] = {}
        self.calls: dict[str, dict[str, Any]] = {}
        self.grants: dict[str, tuple[str, int]] = {}
        self.runner = asyncio.Runner()
        options = LedgerOptions(sweep=3600, stale_after=0, oldest_call=10_000)
        self.ledger = Ledger.from_url(self.url, options=options, pricer=PRICES, clock=lambda: self.now)
        self.do(self.ledger.open())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.do(self.ledger.close())
        self.runner.close()

    def account(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def key(self, generation: int) -> Any:
        return key(generation, self.prefix)

    def available(self, account: str) -> int:
        return self.posted[account] - self.held(account)

    def held(self, account: str) -> int:
        return sum(self.remaining[one] for one in self.open if self.owner[one] == account)

    @rule(account=ACCOUNTS, amount=st.integers(1, 200_000), number=st.integers(1, 5))
    def grant(self, account: str, amount: int, number: int) -> None:
        _, amount = self.grants.setdefault(f"{account}{number}", (account, amount))
        credit = self.do(self.ledger.grant(self.account(account), amount, id=f"{self.prefix}-{account}{number}"))
        if credit.new:
            self.posted[account] += amount

    @rule(generation=GENERATIONS, account=ACCOUNTS, amount=st.integers(0, 100_000))
    def admit(self, generation: int, account: str, amount: int) -> None:
        work = self.ledger.admit(self.key(generation), self.account(account), amount=amount)
        if generation in self.owner:
            if generation in self.open and self.owner[generation] == account:
                assert self.do(work).remaining == self.remaining[generation]
            else:
                with pytest.raises(Fenced):
                    self.do(work)
        elif self.available(account) < amount:
            with pytest.raises(InsufficientBalance):
                self.do(work)
        else:
            self.do(work)
            self.owner[generation], self.open[generation], self.remaining[generation] = account, 1, amount

    @rule(generation=GENERATIONS, epoch=st.integers(1, 3), step=st.integers(0, 2), hold=st.sampled_from([0, 20_000]))
    def start(self, generation: int, epoch: int, step: int, hold: int) -> None:
        call_id = f"{self.key(generation)}/main/{step}/1"
        work = started(self.ledger, self.key(generation), step=str(step), epoch=epoch, hold=hold)
        if generation not in self.open or self.open[generation] > epoch:
            with pytest.raises(Fenced):
                self.do(work)
            return
        if call_id in self.calls:
            with pytest.raises(CallStarted):
                self.do(work)
            return
        account = self.owner[generation]
        more = max(0, hold - self.remaining[generation])
        if more and self.available(account) < more:
            with pytest.raises(InsufficientBalance):
                self.do(work)
            return
        assert self.do(work) == call_id
        self.remaining[generation] += more
        self.open[generation] = epoch  # a call under a higher epoch takes over
        ceiling = self.remaining[generation]
        self.calls[call_id] = {"generation": generation, "source": None, "cost": 0, "ceiling": ceiling, "tokens": None}

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), tokens=TOKENS, source=st.sampled_from(["provider", "estimate", "void"]))
    def report(self, data: st.DataObject, tokens: int, source: str) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.calls)))
        call = self.calls[call_id]
        if source == "void":
            outcome = self.do(self.ledger.void(call_id)).outcome
            assert outcome == ("void" if call["source"] is None else "duplicate")
            call["source"] = call["source"] or "void"
            return
        usage = Usage(input_tokens=tokens, source=source)  # pyright: ignore[reportArgumentType]
        if call["source"] == "provider":
            if source == "provider" and tokens != call["tokens"]:
                with pytest.raises(UsageConflict):
                    self.do(self.ledger.settle(call_id, usage))
            else:
                assert self.do(self.ledger.settle(call_id, usage)).outcome == "duplicate"
        elif call["source"] is None or source == "provider":
            charge = self.do(self.ledger.settle(call_id, usage))
            assert charge.outcome == ("charged" if call["source"] is None else "trued_up")
            self.charge(call, source, tokens)
        else:
            assert self.do(self.ledger.settle(call_id, usage)).outcome == "duplicate"

    def charge(self, call: dict[str, Any], source: str, tokens: int) -> None:
        cost = tokens * 1_000
        if source == "estimate" and call["ceiling"]:
            cost = min(cost, call["ceiling"])
        more = cost - call["cost"]
        generation = call["generation"]
        if generation in self.open and more > 0:
            self.remaining[generation] -= min(more, self.remaining[generation])
        self.posted[self.owner[generation]] -= more
        call.update(source=source, tokens=tokens, cost=cost)

    @rule(generation=GENERATIONS)
    def close(self, generation: int) -> None:
        back = self.do(self.ledger.close_hold(self.key(generation)))
        assert back == (self.remaining[generation] if self.open.pop(generation, None) else None)

    @rule(generation=GENERATIONS, epoch=st.integers(1, 3))
    def take_over(self, generation: int, epoch: int) -> None:
        taken = self.do(self.ledger.take_over(self.key(generation), epoch))
        assert taken == (generation in self.open and self.open[generation] <= epoch)
        if taken:
            self.open[generation] = epoch

    @rule(generation=GENERATIONS)
    def reap(self, generation: int) -> None:
        self.do(self.ledger.reap(self.key(generation)))
        for call in self.calls.values():
            if call["generation"] == generation and call["source"] is None:
                call["source"] = "estimate"  # nothing was known of it

    @rule()
    def time_passes_and_everything_is_swept(self) -> None:
        self.now += 61
        self.do(self.ledger.sweep())
        for generation in self.open:
            self.remaining[generation] = 0  # given back; its owner may be alive, and open it again
        for call in self.calls.values():
            call["source"] = call["source"] or "estimate"

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def rerate(self, data: st.DataObject) -> None:
        rerated = self.do(self.ledger.rerate(data.draw(st.sampled_from(sorted(self.calls)))))
        assert rerated is None or rerated.amount == 0

    @invariant()
    def the_books_balance(self) -> None:
        assert self.do(self.ledger.audit()).faults == []
        for name in ("a", "b"):
            balance = self.do(self.ledger.balance(self.account(name)))
            assert (balance.posted, balance.held) == (self.posted[name], self.held(name))

    @invariant()
    def each_call_is_charged_once(self) -> None:
        for generation in self.owner:
            for call in self.do(self.ledger.usage(self.key(generation))).calls:
                assert (call.cost or 0) == self.calls[call.call_id]["cost"]
                assert call.source == self.calls[call.call_id]["source"]


def test_any_interleaving(engine: str, request: pytest.FixtureRequest) -> None:
    machine = Books
    examples, steps = 40, 30
    if engine == "postgresql":
        server = request.getfixturevalue("machine_url")
        machine = type("BooksInPostgres", (Books,), {"url": server})
        examples, steps = 10, 25
    bounds = settings(max_examples=examples, stateful_step_count=steps, suppress_health_check=[HealthCheck.too_slow])
    deep = settings.get_current_profile_name() == "deep"
    run_state_machine_as_test(machine, settings=None if deep else bounds)
