"""Pages of other origins, and what a browser says of them: one check for every route that changes something.

A browser lets any page send some requests to any server, and adds the cookies of its user, or is on the machine that
alone may reach the server. It says which page it was, in `Sec-Fetch-Site` or in `Origin`; others say neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any, Final, TypeVar

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from unspool.errors import ConfigurationError, ForeignOrigin
from unspool.http.problem import Shape, problem

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_AMBIENT: Final = frozenset({"", "basic", "digest", "negotiate", "ntlm"})
"""Schemes of `Authorization` that a browser adds by itself; a page that adds another one is asked about first."""
_ORIGIN: Final = re.compile(r"(https?)://[^/\s?#@]+")
_USUAL_PORT: Final = {"http": ":80", "https": ":443"}
_BAD_HANDSHAKE: Final = 1008


def origins_of(given: Collection[str]) -> frozenset[str]:
    """The origins whose pages may change things, as browsers write them; "*" is any. One may be given as a string.

    Raises ConfigurationError for what is no origin.
    """
    return frozenset(map(_as_sent, (given,) if isinstance(given, str) else given))


def _as_sent(given: str) -> str:
    found = _ORIGIN.fullmatch(given.lower())
    if found is not None:
        return found[0].removesuffix(_USUAL_PORT[found[1]])
    if given == "*":
        return given
    raise ConfigurationError(
        f"allowed_origins: {given!r} is no origin; write scheme and host, and the port where it is not the "
        "usual one, as in https://app.example or http://localhost:5173; no path, no slash at the end"
    )


def refuse_foreign(request: HTTPConnection, allowed: Collection[str]) -> None:
    """Raise ForeignOrigin for what a page of another origin sent that is not allowed.

    A request with a credential that a page can add only after the browser has asked this server passes, and one that
    says nothing of a page: it comes from no browser.
    """
    headers = request.headers
    if headers.get("authorization", "").partition(" ")[0].lower() not in _AMBIENT or "x-api-key" in headers:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if "*" in allowed or (origin or "").lower() in allowed or site in ("same-origin", "none"):
        return
    if site is None:
        hosts = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
        own = {host.strip().lower() for host in hosts} - {""}
        if origin is None or origin.partition("://")[2].lower() in own:
            return
    field, value = ("Origin", origin) if site is None else ("Sec-Fetch-Site", site)
    page = origin if origin not in (None, "null") else "https://your.page"
    raise ForeignOrigin(
        f"{field}: {value} says that a page of another origin sent this, and it may change nothing here. Where the "
        f"page is yours, name its origin: allowed_origins=[{page!r}], or unspool serve --allow-origin {page}",
        field=field,
    )


R = TypeVar("R", bound=BaseRoute)


def guard(routes: Iterable[R], allowed: Collection[str], shape: Shape = problem) -> list[R]:
    """The routes behind the check: WebSockets, and all requests but those that read. One that is behind it already
    stays as it is. `shape`: that of a refusal."""
    guarded = list(routes)
    for route in guarded:
        if isinstance(route, Route | WebSocketRoute) and not isinstance(route.app, _Guarded):
            # FastAPI includes a route by its endpoint, Starlette calls its app.
            route.app = route.endpoint = _Guarded(route.app, allowed, shape)
    return guarded


class _Guarded:
    """A route's application behind the check."""

    def __init__(self, app: ASGIApp, allowed: Collection[str], shape: Shape) -> None:
        self._app = app
        self._allowed = allowed
        self._shape = shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") not in _READING:
            try:
                refuse_foreign(HTTPConnection(scope), self._allowed)
            except ForeignOrigin as error:
                await self._refuse(self._shape(error), scope, receive, send)
                return
        await self._app(scope, receive, send)

    @staticmethod
    async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or close a handshake where the server has no way to answer it."""
        extensions: dict[str, Any] = scope.get("extensions") or {}
        if scope["type"] == "websocket" and "websocket.http.response" not in extensions:
            await send({"type": "websocket.close", "code": _BAD_HANDSHAKE})
        else:
            await response(scope, receive, send)
