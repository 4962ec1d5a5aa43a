"""One metered model call: its intent before the request leaves, its settlement however the block ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec

from unspool.errors import (
    CallStarted,
    InsufficientBalance,
    InvalidArgument,
    StoreUnavailable,
    UnknownPrice,
    UnspoolError,
)
from unspool.events import Event
from unspool.ledger.calls import CallStart, Charge
from unspool.ledger.drain import Pump
from unspool.ledger.estimates import KEPT_TEXT, TokenCounter, estimate, tokens_of
from unspool.ledger.meter import Meter
from unspool.ledger.options import LedgerOptions, Policy
from unspool.ledger.owned import OwnedTasks
from unspool.ledger.rules import Source
from unspool.ledger.usage import Usage

_log = logging.getLogger("unspool.ledger")
_AGAIN: Final = 1.0  # seconds before a settlement that failed is tried again; doubled with each failure
_SLOWEST: Final = 15.0
_CUT: Final = 1.0  # seconds that a cancelled block waits for its settlement: a Stop waits for the block
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desk:
    """The parts of a ledger that a metered call uses."""

    start: Callable[[CallStart], Awaitable[None]]
    withdraw: Callable[[CallStart], Awaitable[None]]
    settle: Callable[[str, Usage | None, Source], Awaitable[Charge]]
    report: Callable[[UnspoolError], None]
    tasks: OwnedTasks
    options: LedgerOptions
    counter: TokenCounter | None


class MeteredCall:
    """A model call, as `Ledger.call` gives it: enter it, let it observe what the provider sends, leave it.

    Entering writes the intent; raises CallStarted, Fenced, InsufficientBalance, UnknownPrice, and StoreUnavailable, and
    then nothing may be sent. Leaving settles, whether the block ends, fails or is cancelled: in a task of the ledger's
    own, which leaving waits for, for `settle_wait` seconds at most, or for one second when it is cancelled. What goes
    wrong there is reported to the ledger's `report`, never raised: the answer is there, and the charge is not the
    answer's concern.

    `charge`: the outcome, None until it is settled.
    """

    def __init__(self, desk: Desk, intent: CallStart, policy: Policy) -> None:
        self.charge: Charge | None = None
        self._desk = desk
        self._intent = intent
        self._policy: Policy = policy
        self._meter = Meter(keep=KEPT_TEXT if desk.counter is not None else 0)
        self._pump: Pump[object] | None = None
        self._ended = True  # False while a stream that it reads has not come to its end
        self._never_left = False
        self.observe = self._meter.observe
        """Take in one chunk, event or usage object of the provider's. Never raises, never waits."""

    def __repr__(self) -> str:
        return f"<MeteredCall {self.call_id} {self._meter} charge={self.charge}>"

    @property
    def call_id(self) -> str:
        return self._intent.call_id

    @property
    def usage(self) -> Usage | None:
        """The usage that the provider has reported so far."""
        return self._meter.usage

    def void(self) -> None:
        """Say that the request never left, so that nothing is charged. Only where that is certain: no connection was
        made. Of no effect once something was observed."""
        self._never_left = True

    async def over(self, stream: AsyncIterable[T]) -> AsyncGenerator[T, None]:
        """Observe a stream while it is read: `async for chunk in call.over(stream)`.

        Under the policy `drain` the stream is read on when its reader leaves early, and closed then; under the others
        it stays the caller's.
        """
        self._ended = False
        if self._policy == "drain":
            options = self._desk.options
            pump: Pump[T] = Pump(stream, self.observe, self._desk.tasks, options.drain_chunks)
            self._pump = pump  # pyright: ignore[reportAttributeAccessIssue]
            async for chunk in pump.chunks():
                yield chunk
        else:
            async for chunk in stream:
                self.observe(chunk)
                yield chunk
        self._ended = True

    def event(self) -> Event | None:
        """The `usage` event for viewers, with the cost; None until it is settled, and for a call that never left."""
        return None if self.charge is None or self.charge.outcome == "void" else self.charge.event()

    async def __aenter__(self) -> Self:
        starting = self._desk.tasks.spawn(self._start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._desk.tasks.spawn(self._take_back(starting))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        finishing = self._desk.tasks.spawn(self._finish(cut=error is not None or not self._ended))
        patience = self._desk.options.settle_wait
        if isinstance(error, asyncio.CancelledError) and self._pump is None:
            patience = min(patience, _CUT)
        await asyncio.wait({finishing}, timeout=patience)

    async def _start(self) -> None:
        try:
            await self._desk.start(self._intent)
        except (CallStarted, InsufficientBalance, UnknownPrice):
            raise  # nothing was written
        except Exception:  # its commit may not have been answered
            self._desk.tasks.spawn(self._withdraw())
            raise

    async def _withdraw(self) -> None:
        """Void the intent, if it was written: the caller was refused and sends nothing."""
        try:
            await self._insist(lambda: self._desk.withdraw(self._intent))
        except Exception as error:  # noqa: BLE001  (logged; the reaper settles what is left open)
            _log.debug("call %s could not be withdrawn: %r", self.call_id, error)

    async def _take_back(self, starting: asyncio.Task[None]) -> None:
        """Void the intent of a caller that was cancelled while it was being written: nothing has left."""
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            self.void()
            await self._finish(cut=True)

    async def _finish(self, *, cut: bool) -> None:
        try:
            usage, source = await self._outcome(cut)
            try:
                self.charge = await self._settle(usage, source)
            except InvalidArgument as error:  # a usage that no call can have: the text is more to be trusted
                self._desk.report(error)
                self._meter.usage = None
                usage, source = await self._outcome(True)
                self.charge = await self._settle(usage, source)
        except UnspoolError as error:
            self._desk.report(error)
        except Exception:  # noqa: BLE001  (no caller waits for it; the reaper settles what is left open)
            _log.exception("call %s could not be settled; its usage: %s", self.call_id, self._meter.usage)

    async def _settle(self, usage: Usage | None, source: Source) -> Charge:
        return await self._insist(lambda: self._desk.settle(self.call_id, usage, source))

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """Try again until the database takes it, or the ledger is closed. Raises what the ledger refuses."""
        pause = _AGAIN
        while True:
            try:
                return await work()
            except Exception as error:
                if isinstance(error, UnspoolError) and not isinstance(error, StoreUnavailable):
                    raise
                if self._desk.tasks.closing.is_set():
                    _log.error("call %s is left unsettled; its usage: %s", self.call_id, self._meter.usage)
                    raise
                if pause == _AGAIN:
                    unforeseen = not isinstance(error, StoreUnavailable)
                    _log.warning("call %s waits for the database: %s", self.call_id, error, exc_info=unforeseen)
            except asyncio.CancelledError:
                _log.error("call %s is left unsettled; its usage: %s", self.call_id, self._meter.usage)
                raise
            await self._desk.tasks.rest(pause)
            pause = min(2 * pause, _SLOWEST)

    async def _outcome(self, cut: bool) -> tuple[Usage | None, Source]:
        """Return the usage to report for the call as it stands, and its source."""
        meter = self._meter
        if self._never_left and not meter.observed:
            return None, Source.VOID
        if cut and not meter.final and self._pump is not None:
            cut = not await self._pump.finish(self._desk.options.drain_seconds)
        told = meter.usage
        if told is not None and told.source == "provider" and (meter.final or not cut):
            return told, Source.PROVIDER
        if self._policy == "input_only":
            told = msgspec.structs.replace(told, output_tokens=0, reasoning_tokens=0) if told is not None else None
            return estimate(told, self._intent.input_tokens, 0), Source.ESTIMATE
        return estimate(told, self._intent.input_tokens, await self._output_tokens()), Source.ESTIMATE

    async def _output_tokens(self) -> int:
        text = self._meter.text
        if self._desk.counter is not None and text is not None:
            try:
                return await asyncio.to_thread(self._desk.counter, text, self._intent.model)
            except Exception:  # noqa: BLE001  (a counter of the application's own; there is a rule without one)
                _log.exception("the token counter failed; four bytes count as a token")
        return tokens_of(self._meter.size)
