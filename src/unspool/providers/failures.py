"""What goes wrong at a provider, as the few codes that a run and its viewers can act upon.

Viewers read fixed sentences: a provider's own text may name keys, accounts and prompts. It stays in the error's cause.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Literal

from unspool.errors import ConfigurationError, RunFailed

Code = Literal[
    "rate_limited",
    "provider_unavailable",
    "authentication",
    "invalid_request",
    "context_length",
    "provider_error",
]

_SAID: Final[dict[Code, tuple[str, bool]]] = {
    "rate_limited": ("The model provider takes no more requests for now; try again later.", True),
    "provider_unavailable": ("The model provider cannot be reached or is overloaded; try again.", True),
    "authentication": ("The model provider refused the credentials of this server.", False),
    "invalid_request": ("The model provider refused the request as not valid.", False),
    "context_length": ("The conversation is longer than the model can read.", False),
    "provider_error": ("The model provider failed to answer.", False),
}
"""What viewers are told of a code, and whether the same request may succeed later."""

_NAMED: Final[dict[str, Code]] = {
    "context_length_exceeded": "context_length",
    "exceed_context_size_error": "context_length",
    "invalid_api_key": "authentication",
    "authentication_error": "authentication",
    "permission_error": "authentication",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "insufficient_quota": "rate_limited",
    "billing_error": "rate_limited",
    "overloaded_error": "provider_unavailable",
    "timeout_error": "provider_unavailable",
    "unavailable_error": "provider_unavailable",
}
"""Error names that say more than the HTTP status."""

_GENERIC: Final[dict[str, Code]] = {
    "invalid_request_error": "invalid_request",
    "not_found_error": "invalid_request",
    "request_too_large": "invalid_request",
    "server_error": "provider_unavailable",
    "api_error": "provider_unavailable",
}
"""Error names that say less than an HTTP status of 400 or more, for failures in the middle of a stream."""

_EXHAUSTED: Final = frozenset({"insufficient_quota", "billing_error"})
_TOO_LONG: Final = re.compile(r"context (length|window|limit|size)|maximum context|prompt is too long", re.IGNORECASE)
_STATUSES: Final[dict[int, Code]] = {
    HTTPStatus.UNAUTHORIZED: "authentication",
    HTTPStatus.PAYMENT_REQUIRED: "rate_limited",
    HTTPStatus.FORBIDDEN: "authentication",
    HTTPStatus.REQUEST_TIMEOUT: "provider_unavailable",
    HTTPStatus.CONFLICT: "provider_unavailable",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
}


def failure(code: Code, message: str | None = None, *, retryable: bool | None = None) -> RunFailed:
    """The error of a failed call, with the sentence and the verdict of its code unless others are given."""
    said, may_retry = _SAID[code]
    return RunFailed(message or said, code=code, retryable=may_retry if retryable is None else retryable)


def classify(*, status: int | None = None, names: Iterable[object] = (), message: str = "") -> RunFailed:
    """The error for what a provider answered: its HTTP status, its own names for the error, and its text.

    `status` is None or below 400 for a failure in the middle of a stream. Names that are numbers count as a status,
    as relays send them.
    """
    words = [str(name) for name in names if name is not None]
    statuses = [status or 0, *(int(word) for word in words if word.isdecimal() and len(word) == len("500"))]
    code = _code(max(statuses), words, message)
    exhausted = HTTPStatus.PAYMENT_REQUIRED in statuses or not _EXHAUSTED.isdisjoint(words)
    return failure(code, retryable=False if exhausted else None)


def _code(status: int, words: list[str], message: str) -> Code:
    for word in words:
        if word in _NAMED:
            return _NAMED[word]
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in _STATUSES and _TOO_LONG.search(message):
        return "context_length"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "provider_unavailable"
    if status >= HTTPStatus.BAD_REQUEST:
        return _STATUSES.get(status, "invalid_request")
    for word in words:
        if word in _GENERIC:
            return _GENERIC[word]
    return "provider_error"


def missing_extra(extra: str, package: str, hint: str = "") -> ConfigurationError:
    """The error for an extra that is not installed: names it and how to install it."""
    return ConfigurationError(
        f"{package} is not installed; install it with: pip install 'unspool[{extra}]'{hint}", extra=extra
    )
