"""The names of holds in the order of their bytes: those of one stream are found at once."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite's own order is that of bytes
        op.get_bind().exec_driver_sql('CREATE INDEX hold_name ON hold (generation COLLATE "C")')
