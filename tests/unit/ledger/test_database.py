"""SQLite's one thread: what hangs in it holds up no caller, and what came too late is not committed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from unspool.errors import StoreUnavailable
from unspool.ledger import Ledger, LedgerOptions


async def test_a_thread_that_hangs_holds_up_no_answer_and_no_end(tmp_path: Any) -> None:
    """SQLite's one thread hangs in a system call, say: what waits for it is told, and closing does not wait."""
    begun, free = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        begun.set()
        free.wait()

    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", options=LedgerOptions(sweep=3600.0))
    await ledger.open()
    hanging = asyncio.create_task(ledger.database.within(0.1).write(hang))
    await asyncio.to_thread(begun.wait)
    with pytest.raises(StoreUnavailable, match="ledger"):
        await ledger.within(0.1).balance("team")
    with pytest.raises(StoreUnavailable):
        await hanging
    assert ledger.database.health.away
    await ledger.close(0)
    free.set()


async def test_what_its_caller_gave_up_is_not_committed(tmp_path: Any) -> None:
    """A transaction that ends too late in SQLite's thread is rolled back: what was refused has not happened."""
    free = threading.Event()
    async with Ledger(f"sqlite:///{tmp_path}/ledger.db", options=LedgerOptions(sweep=3600.0)) as ledger:
        await ledger.grant("team", 5, id="g")
        credit = ledger.database.within(0.1)

        def late(tx: Any) -> None:
            tx.connection.exec_driver_sql("UPDATE account SET floor = 9")
            free.wait()

        with pytest.raises(StoreUnavailable):
            await credit.write(late)
        free.set()
        assert (await ledger.balance("team")).floor == 0
