"""Values of any kind that clients send and logs hold, as a text, an object, an array or a number."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from unspool.errors import BadRequest, UnspoolError

Json = dict[str, Any]


def as_text(value: object) -> str:
    """A text as it is; anything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def as_object(value: object) -> Json:
    """An object as it is; an empty one for anything else."""
    return cast(Json, value) if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """An array as it is; an empty one for anything else."""
    return cast(list[Any], value) if isinstance(value, list) else []


def whole(
    field: str, text: str, least: int = 0, most: int = 10**15 - 1, refusal: type[UnspoolError] = BadRequest
) -> int:
    """Read a whole number from a header or a query: the digits 0 to 9 alone. Raises `refusal`, naming the field."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    if not least <= number <= most:
        raise refusal(f"{field} must be a whole number from {least} to {most}, not {text[:40]!r}", field=field)
    return number
