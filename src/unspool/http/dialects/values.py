"""What clients send and logs hold, whatever it is: as a text, as an object, as an array, as a number."""

from __future__ import annotations

from typing import Any, cast

import msgspec

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


def as_number(text: str) -> int | None:
    """A whole number, as it stands in a header or a query; None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
