"""A model call that outlives its process: whoever continues the run continues the provider's own stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from unspool.errors import GenerationStopped, Gone, NotFound, RunFailed, StoreUnavailable, UnspoolError
from unspool.events import USAGE, Event, Record
from unspool.jobs import call_id
from unspool.manager import GenerationManager
from unspool.producer import Generation
from unspool.providers.base import Message
from unspool.providers.responses_stream import POSITION, Begun, begun_of

if TYPE_CHECKING:
    from unspool.billing import Metered
    from unspool.providers.responses import OpenAIResponses

_log = logging.getLogger("unspool.agents")
_PAGE: Final = 1000


async def continued_call(
    manager: GenerationManager,
    gen: Generation,
    model: OpenAIResponses,
    messages: Sequence[Message],
    *,
    agent: str | None = None,
    step: str = "0",
    tools: Sequence[dict[str, Any]] = (),
) -> None:
    """Make one model call, and write what it streams, metered. In a run that is continued after its owner was lost
    (`gen.attempt` above 1) the call of this `agent` and `step` is taken up where the log stands, under its own id, with
    nothing lost, repeated or paid for twice; one that the log has whole is not made again: its content is in
    `gen.snapshot`. A Stop stops the provider too; a lost lease does not.

    Raises what the model's `stream` and `Generation.model_call` raise.
    """
    begun = None
    if gen.attempt > 1:
        begun = begun_of(await _log_of(manager, gen), call_id(gen.key, agent or "main", step))
    if begun is None:
        async with gen.model_call(provider=model.provider, model=model.name, agent=agent or "main", step=step) as call:
            stream = model.follow(messages, call_id=call.call_id, agent=agent, tools=tools)
            await _write(manager, gen, model, stream, call, None)
        return
    if begun.finished is not None:
        gen.finish(finish_reason=begun.finished)
        if begun.usage_told:
            return
    stream = model.follow(messages, call_id=begun.call_id, agent=agent, tools=tools, begun=begun)
    try:
        usage = await _write(manager, gen, model, stream, None, begun)
    except RunFailed as error:
        if begun.finished is None:
            raise
        _log.warning("call %s is whole, and its usage is left to the ledger's sweep: %s", begun.call_id, error)
        return
    if usage is not None:
        await _settle(manager, gen, usage)


async def _log_of(manager: GenerationManager, gen: Generation) -> list[Record]:
    """All that is in the log, internal records included."""
    records: list[Record] = []
    while True:
        page = await manager.store.read(gen.key, records[-1].offset if records else 0, _PAGE)
        if not page.records:
            return records
        records += page.records


async def _write(
    manager: GenerationManager,
    gen: Generation,
    model: OpenAIResponses,
    stream: AsyncGenerator[Event, None],
    call: Metered | None,
    begun: Begun | None,
) -> Event | None:
    """Emit what a model streams; gives the usage, which is not emitted."""
    at = begun.position if begun is not None else None
    response_id = at.response_id if at is not None else None
    usage: Event | None = None
    try:
        async with aclosing(stream):
            async for event in stream:
                if event.type == POSITION:
                    response_id = event.data["response_id"]
                if call is not None:
                    call.observe(event)
                if event.type == USAGE:
                    usage = event
                else:
                    await gen.emit_event(event)
    except (asyncio.CancelledError, Exception):  # whatever it is: the provider does not notice by itself
        if response_id is not None and await _unwanted(manager, gen):
            told = await model.cancel(response_id)
            if call is not None and told is not None:
                call.observe(told)
        raise
    return usage


async def _unwanted(manager: GenerationManager, gen: Generation) -> bool:
    """Whether nobody goes on with this generation: it was stopped here, or has ended elsewhere."""
    try:
        await gen.snapshot()
    except (GenerationStopped, StoreUnavailable, NotFound, Gone):  # the lease is lost
        try:
            return (await manager.store.get(*gen.key)).settled
        except (NotFound, Gone):
            return True
        except StoreUnavailable:
            return False
    return True


async def _settle(manager: GenerationManager, gen: Generation, usage: Event) -> None:
    """Settle the call that another process began, and tell its usage."""
    ledger, raw = manager.billing.ledger, usage.data.get("raw")
    if ledger is not None and gen.job.account is not None and raw is not None:
        try:
            usage = (await ledger.settle(usage.data["call_id"], raw)).event()
        except UnspoolError as error:  # told in the log, it is what the ledger's sweep settles by
            _log.warning("call %s is left to the ledger's sweep: %s", usage.data["call_id"], error)
    await gen.emit_event(usage)
