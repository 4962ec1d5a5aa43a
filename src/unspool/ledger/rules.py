"""The law of settlement, as data and pure functions: the effect of a report of usage on a model call.

A call is `started` until the first report settles it. A report is the provider's own word, an estimate, or says that
the request never left (void). The provider's word outranks the others and comes once; everything else is a duplicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from unspool.errors import InvalidArgument, InvalidEvent
from unspool.events import encode_data
from unspool.ledger.usage import Usage


class Source(StrEnum):
    PROVIDER = "provider"
    ESTIMATE = "estimate"
    VOID = "void"


class Step(StrEnum):
    CHARGE = "charge"
    """Settle the call, and charge what it cost."""
    VOID = "void"
    """Settle it; nothing was used."""
    TRUE_UP = "true_up"
    """Put the truth in the place of a guess, and charge or give back the difference."""
    COMPARE = "compare"
    """Compare the figures: equal ones are a duplicate, others a conflict."""
    DUPLICATE = "duplicate"
    """Nothing is to be done."""


RULES: Final[Mapping[tuple[Source | None, Source], Step]] = MappingProxyType(
    {
        (None, Source.PROVIDER): Step.CHARGE,
        (None, Source.ESTIMATE): Step.CHARGE,
        (None, Source.VOID): Step.VOID,
        (Source.PROVIDER, Source.PROVIDER): Step.COMPARE,
        (Source.PROVIDER, Source.ESTIMATE): Step.DUPLICATE,
        (Source.PROVIDER, Source.VOID): Step.DUPLICATE,
        (Source.ESTIMATE, Source.PROVIDER): Step.TRUE_UP,
        (Source.ESTIMATE, Source.ESTIMATE): Step.DUPLICATE,
        (Source.ESTIMATE, Source.VOID): Step.DUPLICATE,
        (Source.VOID, Source.PROVIDER): Step.TRUE_UP,
        (Source.VOID, Source.ESTIMATE): Step.DUPLICATE,
        (Source.VOID, Source.VOID): Step.DUPLICATE,
    }
)
"""(what settled the call, None while it is started; what is reported) → what is done."""

COUNTS: Final = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens",
)  # fmt: skip
_LARGEST_RAW: Final = 16 * 1024  # bytes of JSON


def fingerprint(usage: Usage) -> str:
    """Equal for equal counts, whatever else the payload said."""
    counts = ",".join(str(getattr(usage, name)) for name in COUNTS)
    return hashlib.sha256(counts.encode()).hexdigest()


def stored(usage: Usage) -> dict[str, Any]:
    """The counts of a usage, as they are kept; with `suspect` where the provider contradicted itself."""
    found: dict[str, Any] = {name: getattr(usage, name) for name in COUNTS}
    return found | {"suspect": True} if usage.suspect else found


def restored(counts: Mapping[str, Any] | None, source: str | None) -> Usage | None:
    """The usage that `stored` was given, without what the provider sent."""
    if counts is None:
        return None
    return Usage(**counts, source="estimate" if source == Source.ESTIMATE else "provider")


def keepable(raw: object) -> Any:
    """What a provider sent, as both engines can keep it: JSON of a bounded size, without the character that
    PostgreSQL has no room for."""
    try:
        text = encode_data(raw)
    except InvalidEvent:
        return {"unreadable": type(raw).__name__}
    if len(text) > _LARGEST_RAW:
        return {"too_large": len(text)}
    return msgspec.json.decode(text.replace(b"\\u0000", b"\\ufffd"))


def check_word(name: str, value: str) -> str:
    """`value` itself when it is a short printable string. Raises InvalidArgument."""
    if not isinstance(value, str) or not 1 <= len(value) <= 256 or not value.isprintable():
        raise InvalidArgument(f"{name} must be 1 to 256 printable characters")
    return value
