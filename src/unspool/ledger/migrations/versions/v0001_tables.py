"""The tables of the ledger."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    engine = op.get_bind().dialect.name
    script = Path(__file__).with_name(f"{revision}.{engine}.sql").read_text("utf-8")
    for statement in script.split("\n\n"):
        if not statement.startswith("--"):
            op.get_bind().exec_driver_sql(statement)
