"""The ledger's tables, as the statements see them. The migrations create them.

Amounts are nano-USD and times Unix seconds, whatever the engine keeps.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import BigInteger, Column, Dialect, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.types import TypeDecorator, TypeEngine

_MICRO: Final = 1_000_000


class Instant(TypeDecorator[float]):
    """Unix seconds: `timestamptz` in PostgreSQL, whole microseconds in SQLite."""

    impl = BigInteger
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return TIMESTAMP(timezone=True) if dialect.name == "postgresql" else BigInteger()

    def process_bind_param(self, value: float | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return datetime.fromtimestamp(value, UTC) if dialect.name == "postgresql" else round(value * _MICRO)

    def process_result_value(self, value: Any, dialect: Dialect) -> float | None:
        if value is None:
            return None
        return value.timestamp() if dialect.name == "postgresql" else value / _MICRO


class Json(TypeDecorator[Any]):
    """A JSON value: `jsonb` in PostgreSQL, text in SQLite. None is NULL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return JSONB(none_as_null=True) if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return to_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return msgspec.json.decode(value) if isinstance(value, str) and dialect.name != "postgresql" else value


def to_json(value: object) -> str:
    """Encode a value as JSON text, for the engines."""
    return msgspec.json.encode(value).decode()


metadata = MetaData()

account = Table(
    "account",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("posted", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("floor", BigInteger, nullable=False),
)

hold = Table(
    "hold",
    metadata,
    Column("generation", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("remaining", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("epoch", BigInteger, nullable=False),
)

stream = Table(
    "stream",
    metadata,
    Column("stream_id", Text, primary_key=True),
    Column("highest", BigInteger, nullable=False),
)

model_call = Table(
    "model_call",
    metadata,
    Column("call_id", Text, primary_key=True),
    Column("generation", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("step", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("account_id", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("source", Text),
    Column("usage", Json),
    Column("usage_hash", Text),
    Column("raw", Json),
    Column("price_version", Text),
    Column("unit_prices", Json),
    Column("cost_nano", BigInteger),
    Column("context", Json, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("settled_at", Instant),
)

entry = Table(
    "entry",
    metadata,
    Column("key", Text, primary_key=True),
    Column("account_id", Text, nullable=False),
    Column("generation", Text),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("balance_after", BigInteger, nullable=False),
    Column("created_at", Instant, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("key", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("payload", Json, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Instant, nullable=False),
    Column("leased_until", Instant),
    Column("delivered_at", Instant),
)
