"""What a replica does about money: admit, hold, meter, give back. The ledger does the sums; here is when.

The ledger is an optional dependency, and this is its boundary: only the store decides who lives. What a seal, a
take-over, a Stop or a renewal asks here has a bound far below the lease, and is left to the ledger's sweep where the
ledger fails, in whatever way. Only a start is refused for it.

A job without an account never touches the ledger: its model calls are metered all the same, so that its `usage` events
tell what they used.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from msgspec.structs import replace

from unspool import events
from unspool.errors import ConfigurationError, Fenced, Gone, NotFound, StoreUnavailable, UnspoolError
from unspool.events import DELTAS, Event, Record
from unspool.jobs import GenerationKey, Job, call_id
from unspool.ledger import Usage, usage_event
from unspool.ledger.estimates import estimate, tokens_of
from unspool.ledger.meter import Meter
from unspool.protocols import JobStore, NewJob

if TYPE_CHECKING:
    from unspool.ledger import Ledger, MeteredCall
    from unspool.ledger.reads import CallRecord

_log = logging.getLogger("unspool.billing")
_T = TypeVar("_T")
_PAGE: Final = 512
_ANSWER: Final = 3.0  # seconds that a start waits for the ledger, each time that it asks
_WAIT: Final = 2.0  # seconds that what ends or continues a generation waits for it, or a sixth of the lease
_PING: Final = 1.0
_KEPT: Final = 10_000  # ends that the ledger has not heard of; beyond them, its sweep gives back what they hold


class Billing:
    """Between the generations of a replica and the ledger, if there is one."""

    def __init__(self, ledger: Ledger | None, store: JobStore, lease: float) -> None:
        self.ledger = ledger
        self._store = store
        self._wait = min(_WAIT, lease / 6)
        self._unheard: dict[GenerationKey, str] = {}  # ends that the ledger has not heard of, and their tokens
        self._failing = False  # the last renewal failed

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

    async def close(self) -> None:
        """Finish what is being settled, within the ledger's `drain_on_close`."""
        if self.ledger is None:
            return
        if self.ledger.recall == self._recall:
            self.ledger.recall = None
        try:
            await self.ledger.close()
        except Exception:  # noqa: BLE001  (what comes after it must be closed, too)
            _log.exception("the ledger could not be closed")

    async def state(self) -> str | None:
        """The kind of the ledger's database, `unavailable` where it does not answer in a second; None: no ledger."""
        if self.ledger is None:
            return None
        try:
            async with asyncio.timeout(_PING):
                await self.ledger.within(_PING).ping()
        except Exception as error:  # noqa: BLE001  (the boundary)
            _log.debug("the ledger does not answer: %r", error)
            return "unavailable"
        return self.ledger.database.kind

    def statistics(self) -> dict[str, Any]:
        """Figures for people and metrics: those of the ledger, and whether its database answered last time."""
        if self.ledger is None:
            return {}
        return {"up": not self.ledger.database.health.away, **self.ledger.statistics()}

    # a start, which the ledger may refuse

    async def reserve(self, new: NewJob, limit: int) -> NewJob:
        """Set aside what a start may cost, before anything has happened; the start, above all numbers of its stream
        that the ledger knows. `limit`: on how many streams the account may have generations running.

        Raises InsufficientBalance, TooManyGenerations, and StoreUnavailable where the ledger does not answer.
        """
        ledger, account = self._of(new.account), new.account
        if ledger is None or account is None:
            return new
        ledger = ledger.within(_ANSWER)
        floor = await _answer(lambda: ledger.reserve(new.name, new.token, account, limit=limit))
        return replace(new, floor=max(floor, new.floor))

    async def starting(self, new: NewJob) -> bool:
        """Check whether another start on this stream has reserved something; False where the ledger does not answer."""
        ledger, account = self._of(new.account), new.account
        if ledger is None or account is None:
            return False
        try:
            return await _answer(lambda: ledger.within(_ANSWER).starting(new.name, account))
        except StoreUnavailable:
            return False

    async def release(self, new: NewJob) -> None:
        """Give back what was reserved for a start that has not come about. What fails runs out by itself."""
        ledger, account = self._of(new.account), new.account
        if ledger is not None and account is not None:
            try:
                await _answer(lambda: ledger.within(_ANSWER).release(new.name, new.token))
            except StoreUnavailable as error:
                _log.warning("%s: what was reserved for its start is given back later: %s", new.name, error)

    async def admit(self, job: Job) -> None:
        """Give what was reserved to the generation, or set it aside now. A ledger that does not answer hears of it by
        the first call. Raises InsufficientBalance where nothing is reserved any more."""
        ledger, account = self._of(job.account), job.account
        if ledger is None or account is None:
            return
        try:
            await _answer(
                lambda: ledger.within(_ANSWER).admit(job.key, account, epoch=job.lease.epoch, token=job.token)
            )
        except StoreUnavailable as error:
            _log.warning("%s: the ledger is told of it later: %s", job.key, error)
        except (
            Fenced
        ) as error:  # it was stopped or replaced already, and its end was faster: its run is told by the log
            _log.info("%s: %s", job.key, error)

    # a generation, which it cannot hold up

    @property
    def renewal(self) -> float:
        """Seconds between two renewals of holds."""
        return self.ledger.options.hold_lease / 3 if self.ledger is not None else 0.0

    async def renew(self, jobs: Iterable[tuple[Job, int]]) -> None:
        """Renew what running generations hold, under their owners' epochs, and give back what ended ones do. A ledger
        that fails is logged once, and once when it is back."""
        epochs = {job.key: epoch for job, epoch in jobs if job.account is not None}
        if self.ledger is None or not (epochs or self._unheard):
            return
        ledger = self.ledger.within(_ANSWER)
        try:
            async with asyncio.timeout(self.renewal):
                if epochs:
                    await ledger.renew(epochs)
                for key, token in list(self._unheard.items()):
                    await self._close_again(ledger, key, token)
        except Exception as error:  # noqa: BLE001  (the boundary)
            if not self._failing:
                _log.warning("holds are not renewed until the ledger is back: %r", error)
            self._failing = True
            return
        if self._failing:
            _log.warning("holds are renewed again")
        self._failing = False

    async def _close_again(self, ledger: Ledger, key: GenerationKey, token: str) -> None:
        del self._unheard[key]
        try:
            await ledger.close_hold(key, token=token)
        except BaseException:
            self._unheard[key] = token  # behind the others: it may be its own fault
            raise

    async def take_over(self, job: Job, epoch: int) -> None:
        """From now on only this epoch may start calls. Where the ledger does not hear of it now, it does by the next
        renewal or call."""
        await self._briefly(job, "its hold", lambda ledger: ledger.take_over(job.key, epoch))

    async def settle_for_the_dead(self, job: Job, epoch: int, told: set[str]) -> list[Event]:
        """Settle what an owner that is lost left open; the `usage` events of all calls that were not told yet."""

        async def settle(ledger: Ledger) -> list[Event]:
            await ledger.take_over(job.key, epoch)
            await ledger.reap(job.key)
            calls = (await ledger.usage(job.key)).calls
            return [event for call in calls if call.call_id not in told and (event := call.event()) is not None]

        return await self._briefly(job, "what its owner left open", settle) or []

    async def end(self, job: Job) -> None:
        """It is sealed: give back what it holds."""

        async def close(ledger: Ledger) -> bool:
            await ledger.close_hold(job.key, token=job.token)
            return True

        charged = self.ledger is not None and job.account is not None
        if charged and not await self._briefly(job, "its hold", close) and len(self._unheard) < _KEPT:
            self._unheard[job.key] = job.token

    async def _briefly(self, job: Job, what: str, work: Callable[[Ledger], Awaitable[_T]]) -> _T | None:
        """Ask the ledger on behalf of what must not wait for it; None where it has no answer in time."""
        if self.ledger is None or job.account is None:
            return None
        try:
            async with asyncio.timeout(self._wait):
                return await work(self.ledger.within(self._wait))
        except Exception as error:  # noqa: BLE001  (the boundary: a ledger that fails takes no generation down)
            _log.warning("%s: %s is left to the ledger's sweep: %r", job.key, what, error)
            return None

    # a model call

    def call(self, job: Job, *, attempt: int, provider: str, model: str, agent: str, step: str, **more: Any) -> Metered:
        """What meters one model call: the ledger's where it is charged, else one that only counts."""
        ledger = self._of(job.account)
        if ledger is None:
            return Counted(call_id(job.key, agent, step, attempt), provider, model, agent)
        return ledger.call(
            job.key, provider=provider, model=model, agent=agent, step=step, attempt=attempt,
            epoch=job.lease.epoch, account=job.account, token=job.token, **more,
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
        except (NotFound, Gone):
            return None
        return told if told is not None else estimate(None, call.input_tokens, tokens_of(size))


async def _answer(ask: Callable[[], Awaitable[_T]]) -> _T:
    """The ledger's answer to a start. Raises what a ledger raises, and StoreUnavailable for everything else."""
    try:
        async with asyncio.timeout(_ANSWER):
            return await ask()
    except UnspoolError:
        raise
    except Exception as error:
        if not isinstance(error, TimeoutError):
            _log.exception("the ledger failed")
        raise StoreUnavailable("the ledger does not answer") from error


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
