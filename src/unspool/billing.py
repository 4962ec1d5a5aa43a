"""What a replica does about money: admit, hold, meter, give back. The ledger does the sums; here is when.

A job without an account costs nobody anything: its model calls are metered all the same, so that its `usage` events
tell what they used.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from unspool import events
from unspool.errors import ConfigurationError, InsufficientBalance, NotFound, UnspoolError
from unspool.events import DELTAS, Event, Record
from unspool.jobs import GenerationKey, Job
from unspool.ledger import Usage, usage_event
from unspool.ledger.estimates import estimate, tokens_of
from unspool.ledger.meter import Meter
from unspool.protocols import JobStore

if TYPE_CHECKING:
    from unspool.ledger import Ledger, MeteredCall
    from unspool.ledger.reads import CallRecord

_log = logging.getLogger("unspool.billing")
_T = TypeVar("_T")
_PAGE: Final = 512


class Billing:
    """Between the generations of a replica and the ledger, if there is one."""

    def __init__(self, ledger: Ledger | None, store: JobStore) -> None:
        self.ledger = ledger
        self._store = store

    def _of(self, account: str | None) -> Ledger | None:
        if account is None:
            return None
        if self.ledger is None:
            raise ConfigurationError("an account is charged through a ledger: give the manager one")
        return self.ledger

    # its life

    async def open(self) -> None:
        """Raises ConfigurationError where the tables of the ledger are not there."""
        if self.ledger is not None:
            if self.ledger.recall is None:
                self.ledger.recall = self._recall
            await self.ledger.open()

    async def highest_generation(self) -> int:
        """The highest number that the ledger knows: what is charged under it must not be charged to another one."""
        return 0 if self.ledger is None else await self.ledger.highest_generation()

    async def close(self) -> None:
        """Finish what is being settled."""
        if self.ledger is not None:
            await self.ledger.close()

    # a generation

    async def check(self, account: str | None) -> None:
        """Refuse, before anything has happened, what the balance does not cover. Raises InsufficientBalance."""
        ledger = self._of(account)
        if ledger is None or account is None:
            return
        balance, needed = await ledger.balance(account), ledger.options.hold
        if balance.available - needed < balance.floor:
            raise InsufficientBalance(
                account=account, balance=balance.posted, held=balance.held, needed=needed, floor=balance.floor
            )

    async def admit(self, job: Job) -> None:
        """Set aside what it may cost. Raises InsufficientBalance."""
        ledger = self._of(job.account)
        if ledger is not None and job.account is not None:
            await ledger.admit(job.key, job.account, epoch=job.lease.epoch)

    async def running(self, account: str | None) -> list[GenerationKey]:
        """The generations that hold something of an account."""
        ledger = self._of(account)
        return [] if ledger is None or account is None else await ledger.running(account)

    async def renew(self, jobs: Iterable[tuple[Job, int]]) -> None:
        """Renew what running generations hold, under their owners' epochs."""
        epochs = {job.key: epoch for job, epoch in jobs if job.account is not None}
        if self.ledger is not None and epochs:
            await self.ledger.renew(epochs)

    async def take_over(self, job: Job, epoch: int) -> None:
        """From now on only this epoch may start calls."""
        if self.ledger is not None and job.account is not None:
            await self.ledger.take_over(job.key, epoch)

    async def settle_for_the_dead(self, job: Job, epoch: int, told: set[str]) -> list[Event]:
        """Settle what an owner that is lost left open; the `usage` events of all calls that were not told yet."""
        if self.ledger is None or job.account is None:
            return []
        try:
            await self.ledger.take_over(job.key, epoch)
            await self.ledger.reap(job.key)
            calls = (await self.ledger.usage(job.key)).calls
        except UnspoolError as error:
            _log.warning("%s: what its owner left open is left to the ledger's sweep: %s", job.key, error)
            return []
        return [event for call in calls if call.call_id not in told and (event := call.event()) is not None]

    async def end(self, job: Job) -> None:
        """It is sealed: give back what it holds."""
        if self.ledger is None or job.account is None:
            return
        try:
            await self.ledger.close_hold(job.key)
        except UnspoolError as error:
            _log.warning("%s: its hold is left to the ledger's sweep: %s", job.key, error)

    # a model call

    def call(self, job: Job, *, attempt: int, provider: str, model: str, agent: str, step: str, **more: Any) -> Metered:
        """What meters one model call: the ledger's where it is charged, else one that only counts."""
        ledger = self._of(job.account)
        if ledger is None:
            return Counted(f"{job.key}/{agent}/{step}/{attempt}", provider, model, agent)
        return ledger.call(
            job.key, provider=provider, model=model, agent=agent, step=step, attempt=attempt,
            epoch=job.lease.epoch, **more,
        )  # fmt: skip

    async def _recall(self, call: CallRecord) -> Usage | None:
        """What the log of a dead owner says about a call that it never settled: its usage, else the text it got."""
        stream_id, _, number = call.generation.rpartition("/")
        told: Usage | None = None
        size, under_way, after = 0, False, 0
        try:
            while True:
                page = await self._store.read(GenerationKey(stream_id, int(number)), after, _PAGE)
                for record in page.records:
                    data = record.data
                    if record.type == events.USAGE and data.get("call_id") == call.call_id:
                        told = _usage_of(data)
                    under_way = _under_way(under_way, record, data, call)
                    if under_way and record.type in DELTAS and data.get("agent") in (None, call.agent):
                        size += len(str(data.get("text", "")).encode())
                if not page.records or (page.sealed and page.records[-1].offset == page.last_offset):
                    break
                after = page.records[-1].offset
        except NotFound:
            return None
        return told if told is not None else estimate(None, call.input_tokens, tokens_of(size))


def _under_way(before: bool, record: Record, data: dict[str, Any], call: CallRecord) -> bool:
    """Whether what comes after this record is what the call brought: it lies between its step's marks."""
    if record.type == events.STEP_STARTED and data.get("agent") in (None, call.agent):
        return data.get("id") == call.call_id
    if record.type == events.STEP_FINISHED and data.get("id") == call.call_id:
        return False
    return before


def _usage_of(data: dict[str, Any]) -> Usage:
    names = set(Usage.__struct_fields__)
    return Usage(**{name: value for name, value in data.items() if name in names})


class Counted:
    """A model call that nobody pays for: it observes what the provider sends, and tells what was used."""

    charge = None

    def __init__(self, call_id: str, provider: str, model: str, agent: str) -> None:
        self.call_id = call_id
        self._provider = provider
        self._model = model
        self._agent = agent
        self._meter = Meter()
        self.observe = self._meter.observe
        """Take in one chunk, event or usage object of the provider's. Never raises, never waits."""

    def __repr__(self) -> str:
        return f"<Counted {self.call_id} {self._meter}>"

    @property
    def usage(self) -> Usage | None:
        """What the provider has told so far."""
        return self._meter.usage

    def void(self) -> None:
        """The request never left: of no effect, since nothing is charged."""

    async def over(self, stream: AsyncIterable[_T]) -> AsyncGenerator[_T, None]:
        """Observe a stream while it is read."""
        async for chunk in stream:
            self.observe(chunk)
            yield chunk

    def event(self) -> Event | None:
        """The `usage` event, None where the provider told nothing."""
        usage = self._meter.usage
        if usage is None:
            return None
        return usage_event(usage, call_id=self.call_id, model=self._model, provider=self._provider, agent=self._agent)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


if TYPE_CHECKING:
    Metered = MeteredCall | Counted
