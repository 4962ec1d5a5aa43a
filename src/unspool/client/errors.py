"""What can go wrong between a client and a server.

A refusal is the error that the server itself had raised, so that a program keeps its `except` when it moves from the
library to the client: NotFound, Gone, GenerationConflict, InvalidArgument … Three more are a client's own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final

from unspool import errors
from unspool.errors import UnspoolError

_RETRYABLE: Final = (408, 425, 429)
_LONGEST: Final = 60.0


class Unreachable(UnspoolError):
    """The server gave no answer, or broke off in the middle of one."""

    code, status = "unreachable", 503


class UnexpectedAnswer(UnspoolError):
    """The answer is not one of unspool's: is this the address of a server?"""

    code, status = "unexpected_answer", 502


class Refused(UnspoolError):
    """The server refused, for a reason that this version of the client does not know: see `details`."""

    code, status = "refused", 400


_KNOWN: Final[Mapping[str, type[UnspoolError]]] = {
    known.code: known
    for _, known in inspect.getmembers(errors, inspect.isclass)
    if issubclass(known, UnspoolError) and known is not errors.RunFailed
}


def error_of(url: str, status: int, phrase: str, headers: Mapping[str, str], body: bytes) -> UnspoolError:
    """The error that a response means. `details` has all that the server said, and its `http_status`."""
    more: dict[str, Any] = {"http_status": status, "retry_after": seconds_of(headers.get("retry-after", ""))}
    try:
        problem: object = json.loads(body)
    except (ValueError, RecursionError):
        problem = None
    if not isinstance(problem, dict):
        return UnexpectedAnswer(f"{url} answered {status} {phrase}: is this an unspool server?", **more)
    told: dict[str, Any] = {str(name): value for name, value in problem.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    message = str(told.pop("detail", None) or told.pop("title", None) or f"the server answered {status}")
    kind = _KNOWN.get(str(told.get("code")), Refused)
    return kind(" ".join(message.split()), **{**told, **more})


def seconds_of(retry_after: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; at most a minute."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST)
    try:
        return min(max(parsedate_to_datetime(text).timestamp() - time(), 0.0), _LONGEST)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def retryable(error: UnspoolError) -> bool:
    """Whether the same request may do better a little later."""
    if isinstance(error, Unreachable):
        return True
    status = error.details.get("http_status", 0)
    return status in _RETRYABLE or status >= 500
