"""What probes are told of the store and of the ledger, and how soon."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import Serving
from tests.unit.ledger.trouble import KINDS, Trouble
from unspool import GenerationManager
from unspool.backends.memory import MemoryStore, MemoryTransport
from unspool.http import StartRequest, create_app
from unspool.ledger import Ledger
from unspool.producer import Generation


async def run(gen: Generation, request: StartRequest) -> None: ...


@pytest.mark.parametrize("kind", KINDS)
async def test_a_ledger_that_is_away_is_named_and_decides_nothing(serving: Serving, kind: str) -> None:
    """200 all the same: runs without an account need no ledger, and those with one live on."""
    ledger = Ledger("sqlite://")
    trouble = Trouble(ledger)
    async with serving(create_app(GenerationManager(ledger=ledger), run=run)) as client:
        ready = {"status": "ready", "store": "memory"}
        assert (await client.get("/readyz")).json() == ready | {"ledger": "sqlite"}
        assert "unspool_ledger_up 1.0" in (await client.get("/metrics")).text
        trouble.mode = kind
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, ready | {"ledger": "unavailable"})
        assert "unspool_ledger_up 0.0" in (await client.get("/metrics")).text
        trouble.mode = None
        assert (await client.get("/readyz")).json()["ledger"] == "sqlite"
        text = (await client.get("/metrics")).text
        assert "unspool_ledger_up 1.0" in text
        assert "unspool_ledger_setbacks 0.0" in text


async def test_a_store_that_hangs_is_not_ready(serving: Serving) -> None:
    """503 in time, though the store says nothing at all."""
    store = MemoryStore()
    async with serving(create_app(GenerationManager(store, MemoryTransport()), run=run)) as client:

        async def hang() -> None:
            await asyncio.Event().wait()

        store.ping = hang
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
