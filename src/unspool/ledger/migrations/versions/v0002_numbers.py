"""The highest number of each stream that ever had a hold: a store that has forgotten a stream must not use it again."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    connection = op.get_bind()
    connection.execute(text("CREATE TABLE stream (stream_id TEXT NOT NULL PRIMARY KEY, highest BIGINT NOT NULL)"))
    highest: dict[str, int] = {}
    for row in connection.execute(text("SELECT generation FROM hold")):
        stream_id, _, number = row.generation.rpartition("/")
        if number.startswith("+"):
            continue  # only reserved: its generation has no number yet
        highest[stream_id] = max(highest.get(stream_id, 0), int(number))
    if highest:
        rows = [{"stream_id": stream_id, "highest": number} for stream_id, number in highest.items()]
        connection.execute(text("INSERT INTO stream (stream_id, highest) VALUES (:stream_id, :highest)"), rows)
