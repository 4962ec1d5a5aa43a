"""Values of any kind that clients send and logs hold, as a text, an object or an array."""

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
