"""An application behind a middleware that hides how a response ends, whose viewers are let go when it is asked to."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from unspool import GenerationManager
from unspool.http import StartRequest, create_app
from unspool.producer import Generation


async def answer(gen: Generation, request: StartRequest) -> None:
    await gen.text("begun")
    await asyncio.Event().wait()


async def passing(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


async def release(request: Request) -> Response:
    manager.replica.release_viewers()
    return Response()


manager = GenerationManager()
inner = create_app(manager, run=answer, page=False)
wrapped = Starlette(routes=[Mount("/", inner)], middleware=[Middleware(BaseHTTPMiddleware, dispatch=passing)])
app = Starlette(
    routes=[Route("/release", release, methods=["POST"]), Mount("/wrapped", wrapped), Mount("/", inner)],
    lifespan=inner.router.lifespan_context,
)
