"""The whole server as one ASGI application: the native dialect, health, the OpenAPI document, the chat page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from unspool.errors import StoreUnavailable
from unspool.http.auth import Authenticate
from unspool.http.dialects.durable_wire import EXPOSED
from unspool.http.door import Answer, Door
from unspool.http.metrics import metrics
from unspool.http.openapi import document
from unspool.http.problem import http_problem, problem
from unspool.http.pump import DEFAULTS, StreamOptions
from unspool.http.routes import router_of
from unspool.manager import GenerationManager

WEB: Final = Path(__file__).parent.parent / "web"
CLIENT: Final = next(
    (path for path in (WEB / "client", WEB.parents[2] / "clients/js/src") if path.is_dir()), WEB / "client"
)
"""The JavaScript client that the page is made with: a wheel carries it beside the page, a checkout in its own place."""

_EXPOSED: Final = (
    "Content-Location", "Retry-After", "WWW-Authenticate", "X-Should-Retry", "X-Unspool-Generation",
    "X-Unspool-Log", "X-Unspool-Stream", "X-Vercel-AI-UI-Message-Stream", "X-Workflow-Run-Id",
    "X-Workflow-Stream-Tail-Index", EXPOSED,
)  # fmt: skip
"""Headers of our answers that pages of other origins may read: by name, since "*" is the name of one where the page
sends the user's cookies."""

_PING: Final = 1.0  # seconds in which the store must answer a probe

_PAGE_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


def create_app(
    manager: GenerationManager,
    *,
    run: Answer,
    dialects: Collection[str] | None = None,
    resumable: str | None = None,
    authenticate: Authenticate | None = None,
    account: str | None = None,
    page: bool = True,
    about: Mapping[str, Any] | None = None,
    allowed_hosts: list[str] | None = None,
    stream_options: StreamOptions = DEFAULTS,
    max_body: int | None = None,
    models: Sequence[str] = (),
    allowed_origins: Collection[str] = (),
) -> Starlette:
    """An application that owns the manager: it starts and stops with it. What is not told here is told for `router`.

    `page`: with the chat page at `/`. `about`: what `/about` tells it (model, note). `allowed_hosts`: the Host headers
    that are answered; an unauthenticated server names its own, so that a foreign page cannot reach it under a name of
    its choice. `allowed_origins`: as for `router`; here it also lets their pages read the answers (CORS), with the
    user's cookies unless it is "*".
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None, None]:
        async with manager:
            yield

    async def healthz(_: Request) -> Response:
        return _json({"status": "ok"})

    async def readyz(_: Request) -> Response:
        try:
            async with asyncio.timeout(_PING):
                await manager.store.ping()
        except StoreUnavailable as error:
            return problem(error)
        except TimeoutError:
            return problem(StoreUnavailable(f"the store does not answer within {_PING:g} s"))
        if manager.closing:
            return _json({"status": "closing"}, 503)
        ledger = await manager.billing.state()  # which runs can do without: it is told, and decides nothing
        told = {} if ledger is None else {"ledger": ledger}
        return _json({"status": "ready", "store": manager.store.kind, **told})

    async def tell_about(_: Request) -> Response:
        known = {"name": "unspool", "version": version("unspool"), "model": None, "note": None}
        return _json({**known, **(about or {}), "auth": authenticate is not None})

    async def openapi(_: Request) -> Response:
        return _json(document(bearer=authenticate is not None, ledger=manager.billing.ledger is not None))

    door = Door(
        manager, run, resumable=resumable, authenticate=authenticate, account=account, stream_options=stream_options,
        max_body=max_body, models=models, allowed_origins=allowed_origins,
    )  # fmt: skip
    routes: list[BaseRoute] = [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/about", tell_about),
        Route("/openapi.json", openapi),
        Route("/metrics", metrics(manager)),
        *router_of(door, dialects).routes,
    ]
    if page:
        routes.append(Route("/", _page))
        routes.append(Mount("/static/client", _Static(directory=CLIENT)))
        routes.append(Mount("/static", _Static(directory=WEB)))
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=allowed_hosts)] if allowed_hosts else []
    if door.allowed_origins:
        middleware.append(
            Middleware(
                CORSMiddleware, allow_origins=sorted(door.allowed_origins), allow_methods=["*"], allow_headers=["*"],
                allow_credentials="*" not in door.allowed_origins, expose_headers=_EXPOSED,
            )
        )  # fmt: skip
    app = Starlette(
        routes=routes, lifespan=lifespan, middleware=middleware, exception_handlers={HTTPException: http_problem}
    )
    app.state.manager = manager
    return app


async def _page(_: Request) -> Response:
    return FileResponse(WEB / "index.html", headers=_PAGE_HEADERS)


class _Static(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(_PAGE_HEADERS)
        return response


def _json(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, {"cache-control": "no-store"}, media_type="application/json")
