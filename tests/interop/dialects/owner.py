"""A process that owns a run, to be killed: `python -m tests.interop.dialects.owner STORE UPSTREAM LEDGER QUESTION`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

from unspool import Generation, GenerationManager, Options
from unspool.agents import continued_call
from unspool.ledger import Ledger, LedgerOptions, Prices, Rates
from unspool.providers.responses import OpenAIResponses

PRICES = Prices({"m": Rates(input=Decimal(1), output=Decimal(2))})
QUICK: dict[str, Any] = {"lease": 1.0, "poll": 0.05, "sweep": 0.05, "abort_grace": 1.0, "drain": 0.0, "resumes": 9}
LEASE = 4.0
"""Seconds that a process may be held up by a busy machine without being taken for dead."""


@asynccontextmanager
async def provider(upstream: str) -> AsyncGenerator[OpenAIResponses]:
    """A model behind our own Responses API."""
    model = OpenAIResponses("m", base_url=f"{upstream}/v1", api_key="k")
    try:
        yield model
    finally:
        await model.close()


def made(store: Any, model: OpenAIResponses, ledger: str, transport: Any = None, **more: Any) -> GenerationManager:
    """A manager that knows the run `answer`: one call of this model."""
    books = Ledger.from_url(ledger, pricer=PRICES, options=LedgerOptions(hold=0))
    options = Options(**{**QUICK, **more})
    if isinstance(store, str):
        manager = GenerationManager.from_url(store, options=options, ledger=books)
    else:
        manager = GenerationManager(store, transport, options=options, ledger=books)

    async def answer(gen: Generation, args: dict[str, Any]) -> None:
        await continued_call(manager, gen, model, [{"role": "user", "content": args["question"]}])

    manager.register("answer", answer)
    return manager


async def main(store: str, upstream: str, ledger: str, question: str) -> None:
    async with provider(upstream) as model, made(store, model, ledger, lease=LEASE) as manager:
        args = {"question": question}
        await manager.start("s", "answer", args=args, on_owner_lost="resume", account="team")
        print("started", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
