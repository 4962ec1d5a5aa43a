"""The version of the database's tables: brought to the newest, or checked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, inspect, text

from unspool.errors import ConfigurationError
from unspool.ledger.database import Database, Transaction

HEAD: Final = "0002"
"""The version that this code brings a database to."""

OLDER: Final = frozenset({"0001"})
"""The versions that can be upgraded."""

VERSION_TABLE: Final = "unspool_ledger_version"
_LOCK: Final = 0x756E73706F6F6C  # the key of the advisory lock under which one process migrates

_CURRENT: Final = text(f"SELECT version_num FROM {VERSION_TABLE}")  # noqa: S608  (a constant)


async def migrate(database: Database) -> str | None:
    """Bring the tables to the newest version, in one transaction; the version that was there before, None for none."""

    def upgrade(tx: Transaction) -> str | None:
        from alembic import command
        from alembic.config import Config

        connection = tx.connection
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        before = _version(connection)
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        return before

    levels = logging.getLogger("alembic")
    levels.setLevel(max(levels.getEffectiveLevel(), logging.WARNING))
    return await database.unhurried().write(upgrade)


async def check(database: Database) -> None:
    """Make sure that the tables are those that this code works with.

    A fresh or older SQLite database is brought to the newest version. Raises ConfigurationError, naming the command,
    for any other.
    """
    found = await database.read(lambda tx: _version(tx.connection))
    if database.sqlite and (found is None or found in OLDER):
        await migrate(database)
    elif found != HEAD:
        there = "has no ledger yet" if found is None else f"is at version {found}, not {HEAD}"
        url = database.url.set(drivername=database.url.get_backend_name()).render_as_string(hide_password=True)
        raise ConfigurationError(f"ledger: the database {there}; run: unspool ledger migrate --url {url}")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(_CURRENT).scalar()
