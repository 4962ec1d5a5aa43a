"""The ground under the ledger: versions of its tables, connections that break, URLs that make no sense."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from tests.integration.ledger.conftest import Office, balanced, fresh, key, started, used
from unspool.errors import ConfigurationError, StoreUnavailable
from unspool.jobs import GenerationKey
from unspool.ledger import Ledger, LedgerOptions, migrations, schema
from unspool.ledger.database import Database, Transaction
from unspool.ledger.owned import OwnedTasks
from unspool.ledger.tables import metadata


async def test_the_tables_are_those_that_the_statements_see(ledger: Ledger) -> None:
    """Every table and column of the code is in the database, and none is missing in the code."""

    def differences(connection: object) -> list[object]:
        context = MigrationContext.configure(
            connection,  # pyright: ignore[reportArgumentType]
            opts={"version_table": schema.VERSION_TABLE, "compare_type": False},
        )
        found = compare_metadata(context, metadata)
        return [one for one in found if isinstance(one, tuple) and one[0] not in {"remove_index", "remove_fk"}]

    assert await ledger.database.read(lambda tx: differences(tx.connection)) == []


def test_the_code_knows_the_newest_version() -> None:
    assert ScriptDirectory(str(Path(migrations.__file__).parent)).get_heads() == [schema.HEAD]


async def test_migrating_again_and_at_once_changes_nothing(url: str) -> None:
    databases = [Database(url, OwnedTasks()) for _ in range(4)]
    await asyncio.gather(*(schema.migrate(database) for database in databases))
    await asyncio.gather(*(schema.check(database) for database in databases))
    for database in databases:
        await database.close()


async def test_another_version_is_refused_with_the_command(office: Office) -> None:
    ledger = await office.open()
    await ledger.database.write(lambda tx: tx.run(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0000'")))
    with pytest.raises(ConfigurationError, match=r"version 0000, not 0002; run: unspool ledger migrate --url"):
        await office.open()


async def test_an_older_version_is_brought_to_the_newest_with_its_numbers(office: Office) -> None:
    """SQLite by itself, PostgreSQL by the command; what was charged then is not charged to another generation."""
    ledger = await office.open()
    for number in (1, 12, 3):
        await ledger.admit(GenerationKey("a/b", number), "team", amount=0)

    def before(tx: Transaction) -> None:
        tx.run(text("DROP TABLE stream"))
        tx.run(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0001'"))

    await ledger.database.write(before)
    if not ledger.database.sqlite:
        with pytest.raises(ConfigurationError, match="version 0001, not 0002"):
            await office.open()
        await schema.migrate(ledger.database)
    newer = await office.open()
    assert [await newer.reserve(stream, "t", "team") for stream in ("a/b", "a", "c")] == [12, 0, 0]


async def test_an_older_version_with_reserved_holds_is_brought_to_the_newest(office: Office) -> None:
    """A start was under way, or had died, when the version changed: its hold has no number yet."""
    ledger = await office.open()
    await ledger.admit(key(7), "team", amount=0)
    for stream in ("conv", "other"):
        await ledger.reserve(stream, "token", "team")

    def before(tx: Transaction) -> None:
        tx.run(text("DROP TABLE stream"))
        tx.run(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0001'"))

    await ledger.database.write(before)
    await schema.migrate(ledger.database)
    assert [await ledger.reserve(stream, "t", "team") for stream in ("conv", "other")] == [7, 0]


async def test_postgresql_without_tables_is_refused_and_its_password_not_shown(postgres_url: str) -> None:
    ledger = Ledger.from_url(postgres_url.replace("postgres@", "postgres:s3cret@"))
    with pytest.raises(ConfigurationError, match="has no ledger yet; run: unspool ledger migrate") as caught:
        async with ledger:
            pass
    assert "s3cret" not in str(caught.value) + repr(ledger)


@pytest.mark.parametrize(
    "url", ["", "mysql://x/y", "sqlite", "redis://x", "postgresql+psycopg2://x/y", "sqlite+aiosqlite://"]
)
def test_urls_that_make_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ledger: the URL must be"):
        Ledger.from_url(url)


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        async with Ledger.from_url(f"sqlite:///{tmp_path}/no/ledger.db"):
            pass


async def test_a_server_that_is_not_there() -> None:
    options = LedgerOptions(patience=0.0)
    with pytest.raises(StoreUnavailable):
        async with Ledger.from_url("postgresql://x@127.0.0.1:1/y", options=options):
            pass


async def test_in_memory_it_works_at_once() -> None:
    async with Ledger.from_url("sqlite://") as ledger:
        await ledger.grant("team", 5, id="g")
        assert (await ledger.balance("team")).posted == 5


async def test_a_closed_ledger_says_so() -> None:
    ledger = Ledger.from_url("sqlite://")
    await ledger.open()
    await ledger.close()
    await ledger.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await ledger.balance("team")


async def test_connections_that_are_cut_lose_and_double_nothing(postgres_url: str) -> None:
    """While everything is done, the server ends connections again and again, some between a commit and its answer."""
    rng = random.Random(3)
    async with fresh(postgres_url) as url:
        admin = await asyncpg.connect(postgres_url)
        office = Office(url)
        async with office.stack:
            ledgers = [await office.open() for _ in range(3)]
            done, progress = asyncio.Event(), asyncio.Event()

            async def cut() -> None:
                # Once for every step that was made: a machine that is slow is not cut off more often for that.
                while not done.is_set():
                    await progress.wait()
                    progress.clear()
                    await admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        f"WHERE datname = '{url.rpartition('/')[2]}' AND random() < 0.2"
                    )

            async def generation(number: int) -> None:
                mine = rng.choice(ledgers)
                await mine.grant("team", 1_000_000, id=str(number))
                progress.set()
                await mine.admit(key(number), "team", amount=1_000)
                progress.set()
                call_id = await started(mine, key(number))
                progress.set()
                await rng.choice(ledgers).settle(call_id, used(10))
                progress.set()
                await rng.choice(ledgers).close_hold(key(number))
                progress.set()

            progress.set()
            cutting = asyncio.create_task(cut())
            await asyncio.gather(*(generation(number) for number in range(1, 31)))
            done.set()
            progress.set()
            await cutting
            balance = await ledgers[0].balance("team")
            assert (balance.posted, balance.held) == (30 * (1_000_000 - 10_000), 0)
            assert await balanced(ledgers[0])
        await admin.close()
