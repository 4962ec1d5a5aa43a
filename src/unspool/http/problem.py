"""Errors as problem JSON (RFC 9457): every refusal says what is wrong, in which field, and what to do."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from unspool.errors import UnspoolError

Handler = Callable[[Request], Awaitable[Response]]
Shape = Callable[[UnspoolError], Response]
"""The response for an error, as the clients of one protocol know it."""


def problem(error: UnspoolError) -> Response:
    """The response for an error."""
    title = inspect.cleandoc(type(error).__doc__ or "").partition("\n")[0]
    return _response(error.status, title, error.message, error.code, refusal_headers(error.status), error.details)


def refusal_headers(status: int) -> dict[str, str]:
    """What a refusal with this status says in its headers, in whatever shape its body is."""
    if status in (429, 503):
        return {"retry-after": "1"}
    return {"www-authenticate": "Bearer"} if status == 401 else {}


def http_problem(_: Request, error: Exception) -> Response:
    """The response for what the router itself refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    code = phrase.lower().replace(" ", "_")
    return _response(error.status_code, phrase, error.detail, code, dict(error.headers or {}), {})


def _response(
    status: int, title: str, detail: str, code: str, headers: dict[str, str], details: dict[str, Any]
) -> Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code, **details}
    return Response(msgspec.json.encode(body), status, headers, media_type="application/problem+json")


def answering(handler: Handler, shape: Shape = problem) -> Handler:
    """A handler whose UnspoolErrors become problem JSON, or another shape."""

    @wraps(handler)
    async def wrapped(request: Request) -> Response:
        try:
            return await handler(request)
        except UnspoolError as error:
            return shape(error)

    return wrapped
