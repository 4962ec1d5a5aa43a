"""Reading what a provider sent: it has the expected shape, or the call fails with RunFailed; null counts as absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from unspool.errors import RunFailed
from unspool.providers.failures import failure

Json = Mapping[str, Any]


def unreadable() -> RunFailed:
    """The error for an answer that makes no sense."""
    return failure("provider_error", "The model provider's answer cannot be read.")


def an_object(value: object) -> Json:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise unreadable()
    return cast(Json, value)


def objects(value: object) -> list[Json]:
    """An array of objects."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise unreadable()
    return [an_object(item) for item in cast("list[object]", value)]


def text(value: object) -> str:
    """A piece of text, which may end in the middle of a character."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise unreadable()
    return value


def name(value: object) -> str | None:
    """A word: an id, a name, a reason. None where it is absent or empty."""
    return text(value).encode(errors="replace").decode() or None


def place(value: object) -> int | str | None:
    """What a provider numbers things by."""
    if value is not None and not isinstance(value, int | str):
        raise unreadable()
    return value


def json_text(value: object) -> str:
    """JSON as text: providers send it in a string, and a few imitators the value itself."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise unreadable() from error
