"""How Alembic runs: on the connection that it is handed, in the transaction that is under way there."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from unspool.ledger.schema import VERSION_TABLE

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table=VERSION_TABLE)
context.run_migrations()
